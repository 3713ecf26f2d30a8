//! The commands that ask a running server.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output},
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::support::{Phone, Server};

const CONF: &str = "[listener main]\naddr=127.0.0.1\nport=0\n[registrar]\nauth_required=no\n";
const USERS: &str = "[alice]\npassword=secret\n[bob]\npassword=hidden\n";

fn server() -> Server {
    let server = Server::start(&[("bindery.conf", CONF), ("regfile.conf", USERS)]);
    for user in ["alice", "bob"] {
        assert_eq!(Phone::new(server.sip[0], user, "").register(600).code, 200);
    }
    server
}

/// A command in the server's folder, where an operator needs no option but the free port.
fn bindery(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bindery"));
    command.current_dir(server.path(""));
    command.args(args).args(["--admin", &server.admin.to_string()]);
    command
}

/// Runs a command that succeeds; the result is what it prints.
fn said(server: &Server, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = bindery(server, args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    assert!(stderr.is_empty());
    String::from_utf8(stdout).unwrap()
}

fn json(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&said(server, &[args, &["--json"]].concat())).unwrap()
}

/// Runs a command that fails; the result is its one sentence.
fn refused(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(stdout.is_empty());
    let stderr = String::from_utf8(stderr).unwrap();
    stderr.strip_prefix("bindery: ").expect("who says it").trim_end().to_owned()
}

#[test]
fn show_and_remove() {
    let server = server();
    let text = said(&server, &["show", "sip:alice@example.com"]);
    assert!(text.starts_with("alice: 1 binding\n\n  sip:alice@127.0.0.1:"), "{text}");
    assert!(text.contains("\n    from        udp 127.0.0.1:"), "{text}");
    let view = json(&server, &["show", "alice"]);
    assert_eq!(view["aor"], "alice");
    let binding = &view["bindings"][0];
    assert!(binding["contact"].as_str().unwrap().starts_with("sip:alice@127.0.0.1:"));
    assert!((500..=600).contains(&binding["expires"].as_u64().unwrap()));

    let other = bindery(&server, &["remove", "alice", "0000000000000000"]);
    assert_eq!(refused(other), "alice has no binding 0000000000000000");
    let id = binding["id"].as_str().unwrap();
    assert_eq!(said(&server, &["remove", "alice", id]), "alice: 1 binding removed, 0 left\n");
    assert_eq!(refused(bindery(&server, &["show", "alice"])), "alice has no binding");
    let removed = json(&server, &["remove", "bob"]);
    assert_eq!(removed, json!({"aor": "bob", "removed": 1, "left": 0}));
}

#[test]
fn list_and_stats() {
    let server = server();
    let text = said(&server, &["list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("AOR    CONTACT "), "{text}");
    let column = lines[0].find("EXPIRES IN").unwrap();
    assert!(lines[1..].iter().all(|line| line[column..].contains("m")), "{text}");
    assert_eq!(said(&server, &["list", "--limit", "1"]).lines().count(), 2);
    let items = said(&server, &["list", "b", "--json"]);
    let item: Value = serde_json::from_str(items.trim_end()).unwrap();
    assert_eq!(item["aor"], "bob");
    let wrong = bindery(&server, &["list", "--source", "x"]);
    assert_eq!(refused(wrong), "source=x: expected an IP address, or one with a port");

    let text = said(&server, &["stats"]);
    assert!(text.contains("\nbindings   2 (0 expired so far)\n"), "{text}");
    assert_eq!(json(&server, &["stats"])["bindings"], 2);
}

#[test]
fn reload_and_snapshot() {
    let server = server();
    let text = said(&server, &["snapshot"]);
    assert!(text.starts_with("saved 2 AoRs, 2 bindings, "), "{text}");
    assert!(server.path("state/regfile.snapshot").exists());
    assert_eq!(json(&server, &["snapshot"])["bindings"], 2);

    server.write("regfile.conf", "[alice]\npassword=secret\n");
    let text = said(&server, &["reload"]);
    assert_eq!(text, "reloaded: 1 user in regfile.conf; 1 binding of removed users ended\n");
    server.write("regfile.conf", "[alice\n[bob\n");
    assert_eq!(
        refused(bindery(&server, &["reload"])),
        "nothing was reloaded: conf/regfile.conf:1: `[` without `]`\n\
         conf/regfile.conf:2: `[` without `]`"
    );
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let server = server();
    fs::write(server.path("wrong"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let wrong = bindery(&server, &["stats", "--token-file", "wrong"]);
    assert_eq!(
        refused(wrong),
        format!("{} does not take the token of wrong: is it that server's?", server.admin)
    );
    let missing = bindery(&server, &["stats", "--token-file", "none"]);
    assert_eq!(
        refused(missing),
        "can't read the admin token none: No such file or directory; \
         use --state DIR or --token-file FILE"
    );
    let usage = bindery(&server, &["remove"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));

    // A port that is taken, so that no other test gets it, but where nobody listens.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nowhere = taken.local_addr().unwrap().as_socket().unwrap().to_string();
    for extra in [&[][..], &["--state", "none"]] {
        let mut nobody = Command::new(env!("CARGO_BIN_EXE_bindery"));
        nobody.current_dir(server.path("")).args(["stats", "--admin", &nowhere]).args(extra);
        assert_eq!(refused(nobody), format!("no server answers at {nowhere}: Connection refused"));
    }
}

/// Runs a command whose reader has gone before it says anything.
fn unread(mut command: Command) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let Output { status, stderr, .. } = command.stdout(writer).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn who_has_read_enough_is_told_no_error() {
    let server = server();
    for args in [&["list"][..], &["list", "--json"], &["calls"], &["show", "alice"], &["stats"]] {
        assert_eq!(unread(bindery(&server, args)), (Some(0), String::new()), "{args:?}");
    }
    let offline = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bindery"));
        command.current_dir(server.path("")).args(args);
        command
    };
    for args in [&["users", "list"][..], &["check"], &["check", "--json"], &["check", "--settings"]]
    {
        assert_eq!(unread(offline(args)), (Some(0), String::new()), "{args:?}");
    }
    // That something is wrong is said even so.
    server.write("regfile.conf", "[alice\n");
    assert_eq!(unread(offline(&["check"])), (Some(1), String::new()));
}
