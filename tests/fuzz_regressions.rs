//! What fuzzing found once, and the torture messages, through the checks of the fuzz targets; so
//! that they hold wherever there is no fuzzer.

use std::{fs, path::Path};

#[path = "../benches/support/answer.rs"]
mod answer;
#[path = "../benches/support/arrival.rs"]
mod arrival;
#[path = "../fuzz/checks/authorization.rs"]
mod authorization;
#[path = "../fuzz/checks/change.rs"]
mod change;
#[path = "../fuzz/checks/crc32.rs"]
mod crc32;
#[path = "../fuzz/checks/journal.rs"]
mod journal;
#[path = "../fuzz/checks/message.rs"]
mod message;
#[path = "../benches/support/phone.rs"]
mod phone;
#[path = "../fuzz/checks/pipeline.rs"]
mod pipeline;
#[path = "../benches/support/registrar.rs"]
mod registrar;
#[path = "../fuzz/checks/script_line.rs"]
mod script_line;
#[path = "../fuzz/checks/snapshot.rs"]
mod snapshot;
#[path = "../fuzz/checks/uri.rs"]
mod uri;

/// The contents of the files of a folder below the repository, with their names.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let read = |path: &Path| (path.display().to_string(), fs::read(path).expect("a file"));
    entries.map(|entry| read(&entry.expect("an entry").path())).collect()
}

/// Runs `check` on each file; the name of the one that fails is the last one printed.
fn replay(folder: &str, check: fn(&[u8])) {
    let files = files(folder);
    assert!(!files.is_empty(), "{folder} is empty");
    for (name, octets) in files {
        eprintln!("{name}");
        check(&octets);
    }
}

/// The script of one datagram: step 0, its length, and itself.
fn script_of(datagram: &[u8]) -> Vec<u8> {
    let len = u16::try_from(datagram.len()).expect("a datagram");
    [&[0][..], &len.to_le_bytes(), datagram].concat()
}

#[test]
fn what_was_found_stays_fixed() {
    replay("fuzz/regressions/message", message::check);
    replay("fuzz/regressions/pipeline", pipeline::check);
    replay("fuzz/regressions/uri", uri::check);
    replay("fuzz/regressions/change", change::check);
    replay("fuzz/regressions/script_line", script_line::check);
}

#[test]
fn torture_messages_pass_all_checks() {
    for rfc in ["tests/vectors/rfc4475", "tests/vectors/rfc5118"] {
        replay(rfc, message::check);
        replay(rfc, |datagram| pipeline::check(&script_of(datagram)));
        replay(rfc, |datagram| datagram.split(|b| b" \r\n<>".contains(b)).for_each(uri::check));
        replay(rfc, authorization::check);
        replay(rfc, snapshot::check);
        replay(rfc, journal::check);
        replay(rfc, change::check);
        replay(rfc, script_line::check);
    }
}
