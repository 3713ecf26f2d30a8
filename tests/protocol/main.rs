//! Runs the dialogues of `tests/scripts/` through the pure pipeline: no sockets, a clock that
//! moves when a script says so. `tests/scripts/README.md` explains the format.

mod bench;
mod conformance;
mod digest;
mod draft;
mod expect;
mod harness;
mod macros;
mod run;
mod script;

use std::path::{Path, PathBuf};

use script::Script;

/// The folder of all scripts.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// The scripts of a folder, in alphabetical order.
fn scripts_of(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(scripts().join(folder))
        .unwrap_or_else(|e| panic!("tests/scripts/{folder}: {e}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    found.sort();
    found
}

/// Plays every dialogue of a folder; all that fail are named at once.
fn play(folder: &str) {
    let mut failures = Vec::new();
    let mut played = 0;
    for path in scripts_of(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
        match Script::parse(&text) {
            Err(failure) => failures.push(format!("tests/scripts/{name}:{failure}")),
            Ok(script) => {
                for dialogue in &script.dialogues {
                    played += 1;
                    if let Err(failure) = run::play(&script, dialogue) {
                        let dialogue = &dialogue.name;
                        failures.push(format!("tests/scripts/{name}:{failure}\n  in {dialogue}"));
                    }
                }
            }
        }
    }
    assert!(played > 0, "no dialogue in tests/scripts/{folder}");
    assert!(
        failures.is_empty(),
        "{} of {played} dialogues failed:\n\n{}\n",
        failures.len(),
        failures.join("\n\n")
    );
}

macro_rules! folders {
    ($($name:ident),* $(,)?) => {
        /// The folders that are played.
        const FOLDERS: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                play(stringify!($name));
            }
        )*
    };
}

folders! {
    acceptance,
    auth,
    expires,
    expiry,
    limits,
    malformed,
    methods,
    options,
    order,
    outbound,
    path,
    register,
    transport,
    uri,
    wildcard,
}

#[test]
fn every_folder_is_played() {
    for entry in std::fs::read_dir(scripts()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(FOLDERS.contains(&name.as_str()), "tests/scripts/{name} is not played");
        }
    }
}
