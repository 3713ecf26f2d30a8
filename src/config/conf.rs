//! A `.conf` file with all that it includes: as a stream of events, or as a tree.
//!
//! The stream serves files of a million sections, the tree all others. Both keep file and line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lines::{Kind, Lines, trim};
use super::nearest::hint;
use super::replace::replace;
use super::values::{lossy, parse_bool};
use super::{Findings, Place};

/// How deep files may include each other; Yate's bound.
pub const MAX_INCLUDE_DEPTH: usize = 10;

/// The directives a file may hold.
const DIRECTIVES: [&str; 7] = [
    "$enabled",
    "$include",
    "$includesection",
    "$includesectionsilent",
    "$includesilent",
    "$require",
    "$requiresection",
];

/// Yate's modules whose work this program does: `[$enabled $loaded NAME]` holds for them.
const LOADED: [&str; 4] = ["extmodule", "regfile", "register", "ysipchan"];

/// What a file and its includes say, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `key=value` in the section last named.
    Key {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Whether the line has no `=`.
        is_bare: bool,
    },
    /// The section goes on, after an include that ended in another one.
    Return(&'a [u8]),
    /// A section starts, or goes on.
    Section(&'a [u8]),
    /// The keys of another section are to stand here, once all is read.
    Splice(Splice<'a>),
}

/// `[$includesection NAME]` and its siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice<'a> {
    /// The section whose keys are wanted.
    pub from: Cow<'a, [u8]>,
    /// What its absence means.
    pub absent: Absent,
}

/// What it means when something included isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An error.
    Error,
    /// Nothing.
    Silence,
    /// A warning.
    Warning,
}

/// Where an event was read; cheap to make, unlike a [`Place`].
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    file: &'a Arc<Path>,
    line: u32,
}

impl At<'_> {
    /// The place, for a message or a tree.
    pub fn place(self) -> Place {
        Place { file: Arc::clone(self.file), line: self.line }
    }
}

/// Reads `path` and what it includes and tells `sink` each event.
///
/// What can't be understood goes to `findings`, and reading goes on. Returns whether the file
/// exists; only `path` itself may be missing without a finding.
pub fn stream(
    path: &Path,
    findings: &mut Findings,
    sink: &mut dyn FnMut(&mut Findings, At<'_>, Event<'_>),
) -> bool {
    let folder = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
    let mut reader = Reader { folder, open: Vec::new(), findings, sink };
    match reader.file(path, &mut Vec::new()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            let place = Place::of_file(path);
            reader.findings.error(place, format!("can't be read: {error}"));
            true
        }
    }
}

struct Reader<'r> {
    /// What `${configpath}` stands for.
    folder: PathBuf,
    /// The files being read, each included by the one before.
    open: Vec<PathBuf>,
    findings: &'r mut Findings,
    sink: &'r mut dyn FnMut(&mut Findings, At<'_>, Event<'_>),
}

