//! `cdrfile.conf`: the file that records of calls are written to.

use std::path::{Path, PathBuf};

use super::Findings;
use super::conf::{Conf, Section};
use super::lenient::Lenient;
use super::nearest::section_hint;
use super::replace::replace;
use super::values::lossy;

/// The name of the file in the configuration folder.
pub const FILE: &str = "cdrfile.conf";

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
        PathBuf::from(&*lossy(&path))
    });
    let combined = keys.flag("combined", false);
    let tabs = keys.flag("tabs", true);
    let format = match keys.text("format") {
        Some("json") => Format::Json,
        Some(template) => Format::Template(template.into()),
        None if tabs => Format::Tabs,
        None => Format::Commas,
    };
    keys.finish();
    Some(CdrFile { path: path?, combined, format })
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
        let file = |format| CdrFile { path: "/var/log/cdr".into(), combined: false, format };
        for (text, expected) in [
            ("file=/var/log/cdr", Some(file(Format::Tabs))),
            ("file=/var/log/cdr\ntabs=false", Some(file(Format::Commas))),
            ("file=/var/log/cdr\nformat=json", Some(file(Format::Json))),
            (
                "file=/var/log/cdr\nformat=${time} ${caller}",
                Some(file(Format::Template("${time} ${caller}".into()))),
            ),
            (
                "file=/var/log/cdr\ncombined=yes",
                Some(CdrFile { combined: true, ..file(Format::Tabs) }),
            ),
            ("tabs=yes", None),
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
                "cdrfile.conf:2: [general] unknown key fiel: did you mean file?",
            ]
        );
    }
}
