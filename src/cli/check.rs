//! `bindery check`: every mistake of every file, with file and line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::backend::{self, Loaded};
use crate::config::first_start::{FOLDERS, Located, locate};
use crate::config::resolve::{FILE, Host, Overrides};
use crate::config::{Accepted, Fault, Place};

/// Validate the configuration files; exit code 1 if one can't be used
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// The folder with bindery.conf [default: ./conf, else /etc/bindery]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Also connect to what the hooks' URLs name, with TLS where it is https; nothing is sent
    #[arg(long)]
    pub connect: bool,
    /// Print the findings as JSON
    #[arg(long, conflicts_with = "settings")]
    pub json: bool,
    /// Print the settings that would be in effect, as a bindery.conf
    #[arg(long)]
    pub settings: bool,
}

/// Runs `bindery check`.
///
/// # Errors
/// There is no configuration, or standard output is closed.
pub fn run(args: &Check) -> anyhow::Result<ExitCode> {
    let folder = existing_folder(args.config.as_deref())?;
    check(args, &folder, &mut io::stdout().lock())
}

fn check(args: &Check, folder: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let loaded = backend::load(folder, &Overrides::default(), &Host::probe());
    let (loaded, errors, warnings) = match loaded {
        Ok(Accepted { value, warnings }) => {
            let errors = if args.connect { connect(folder, &value) } else { Vec::new() };
            (Some(value).filter(|_| errors.is_empty()), errors, warnings)
        }
        Err(refused) => (None, refused.errors, refused.warnings),
    };
    if args.json {
        let report = Report {
            ok: errors.is_empty(),
            errors: errors.iter().map(Finding::from).collect(),
            warnings: warnings.iter().map(Finding::from).collect(),
        };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        for error in &errors {
            writeln!(out, "{error}")?;
        }
        // With `--settings` the output is a file; a comment keeps it one.
        let mark = if args.settings { "; " } else { "" };
        for Fault { place, what } in &warnings {
            writeln!(out, "{mark}{place}: warning: {what}")?;
        }
    }
    let Some(Loaded { config, regfile, .. }) = loaded else {
        return Ok(ExitCode::FAILURE);
    };
    if args.settings {
        write!(out, "{config}")?;
    } else if !args.json {
        let users = regfile.subscribers.len();
        let listeners = config.listeners.len();
        writeln!(out, "{}: good (users: {users}, listeners: {listeners})", folder.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tries what is elsewhere; what can't be reached.
fn connect(folder: &Path, Loaded { config, .. }: &Loaded) -> Vec<Fault> {
    let tried = config.hooks.iter().map(|hook| (hook, backend::hook::try_connection(hook)));
    tried
        .filter_map(|(hook, connected)| {
            let error = connected.err()?;
            let place = Place::of_file(folder.join(FILE));
            Some(Fault { place, what: format!("[hook {}] url: {error}", hook.name) })
        })
        .collect()
}

/// The configuration folder, for commands that need one.
///
/// # Errors
/// There is none.
pub fn existing_folder(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match locate(given, &FOLDERS)? {
        Located::Folder(folder) => Ok(folder),
        Located::Nowhere(_) => {
            anyhow::bail!("there is no configuration in {}: use --config DIR", FOLDERS.join(" or "))
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    errors: Vec<Finding<'a>>,
    warnings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    file: String,
    /// Absent if the file as a whole is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    what: &'a str,
}

impl<'a> From<&'a Fault> for Finding<'a> {
    fn from(fault: &'a Fault) -> Self {
        Self {
            file: fault.place.file.display().to_string(),
            line: (fault.place.line > 0).then_some(fault.place.line),
            what: &fault.what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `check` prints for a folder with these files, folder names left out.
    fn printed(bindery: &str, regfile: &str, json: bool, settings: bool) -> (String, bool) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bindery.conf"), bindery).unwrap();
        std::fs::write(folder.path().join("regfile.conf"), regfile).unwrap();
        let args = Check { config: None, connect: false, json, settings };
        let mut out = Vec::new();
        let code = check(&args, folder.path(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let name = folder.path().display().to_string();
        (out.replace(&format!("{name}/"), "").replace(&name, "DIR"), code == ExitCode::SUCCESS)
    }

    #[test]
    fn findings_are_printed_one_a_line() {
        let (out, good) = printed("[listener a]\nport=x\n", "[a\n[general]\nx=1\n", false, false);
        assert!(!good);
        assert_eq!(
            out,
            "bindery.conf:2: [listener a] port=x: expected a port from 0 to 65535\n\
             regfile.conf:1: `[` without `]`\n\
             regfile.conf:3: warning: [general] unknown key x\n"
        );
        let (out, good) = printed("[listener a]\n", "[a]\npassword=x\n", false, false);
        assert_eq!((out.as_str(), good), ("DIR: good (users: 1, listeners: 1)\n", true));
    }

    #[test]
    fn json_has_file_and_line() {
        let (out, good) = printed("[listener a]\nport=x\n", "", true, false);
        assert!(!good);
        assert_eq!(
            out,
            "{\"ok\":false,\"errors\":[{\"file\":\"bindery.conf\",\"line\":2,\"what\":\"[listener a] \
             port=x: expected a port from 0 to 65535\"}],\"warnings\":[]}\n"
        );
    }

    #[test]
    fn settings_are_printed_as_a_file() {
        let (out, good) = printed("", "", false, true);
        assert!(good);
        assert!(out.starts_with("; bindery.conf: warning: no [listener NAME]"), "{out}");
        assert!(out.contains("\n[registrar]\nexpires_min=60\n"), "{out}");
        let (again, _) = printed(&out, "", false, true);
        assert!(out.ends_with(&again), "{again}");
    }
}