impl Reader<'_> {
    /// Reads one file, which starts in `section`. An error is one of opening it.
    fn file(&mut self, path: &Path, section: &mut Vec<u8>) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        self.open.push(path.canonicalize()?);
        self.findings.files.push(path.to_owned());
        self.lines(path, &bytes, section);
        self.open.pop();
        Ok(())
    }

    /// Reads the lines of a file.
    fn lines(&mut self, path: &Path, bytes: &[u8], section: &mut Vec<u8>) {
        let file: Arc<Path> = path.into();
        let mut enabled = true;
        for line in Lines::new(bytes) {
            let at = At { file: &file, line: line.number };
            match line.kind {
                Kind::Directive { word: b"$enabled", argument } => {
                    enabled = self.condition(at, argument, enabled);
                }
                Kind::Broken(broken) => self.findings.error(at.place(), broken.to_string()),
                _ if !enabled => {}
                Kind::Directive { word, argument } => self.directive(at, word, argument, section),
                Kind::Key { key, .. } if section.is_empty() => {
                    let what = format!("the key {} stands before any [section]", lossy(key));
                    self.findings.error(at.place(), what);
                }
                Kind::Key { key, value, is_bare } => {
                    (self.sink)(self.findings, at, Event::Key { key, value: &value, is_bare });
                }
                Kind::Section(name) => {
                    let name = self.replaced(name);
                    if name.is_empty() {
                        let what = "the section has no name once its ${} are replaced";
                        self.findings.error(at.place(), what);
                        continue;
                    }
                    section.clear();
                    section.extend_from_slice(&name);
                    (self.sink)(self.findings, at, Event::Section(&name));
                }
            }
        }
    }

    /// `text` with `${configpath}` replaced; other names aren't known to us and become their
    /// default.
    fn replaced<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        replace(text, |name| {
            (name == b"configpath").then(|| self.folder.as_os_str().as_encoded_bytes().into())
        })
    }

    /// Whether the lines after `[$enabled argument]` count. Blocks don't nest: each such line ends
    /// the one before, and the end of the file the last.
    fn condition(&mut self, at: At<'_>, argument: &[u8], enabled: bool) -> bool {
        let argument = self.replaced(argument);
        let mut rest = trim(&argument);
        if matches!(rest, b"else" | b"toggle") {
            return !enabled;
        }
        if let Some(condition) = after_word(rest, b"elseif") {
            if enabled {
                return false;
            }
            rest = condition;
        }
        let negated = after_word(rest, b"$not");
        rest = negated.unwrap_or(rest);
        let holds = if let Some(module) = after_word(rest, b"$loaded") {
            LOADED.iter().any(|loaded| loaded.as_bytes() == module)
        } else if let Some(module) = after_word(rest, b"$unloaded") {
            !LOADED.iter().any(|loaded| loaded.as_bytes() == module)
        } else if let Some(text) = after_word(rest, b"$filled") {
            !text.is_empty()
        } else if let Some(text) = after_word(rest, b"$empty") {
            text.is_empty()
        } else if let Some(text) = after_word(rest, b"$bool") {
            parse_bool(text).unwrap_or(false)
        } else if let Some(value) = parse_bool(rest) {
            value
        } else {
            let what = format!(
                "[$enabled {}]: expected yes, no, else, toggle, elseif, $not, $loaded, $unloaded, \
                 $filled, $empty or $bool",
                lossy(rest)
            );
            self.findings.error(at.place(), what);
            true
        };
        holds != negated.is_some()
    }

    fn directive(&mut self, at: At<'_>, word: &[u8], argument: &[u8], section: &[u8]) {
        let argument = self.replaced(argument);
        let absent = match word {
            b"$include" | b"$includesection" => Absent::Warning,
            b"$includesilent" | b"$includesectionsilent" => Absent::Silence,
            b"$require" | b"$requiresection" => Absent::Error,
            _ => {
                let word = lossy(word);
                let what = format!("unknown directive {word}{}", hint(&word, DIRECTIVES));
                return self.findings.error(at.place(), what);
            }
        };
        if argument.is_empty() {
            return self.findings.error(at.place(), format!("{} names nothing", lossy(word)));
        }
        if !word.ends_with(b"section") && word != b"$includesectionsilent" {
            return self.include(at, Path::new(&*lossy(&argument)), absent, section);
        }
        if section.is_empty() {
            let what = format!("{} stands before any [section]", lossy(word));
            return self.findings.error(at.place(), what);
        }
        let splice = Splice { from: argument, absent };
        (self.sink)(self.findings, at, Event::Splice(splice));
    }

    /// Reads a file, or all files of a folder, where an include stands.
    fn include(&mut self, at: At<'_>, wanted: &Path, absent: Absent, section: &[u8]) {
        let path = at.file.parent().unwrap_or_else(|| Path::new("")).join(wanted);
        let files = if path.is_dir() { folder_files(&path) } else { Ok(vec![path.clone()]) };
        let files = match files {
            Ok(files) => files,
            Err(error) => return self.absent(at, &path, absent, &error),
        };
        for file in files {
            if self.open.len() >= MAX_INCLUDE_DEPTH {
                let what = format!(
                    "{} is not included: includes may be {MAX_INCLUDE_DEPTH} deep",
                    file.display()
                );
                return self.findings.error(at.place(), what);
            }
            if file.canonicalize().is_ok_and(|file| self.open.contains(&file)) {
                let what = format!("{} includes itself", file.display());
                return self.findings.error(at.place(), what);
            }
            let mut inner = section.to_vec();
            if let Err(error) = self.file(&file, &mut inner) {
                self.absent(at, &file, absent, &error);
            }
            if inner != section && !section.is_empty() {
                (self.sink)(self.findings, at, Event::Return(section));
            }
        }
    }

    fn absent(&mut self, at: At<'_>, path: &Path, absent: Absent, error: &io::Error) {
        let what = format!("{} can't be read: {error}", path.display());
        match absent {
            Absent::Error => self.findings.error(at.place(), what),
            Absent::Silence => {}
            Absent::Warning => self.findings.warning(at.place(), what),
        }
    }
}

