//! `cdrfile.conf`: the file that records of calls are written to.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Findings;
use super::conf::{Conf, Section};
use super::lenient::Lenient;
use super::nearest::{hint, section_hint};
use super::replace::replace;
use super::values::lossy;

/// The name of the file in the configuration folder.
pub const FILE: &str = "cdrfile.conf";

/// Parameters of `call.cdr`: what `${}` in a format can stand for. With `combined=yes` all of them
/// may have `out_leg.` or `out_leg.N.` before them.
pub const PARAMETERS: [&str; 21] = [
    "time",
    "chan",
    "cdrid",
    "runid",
    "operation",
    "direction",
    "duration",
    "billtime",
    "ringtime",
    "status",
    "external",
    "cdrwrite",
    "billid",
    "reason",
    "address",
    "caller",
    "called",
    "calledfull",
    "username",
    "callid",
    "inuse",
];

/// What `cdrfile.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdrFile {
    /// Where lines are added.
    pub path: PathBuf,
    /// Whether a line is a call with all of its legs, and not one leg.
    pub combined: bool,
    /// What a line looks like.
    pub format: Format,
}

/// What a line of records looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Fields between tabs.
    Tabs,
    /// Fields between commas, text in quotes.
    Commas,
    /// A JSON object with all parameters.
    Json,
    /// This, with `${parameter}` replaced.
    Template(Box<str>),
}

/// Reads `cdrfile.conf` of a folder; `None` if there is none, or it names no file.
pub fn read(folder: &Path, findings: &mut Findings) -> Option<CdrFile> {
    let conf = Conf::read(&folder.join(FILE), findings)?;
    for Section { name, place, .. } in conf.sections() {
        let name = lossy(name);
        if name != "general" {
            let what = format!("unknown section [{name}]{}", section_hint(&name, ["general"]));
            findings.warning(place.clone(), what);
        }
    }
    let mut keys = Lenient::new("general", conf.section(b"general"), findings);
    let path = keys.text("file").map(|path| {
        let path = replace(path.as_bytes(), |name| {
            (name == b"configpath").then(|| folder.as_os_str().as_encoded_bytes().into())
        });
        folder.join(&*lossy(&path))
    });
    if let Some(Err(lack)) = path.as_deref().map(writable) {
        keys.warn("file", &format!("expected a file that can be written, {lack}"));
    }
    let combined = keys.flag("combined", false);
    let tabs = keys.flag("tabs", true);
    let format = match keys.text("format") {
        Some("json") => Format::Json,
        Some(template) => Format::Template(template.into()),
        None if tabs => Format::Tabs,
        None => Format::Commas,
    };
    if let Format::Template(template) = &format {
        for what in doubts(template, combined) {
            keys.warn("format", &what);
        }
    }
    if path.is_none() && keys.any_is_written() {
        keys.warn("file", "is missing: no records are written");
    }
    keys.finish();
    Some(CdrFile { path: path?, combined, format })
}

/// Whether lines can be added to a file, or it can be made, by who runs this.
fn writable(path: &Path) -> Result<(), String> {
    let fault = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let folder = path.parent().unwrap_or(path);
    let (what, rights) = match path.metadata() {
        Ok(found) if found.is_dir() => return Err(fault(path, &"it is a folder")),
        Ok(_) => (path, Access::WRITE_OK),
        Err(_) => (folder, Access::WRITE_OK | Access::EXEC_OK),
    };
    if what == folder && folder.metadata().is_ok_and(|found| !found.is_dir()) {
        return Err(fault(folder, &"it is no folder"));
    }
    access(what, rights).map_err(|error| fault(what, &std::io::Error::from(error)))
}

/// What is odd about a template.
fn doubts(template: &str, combined: bool) -> Vec<String> {
    let mut doubts = Vec::new();
    let mut any = false;
    let end = replace(template.as_bytes(), |name| {
        any = true;
        let name = lossy(name);
        if !is_parameter(&name, combined) {
            let hint = if is_parameter(&name, true) {
                " without combined=yes".to_owned()
            } else {
                hint(&name, PARAMETERS)
            };
            doubts.push(format!("there is no ${{{name}}}{hint}"));
        }
        // What is left is text, in which a further `${` has no end.
        Some(b"".into())
    });
    if lossy(&end).contains("${") {
        doubts.push("`${` without `}`".to_owned());
    } else if !any {
        doubts.push("no ${parameter} in it, so all lines are the same".to_owned());
    }
    doubts
}

