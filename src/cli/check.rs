//! `bindery check`: every mistake of every file, with file and line.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::table::printed;
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
    let (loaded, errors, warnings, unread) = match loaded {
        Ok(Accepted { value, warnings, files }) => {
            let errors = if args.connect { connect(folder, &value) } else { Vec::new() };
            let unread = unread(folder, &value, &files);
            (Some(value).filter(|_| errors.is_empty()), errors, warnings, unread)
        }
        Err(refused) => (None, refused.errors, refused.warnings, Vec::new()),
    };
    let found = Found { errors, warnings, unread };
    let written = write(args, folder, loaded.as_ref(), &found, out);
    // What was found is known, whoever reads it to the end.
    printed(written)?;
    Ok(if loaded.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What there is to be said.
struct Found {
    errors: Vec<Fault>,
    warnings: Vec<Fault>,
    /// See [`unread`].
    unread: Vec<String>,
}

fn write(
    args: &Check,
    folder: &Path,
    loaded: Option<&Loaded>,
    Found { errors, warnings, unread }: &Found,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if args.json {
        let report = Report {
            ok: errors.is_empty(),
            errors: errors.iter().map(Finding::from).collect(),
            warnings: warnings.iter().map(Finding::from).collect(),
            unread,
        };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        for error in errors {
            writeln!(out, "{error}")?;
        }
        // With `--settings` the output is a file; a comment keeps it one.
        let mark = if args.settings { "; " } else { "" };
        for Fault { place, what } in warnings {
            writeln!(out, "{mark}{place}: warning: {what}")?;
        }
        if !unread.is_empty() {
            writeln!(out, "{mark}{}: not read: {}", folder.display(), unread.join(", "))?;
        }
    }
    let Some(Loaded { config, regfile, .. }) = loaded else { return Ok(()) };
    if args.settings {
        write!(out, "{config}")?;
    } else if !args.json {
        let users = regfile.subscribers.len();
        let listeners = config.listeners.len();
        writeln!(out, "{}: good (users: {users}, listeners: {listeners})", folder.display())?;
    }
    Ok(())
}

/// Names of `*.conf` in the folder that nothing is read from: settings there have no effect, as in
/// files of Yate's modules whose work is done otherwise here.
fn unread(folder: &Path, Loaded { regfile, .. }: &Loaded, files: &[PathBuf]) -> Vec<String> {
    let same = |path: &PathBuf| path.canonicalize().ok();
    let read: HashSet<PathBuf> =
        files.iter().chain(&regfile.general.file).filter_map(same).collect();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_unread = |path: &PathBuf| {
        let is_conf = path.extension().is_some_and(|extension| extension == "conf");
        is_conf && path.is_file() && same(path).is_some_and(|path| !read.contains(&path))
    };
    let found = entries.map(|entry| entry.path()).filter(is_unread);
    let name = |path: PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    let mut names: Vec<String> =
        found.filter_map(name).filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    unread: &'a [String],
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
    fn checked(bindery: &str, regfile: &str, json: bool, settings: bool) -> (String, bool) {
        checked_of(&[("bindery.conf", bindery), ("regfile.conf", regfile)], json, settings)
    }

    fn checked_of(files: &[(&str, &str)], json: bool, settings: bool) -> (String, bool) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let args = Check { config: None, connect: false, json, settings };
        let mut out = Vec::new();
        let code = check(&args, folder.path(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let name = folder.path().display().to_string();
        (out.replace(&format!("{name}/"), "").replace(&name, "DIR"), code == ExitCode::SUCCESS)
    }

    #[test]
    fn findings_are_printed_one_a_line() {
        let (out, good) = checked("[listener a]\nport=x\n", "[a\n[general]\nx=1\n", false, false);
        assert!(!good);
        assert_eq!(
            out,
            "bindery.conf:2: [listener a] port=x: expected a port from 0 to 65535\n\
             regfile.conf:1: `[` without `]`\n\
             regfile.conf:3: warning: [general] unknown key x\n"
        );
        let (out, good) = checked("[listener a]\n", "[a]\npassword=x\n", false, false);
        assert_eq!((out.as_str(), good), ("DIR: good (users: 1, listeners: 1)\n", true));
    }

    #[test]
    fn files_that_nothing_is_read_from_are_named_once() {
        let files = [
            ("bindery.conf", "[listener a]\n[$include more.conf]\n"),
            ("more.conf", "[general]\n"),
            ("regfile.conf", "[general]\nfile=${configpath}/saved.conf\n[a]\npassword=x\n"),
            ("saved.conf", ""),
            ("ysipchan.conf", "[general]\nport=5061\n"),
            ("accfile.conf", ""),
            ("regfile.conf.bak", ""),
            (".regfile.conf", ""),
            ("users.txt", ""),
        ];
        let (out, good) = checked_of(&files, false, false);
        let expected = "DIR: not read: accfile.conf, ysipchan.conf\n\
                        DIR: good (users: 1, listeners: 1)\n";
        assert_eq!((&*out, good), (expected, true));
        let (out, _) = checked_of(&files, true, false);
        let expected = "{\"ok\":true,\"errors\":[],\"warnings\":[],\
                        \"unread\":[\"accfile.conf\",\"ysipchan.conf\"]}\n";
        assert_eq!(out, expected);
        let (out, _) = checked_of(&files, false, true);
        assert!(
            out.starts_with("; DIR: not read: accfile.conf, ysipchan.conf\n[general]"),
            "{out}"
        );
    }

    #[test]
    fn json_has_file_and_line() {
        let (out, good) = checked("[listener a]\nport=x\n", "", true, false);
        assert!(!good);
        assert_eq!(
            out,
            "{\"ok\":false,\"errors\":[{\"file\":\"bindery.conf\",\"line\":2,\"what\":\"[listener a] \
             port=x: expected a port from 0 to 65535\"}],\"warnings\":[]}\n"
        );
    }

    #[test]
    fn settings_are_printed_as_a_file() {
        let (out, good) = checked("", "", false, true);
        assert!(good);
        assert!(out.starts_with("; bindery.conf: warning: no [listener NAME]"), "{out}");
        assert!(out.contains("\n[registrar]\nexpires_min=60\n"), "{out}");
        let (again, _) = checked(&out, "", false, true);
        assert!(out.ends_with(&again), "{again}");
    }
}