/// The files of a folder in the order of their names, without hidden ones and editors' leavings.
fn folder_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let passed_over = name.starts_with(b".")
            || [&b"~"[..], b".bak", b".tmp"].iter().any(|end| name.ends_with(end));
        if !passed_over && !entry.path().is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// What follows `word` in `text`, if `text` starts with it as a whole word.
fn after_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let rest = text.strip_prefix(word)?;
    matches!(rest.first(), None | Some(b' ' | b'\t')).then(|| trim(rest))
}

/// A file and its includes as a tree: sections in the order of their first appearance.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    sections: Vec<Section>,
    index: HashMap<Box<[u8]>, usize>,
}

/// A section, with the keys of all places where it was opened.
#[derive(Clone, Debug)]
pub struct Section {
    /// The name, trimmed.
    pub name: Box<[u8]>,
    /// Where it was opened first.
    pub place: Place,
    /// The keys in order, duplicates included.
    pub keys: Vec<Key>,
}

/// A `key=value`.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key.
    pub key: Box<[u8]>,
    /// The value.
    pub value: Box<[u8]>,
    /// Where it stands.
    pub place: Place,
}

impl Conf {
    /// Reads `path` and all that it includes; `None` if there is no such file.
    pub fn read(path: &Path, findings: &mut Findings) -> Option<Self> {
        let mut exists = false;
        let conf = Self::build(findings, |findings, sink| exists = stream(path, findings, sink));
        exists.then_some(conf)
    }

    /// Reads text that is built in, and called `name`.
    pub fn parse(name: &Path, text: &[u8], findings: &mut Findings) -> Self {
        Self::build(findings, |findings, sink| {
            let mut reader = Reader { folder: PathBuf::new(), open: Vec::new(), findings, sink };
            reader.lines(name, text, &mut Vec::new());
        })
    }

    fn build(
        findings: &mut Findings,
        read: impl FnOnce(&mut Findings, &mut dyn FnMut(&mut Findings, At<'_>, Event<'_>)),
    ) -> Self {
        let mut conf = Self::default();
        let mut current = 0;
        let mut splices = Vec::new();
        read(findings, &mut |_, at, event| match event {
            Event::Return(name) | Event::Section(name) => current = conf.open(name, at),
            Event::Key { key, value, .. } => {
                if let Some(section) = conf.sections.get_mut(current) {
                    section.keys.push(Key {
                        key: key.into(),
                        value: value.into(),
                        place: at.place(),
                    });
                }
            }
            Event::Splice(Splice { from, absent }) => {
                let position = conf.sections.get(current).map_or(0, |section| section.keys.len());
                splices.push(Wanted {
                    from: from.into(),
                    absent,
                    into: current,
                    position,
                    place: at.place(),
                });
            }
        });
        conf.splice(splices, findings);
        conf
    }