fn is_parameter(name: &str, combined: bool) -> bool {
    let of_leg = name.strip_prefix("out_leg.").filter(|_| combined);
    let of_leg = of_leg.map(|name| match name.split_once('.') {
        Some((number, name)) if number.parse::<u32>().is_ok() => name,
        _ => name,
    });
    PARAMETERS.contains(&of_leg.unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Option<CdrFile>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let mut findings = Findings::default();
        let file = read(folder.path(), &mut findings);
        let prefix = format!("{}/", folder.path().display());
        let all = findings.errors.iter().chain(&findings.warnings);
        (file, all.map(|fault| fault.to_string().replace(&prefix, "")).collect())
    }

    #[test]
    fn yates_file_as_it_is() {
        let file = |format| CdrFile { path: "/tmp/cdr".into(), combined: false, format };
        for (text, expected) in [
            ("file=/tmp/cdr", Some(file(Format::Tabs))),
            ("file=/tmp/cdr\ntabs=false", Some(file(Format::Commas))),
            ("file=/tmp/cdr\nformat=json", Some(file(Format::Json))),
            (
                "file=/tmp/cdr\nformat=${time} ${caller}",
                Some(file(Format::Template("${time} ${caller}".into()))),
            ),
            ("file=/tmp/cdr\ncombined=yes", Some(CdrFile { combined: true, ..file(Format::Tabs) })),
            ("", None),
        ] {
            let (read, findings) = read_text(&format!("[general]\n{text}\n"));
            assert_eq!((read, findings), (expected, vec![]), "{text}");
        }
    }

    #[test]
    fn what_nobody_knows_is_told() {
        let (_, findings) = read_text("[general]\nfiel=x\n[genral]\n");
        assert_eq!(
            findings,
            [
                "cdrfile.conf:3: unknown section [genral]: did you mean [general]?",
                "cdrfile.conf:1: [general] file: is missing: no records are written",
                "cdrfile.conf:2: [general] unknown key fiel: did you mean file?",
            ]
        );
    }

    #[test]
    fn a_relative_file_is_in_the_folder_of_the_configuration() {
        let (file, findings) = read_text("[general]\nfile=cdr.tsv\n");
        let path = file.unwrap().path;
        assert!(path.is_absolute() && path.ends_with("cdr.tsv"), "{}", path.display());
        assert_eq!(findings, [""; 0]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() {
        let expected = |what| {
            vec![format!(
                "cdrfile.conf:2: [general] file: expected a file that can be written, {what}"
            )]
        };
        let none = "none: No such file or directory (os error 2)";
        assert_eq!(read_text("[general]\nfile=none/cdr\n").1, expected(none));
        assert_eq!(read_text("[general]\nfile=/\n").1, expected("/: it is a folder"));
        let within = "cdrfile.conf: it is no folder";
        assert_eq!(read_text("[general]\nfile=cdrfile.conf/cdr\n").1, expected(within));
    }

    #[test]
    fn what_a_format_cannot_say_is_told() {
        for (format, expected) in [
            ("${time} ${ caller } ${reason$none}", &[][..]),
            ("${callre}", &["there is no ${callre}: did you mean caller?"]),
            ("${x}${y}", &["there is no ${x}", "there is no ${y}"]),
            ("${out_leg.chan}", &["there is no ${out_leg.chan} without combined=yes"]),
            ("${time} ${caller", &["`${` without `}`"]),
            ("josn", &["no ${parameter} in it, so all lines are the same"]),
            ("${out_leg.chan} ${out_leg.2.reason} ${time}\ncombined=yes", &[]),
            ("${out_leg.2.x}\ncombined=yes", &["there is no ${out_leg.2.x}"]),
        ] {
            let (file, findings) = read_text(&format!("[general]\nfile=cdr\nformat={format}\n"));
            assert!(file.is_some());
            let place = "cdrfile.conf:3: [general] format: ";
            let expected: Vec<_> = expected.iter().map(|what| format!("{place}{what}")).collect();
            assert_eq!(findings, expected, "{format}");
        }
    }
}
