//! The torture messages of RFC 4475 and RFC 5118, each with its two verdicts: what the parser says
//! of it, and what a registrar that asks nobody for credentials answers.
//!
//! Verdicts of the parser: `ok`, the reason phrase of the rejection, or the kind of silence.
//! Verdicts of the registrar: the status line's code and phrase, or the reason of the drop.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use arrival::{START, udp_from};
use bindery::{
    registrar::Policy,
    sip::{Limits, Parsed, Parser},
    worker::{Arrived, Handled},
};
use registrar::registrar;

#[path = "../../benches/support/arrival.rs"]
mod arrival;
#[path = "../../benches/support/registrar.rs"]
mod registrar;

/// What RFC 4475 groups its messages by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// §3.1.1: well-formed, however strange; to be accepted.
    Valid,
    /// §3.1.2: malformed; to be rejected or ignored.
    Invalid,
    /// §3.2 to §3.4: well-formed; what they draw depends on who gets them.
    Judged,
}

use Group::{Invalid, Judged, Valid};

/// A line of `verdicts.txt`.
struct Row {
    /// The path of the message, without its extension.
    message: &'static str,
    section: &'static str,
    group: Group,
    parser: &'static str,
    registrar: &'static str,
    why: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    let lines = include_str!("verdicts.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [message, section, group, parser, registrar, why] = fields[..] else {
            panic!("expected six fields: {line}")
        };
        let group = match group {
            "valid" => Valid,
            "invalid" => Invalid,
            "judged" => Judged,
            _ => panic!("no such group: {line}"),
        };
        Row { message, section, group, parser, registrar, why }
    })
}

/// What the REGISTERs among the messages are sent to.
const DOMAINS: [&str; 3] = ["example.com", "[2001:db8::10]", "[2001:db8::10:5070]"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn octets(row: &Row) -> Vec<u8> {
    let path = folder().join(format!("{}.sip", row.message));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parser_verdict(datagram: &[u8]) -> String {
    match Parser::new(Limits::default()).parse(datagram) {
        Parsed::Request(_) => "ok".into(),
        Parsed::Rejected(rejected) => rejected.fault.status().phrase.into(),
        Parsed::Silence(silence) => format!("{silence:?}"),
        Parsed::Response(_) => "Response".into(),
    }
}

fn answer_verdict(datagram: &[u8], policy: Policy) -> String {
    let ([mut pipeline], _) = registrar(&DOMAINS, &[("user", "secret")], policy);
    let arrived = Arrived { bytes: datagram, flow: udp_from("192.0.2.1:5060"), truncated: false };
    let mut out = vec![0; 65_535];
    match pipeline.handle(START, arrived, &mut out) {
        Handled::Answer { len, .. } => {
            let line = out[..len].split(|&b| b == b'\r').next().unwrap_or_default();
            String::from_utf8_lossy(line.strip_prefix(b"SIP/2.0 ").unwrap_or(line)).into_owned()
        }
        Handled::Dropped(reason) => format!("{reason:?}"),
    }
}

fn open() -> Policy {
    Policy { auth_required: false, ..Policy::default() }
}

#[test]
fn each_message_draws_its_verdicts() {
    let mut wrong = Vec::new();
    for row in rows() {
        let datagram = octets(&row);
        let verdicts = (parser_verdict(&datagram), answer_verdict(&datagram, open()));
        if (&*verdicts.0, &*verdicts.1) != (row.parser, row.registrar) {
            let Row { message, section, parser, registrar, why, .. } = row;
            let expected = (parser, registrar);
            wrong.push(format!("{message} {section}: {expected:?}, not {verdicts:?}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The table itself may not say what the RFC forbids.
#[test]
fn no_row_contradicts_its_group() {
    let count = |group| {
        rows().filter(|row| row.message.starts_with("rfc4475/") && row.group == group).count()
    };
    assert_eq!((count(Valid), count(Invalid), count(Judged)), (13, 19, 17));
    for row in rows() {
        let is_answered = row.registrar.starts_with(|c: char| c.is_ascii_digit());
        let fits = match row.group {
            // A response is nothing to a registrar, whatever is in it.
            Valid => row.parser == "ok" || row.parser == "Response",
            Invalid => !is_answered || row.registrar.starts_with(['4', '5']),
            Judged => true,
        };
        assert!(fits, "{}", row.message);
    }
}

#[test]
fn each_file_has_a_row_and_each_row_a_file() {
    let rows: BTreeSet<_> = rows().map(|row| format!("{}.sip", row.message)).collect();
    let mut files = BTreeSet::new();
    for rfc in ["rfc4475", "rfc5118"] {
        for entry in fs::read_dir(folder().join(rfc)).expect("the folder of an RFC's messages") {
            let name = entry.expect("an entry of the folder").file_name();
            files.insert(format!("{rfc}/{}", name.to_string_lossy()));
        }
    }
    assert_eq!(rows, files);
}

#[test]
fn who_has_no_credentials_is_asked_for_them_first() {
    for row in rows() {
        let datagram = octets(&row);
        // Whether an AoR exists is for those to know who may register.
        let is_asked = datagram.starts_with(b"REGISTER ")
            && ["200 OK", "404 Not Found"].contains(&row.registrar);
        let expected = if is_asked { "401 Unauthorized" } else { row.registrar };
        assert_eq!(answer_verdict(&datagram, Policy::default()), expected, "{}", row.message);
    }
}