    /// The section with this name.
    pub fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.get(*self.index.get(name)?)
    }

    /// All sections, in the order in which they were first opened.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    fn open(&mut self, name: &[u8], at: At<'_>) -> usize {
        if let Some(known) = self.index.get(name) {
            return *known;
        }
        let position = self.sections.len();
        self.sections.push(Section { name: name.into(), place: at.place(), keys: Vec::new() });
        self.index.insert(name.into(), position);
        position
    }

    /// Puts the keys of sections where `[$includesection]` wants them. They are taken as the files
    /// give them: a section that is itself spliced into is no source, so nothing can go in circles.
    fn splice(&mut self, wanted: Vec<Wanted>, findings: &mut Findings) {
        let targets: Vec<usize> = wanted.iter().map(|wanted| wanted.into).collect();
        // From the last to the first, so that earlier positions stay what they are.
        for wanted in wanted.into_iter().rev() {
            let what = match self.index.get(&wanted.from) {
                Some(source) if targets.contains(source) => {
                    let what = "itself includes a section, which is not supported";
                    findings.error(wanted.place, format!("[{}] {what}", lossy(&wanted.from)));
                    continue;
                }
                Some(source) => {
                    let keys = self.sections.get(*source).map(|source| source.keys.clone());
                    if let (Some(keys), Some(into)) = (keys, self.sections.get_mut(wanted.into)) {
                        into.keys.splice(wanted.position..wanted.position, keys);
                    }
                    continue;
                }
                None => format!("there is no section [{}] to include", lossy(&wanted.from)),
            };
            match wanted.absent {
                Absent::Error => findings.error(wanted.place, what),
                Absent::Silence => {}
                Absent::Warning => findings.warning(wanted.place, what),
            }
        }
    }
}

/// A splice to be done once all is read.
struct Wanted {
    from: Box<[u8]>,
    absent: Absent,
    into: usize,
    position: usize,
    place: Place,
}

impl Section {
    /// The first value of `key`, as Yate looks it up.
    pub fn first(&self, key: &[u8]) -> Option<&Key> {
        self.keys.iter().find(|candidate| &*candidate.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `main.conf` of a folder with these files; findings name files without the folder.
    fn read(files: &[(&str, &str)]) -> (String, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut findings = Findings::default();
        let conf = Conf::read(&folder.path().join("main.conf"), &mut findings);
        let mut out = String::new();
        for section in conf.unwrap_or_default().sections() {
            out += &format!("[{}]", lossy(&section.name));
            for key in &section.keys {
                out += &format!(" {}={}", lossy(&key.key), lossy(&key.value));
            }
            out.push('\n');
        }
        let prefix = format!("{}/", folder.path().display());
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        (out, errors.chain(warnings).map(|line| line.replace(&prefix, "")).collect())
    }

    #[test]
    fn sections_merge_and_duplicates_stay() {
        let (tree, findings) =
            read(&[("main.conf", "[a]\nk=1\n[b]\nk=2\n[a]\nk=3\nl\n[c]\n[A]\n")]);
        assert_eq!(tree, "[a] k=1 k=3 l=\n[b] k=2\n[c]\n[A]\n");
        assert_eq!(findings, [""; 0]);
    }

    #[test]
    fn lines_that_yate_skips_in_silence_are_errors() {
        let (tree, findings) = read(&[("main.conf", "k=1\n[a\nl=1\n[a]\n=x\n[]\n[$incldue x]\n")]);
        assert_eq!(tree, "[a]\n");
        assert_eq!(
            findings,
            [
                "error main.conf:1: the key k stands before any [section]",
                "error main.conf:2: `[` without `]`",
                "error main.conf:3: the key l stands before any [section]",
                "error main.conf:5: no key before the `=`",
                "error main.conf:6: the section has no name",
                "error main.conf:7: unknown directive $incldue: did you mean $include?",
            ]
        );
    }

    #[test]
    fn includes_go_on_in_the_section_and_return_to_it() {
        let (tree, findings) = read(&[
            ("main.conf", "[a]\n[$include sub/b.conf]\nk=3\n[$include sub]\n"),
            ("sub/b.conf", "k=1\n[b]\nk=2\n[$include ../c.conf]"),
            ("sub/a.conf", "[z]\n"),
            ("sub/.hidden", "[hidden]\n"),
            ("sub/b.conf~", "[backup]\n"),
            ("sub/b.bak", "[backup]\n"),
            ("c.conf", "l=${configpath}"),
        ]);
        assert_eq!(tree, "[a] k=1 k=3 k=1\n[b] k=2 l=${configpath} k=2 l=${configpath}\n[z]\n");
        assert_eq!(findings, [""; 0]);
    }

    #[test]
    fn what_cannot_be_included_is_told() {
        let (_, findings) = read(&[
            (
                "main.conf",
                "[$include none]\n[$includesilent none]\n[$require ${configpath}/no]\n\
                 [$include main.conf]\n[$include ]\n[$include loop]\n",
            ),
            ("loop", "[x]\n[$include loop2]"),
            ("loop2", "[$require loop]"),
        ]);
        assert_eq!(
            findings,
            [
                "error main.conf:3: no can't be read: No such file or directory (os error 2)",
                "error main.conf:4: main.conf includes itself",
                "error main.conf:5: $include names nothing",
                "error loop2:1: loop includes itself",
                "warning main.conf:1: none can't be read: No such file or directory (os error 2)",
            ]
        );
    }

    #[test]
    fn includes_are_bounded_in_depth() {
        let files: Vec<(String, String)> = (0..=MAX_INCLUDE_DEPTH)
            .map(|depth| {
                let name = if depth == 0 { "main.conf".into() } else { format!("f{depth}") };
                (name, format!("[$include f{}]\n[s{depth}]\n", depth + 1))
            })
            .collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let (tree, findings) = read(&files);
        assert!(tree.contains("[s9]") && !tree.contains("[s10]"), "{tree}");
        assert_eq!(
            findings,
            ["error f9:1: f10 is not included: includes may be 10 deep".to_owned()]
        );
    }

    #[test]
    fn conditions_switch_lines_on_and_off() {
        let cases = [
            ("yes", true),
            ("off", false),
            ("$not yes", false),
            ("$loaded regfile", true),
            ("$loaded yradius", false),
            ("$unloaded yradius", true),
            ("$not $unloaded yradius", false),
            ("$filled ${configpath}", true),
            ("$filled ${sharedpath}", false),
            ("$empty ${sharedpath}", true),
            ("$bool ${sharedpath}", false),
            ("${sharedpath$no}", false),
        ];
        for (condition, expected) in cases {
            let text = format!("[$enabled {condition}]\n[on]\n[$enabled else]\n[off]\n");
            let (tree, findings) = read(&[("main.conf", &text)]);
            assert_eq!(tree, if expected { "[on]\n" } else { "[off]\n" }, "{condition}");
            assert_eq!(findings, [""; 0]);
        }
        let text = "[$enabled no]\n[a]\n[$enabled elseif yes]\n[b]\n[$enabled elseif yes]\n[c]\n";
        assert_eq!(read(&[("main.conf", text)]).0, "[b]\n");
        let (_, findings) = read(&[("main.conf", "[$enabled maybe]\n")]);
        assert!(findings[0].starts_with("error main.conf:1: [$enabled maybe]: expected yes, no"));
    }

    #[test]
    fn sections_are_spliced_after_all_is_read() {
        let (tree, findings) = read(&[(
            "main.conf",
            "[a]\nk=1\n[$includesection t]\nk=4\n[t]\nk=2\nk=3\n[b]\n[$includesection none]\n\
             [$includesectionsilent none]\n[$requiresection none]\n[$includesection a]\n",
        )]);
        assert_eq!(tree, "[a] k=1 k=2 k=3 k=4\n[t] k=2 k=3\n[b]\n");
        assert_eq!(
            findings,
            [
                "error main.conf:12: [a] itself includes a section, which is not supported",
                "error main.conf:11: there is no section [none] to include",
                "warning main.conf:9: there is no section [none] to include",
            ]
        );
    }

    #[test]
    fn a_missing_file_is_no_finding() {
        let mut findings = Findings::default();
        assert!(Conf::read(Path::new("/nonexistent/main.conf"), &mut findings).is_none());
        assert_eq!(findings, Findings::default());
    }
}
