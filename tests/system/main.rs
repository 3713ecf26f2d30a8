//! The real binary on loopback: start, restart, reload, stop, and what it says when it can't.

mod admin;
mod admin_cli;
mod bench;
mod calls;
mod disks;
mod durability;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for other tests")]
mod support;

use std::{fs, io, net::UdpSocket, process::Command};

use support::{Phone, Server, wait_until};

const CONF: &str = "[listener main]\naddr=127.0.0.1\nport=0\n";
const USERS: &str = "[alice]\npassword=secret\n[bob]\npassword=hidden\n";

fn server() -> Server {
    Server::start(&[("bindery.conf", CONF), ("regfile.conf", USERS)])
}

/// Runs `serve` until it gives up; the result is what it said.
fn refused(files: &[(&str, &str)], args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join("conf").join(name), text).unwrap();
    }
    let all: Vec<&str> =
        ["--config", "conf", "--admin", "127.0.0.1:0"].iter().chain(args).copied().collect();
    let mut server = Server::launch(folder, &all, false);
    let status = server.wait();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    wait_until("its last words", || server.log().contains("bindery: "));
    server.log()
}

#[test]
fn the_first_start_tells_what_to_type_into_a_phone() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let server = Server::launch(folder, &args, true);
    let said: Vec<String> = (0..8).map(|_| server.stdout_line()).collect();
    assert_eq!(said[0], "There was no configuration: conf is a first one.");
    let value = |line: usize| said[line].split_whitespace().nth(1).unwrap();
    let mut phone = Phone::new(server.sip[0], value(3), value(4));
    assert_eq!(phone.register(120).code, 200);
    assert!(server.path("conf/bindery.conf").exists());

    let mut typed = said[6].split_whitespace();
    assert_eq!(typed.next(), Some("sipsak"), "{said:?}");
    let sipsak = Command::new("sipsak").args(typed).output();
    match sipsak {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("sipsak isn't installed: what is printed for it isn't tried");
        }
        ended => {
            let ended = ended.unwrap();
            assert!(ended.status.success(), "{}: {ended:?}", said[6]);
            let bound = phone.query();
            assert_eq!(bound.text.matches(";expires=").count(), 2, "{}", bound.text);
        }
    }
}

#[test]
fn a_first_start_that_fails_tells_it_as_well() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", &taken, "--admin", "127.0.0.1:0"];
    let mut server = Server::launch(folder, &args, false);
    assert_eq!(server.wait().code(), Some(1));
    let said: Vec<String> = (0..5).map(|_| server.stdout_line()).collect();
    assert_eq!(said[0], "There was no configuration: conf is a first one.");
    let password = said[4].split_whitespace().nth(1).unwrap();
    let regfile = fs::read_to_string(server.path("conf/regfile.conf")).unwrap();
    assert!(regfile.contains(&format!("password={password}\n")), "{regfile}");
}

#[test]
fn a_stop_says_what_it_did() {
    let mut server = server();
    assert_eq!(Phone::new(server.sip[0], "alice", "secret").register(3600).code, 200);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let last = server.await_log(" stopped ");
    assert!(last.contains("snapshot=\"written, bindings: 1\""), "{last}");
    assert!(last.contains("millis=") && last.contains("calls=0"), "{last}");
}

#[test]
fn who_was_registered_is_so_after_a_restart() {
    let server = server();
    let mut phone = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(phone.register(3600).code, 200);
    let before = phone.query().expires().unwrap();

    let server = server.restart();
    phone.turn_to(server.sip[0]);
    // The nonce's key has survived too: no challenge, and its count goes on.
    let answer = phone.send("");
    assert_eq!(answer.code, 200, "{}", answer.text);
    let after = answer.expires().unwrap();
    assert!(after <= before && after > before - 30, "{before} {after}");
    // The record of a nonce's use came back as well, so an old request can't be replayed.
    assert_eq!(answer.headers("Contact").len(), 1);
}

#[test]
fn from_says_nothing_of_whose_binding_it_is() {
    let server = server();
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    alice.say_from("sip:bob@127.0.0.1");
    assert_eq!(alice.register(600).headers("Contact").len(), 1);
    let bob = Phone::new(server.sip[0], "bob", "hidden").query();
    assert_eq!((bob.code, bob.headers("Contact").len()), (200, 0));
}

#[test]
fn a_reload_takes_all_or_nothing() {
    let server = server();
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    let mut bob = Phone::new(server.sip[0], "bob", "hidden");
    assert_eq!(alice.register(600).code, 200);
    assert_eq!(bob.register(600).code, 200);

    // A broken file changes nothing, in no file.
    server.write("regfile.conf", "[alice]\npassword=secret\n[carol]\npassword=new\n");
    server.write("bindery.conf", &format!("{CONF}[registrar]\nexpires_mni=60\n"));
    server.signal("HUP");
    let line = server.await_log("bindery.conf:");
    assert!(line.contains("conf/bindery.conf:5"), "{line}");
    assert!(line.contains("expires_min"), "{line}");
    server.await_log("nothing was reloaded");
    assert_eq!(bob.query().headers("Contact").len(), 1);

    // A valid one: kept users keep their bindings, removed ones lose them, new ones come in.
    server.write("bindery.conf", &format!("{CONF}[registrar]\nexpires_min=300\n"));
    server.signal("HUP");
    server.await_log("reloaded users=2 removed=1");
    assert_eq!(alice.query().headers("Contact").len(), 1);
    assert_eq!(bob.query().code, 401);
    let mut carol = Phone::new(server.sip[0], "carol", "new");
    let answer = carol.register(60);
    assert_eq!((answer.code, answer.headers("Min-Expires")), (423, vec!["300"]));
}

#[test]
fn what_keeps_it_from_starting_is_one_sentence() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let said = refused(&[("bindery.conf", CONF)], &["--listen", &addr]);
    let sentence = format!("bindery: can't listen on {addr}: address already in use");
    assert!(said.lines().any(|line| line == sentence), "{said}");

    let said = refused(&[("bindery.conf", "[general]\nworkres=2\n")], &[]);
    assert!(said.contains("conf/bindery.conf:2: "), "{said}");
    assert!(said.contains("workers"), "{said}");

    let said = refused(&[("bindery.conf", CONF), ("regfile.conf", "[a\npassword=x\n")], &[]);
    assert!(said.contains("conf/regfile.conf:1: "), "{said}");
}

#[test]
fn two_processes_cannot_share_a_state_folder() {
    let first = server();
    let state = first.path("state");
    let said = refused(&[("bindery.conf", CONF)], &["--state", state.to_str().unwrap()]);
    let expected = format!("bindery: another process uses the folder {}", state.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_one_before_it_is_used() {
    let server = server();
    let mut phone = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(phone.register(3600).code, 200);
    // Two stops make two generations.
    let server = server.restart();
    let (_, folder) = server.restart().stop();
    let newest = folder.path().join("state/regfile.snapshot");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();

    let server = Server::launch(folder, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
    assert!(server.path("state/regfile.snapshot.corrupt").exists(), "{}", server.log());
    phone.turn_to(server.sip[0]);
    assert_eq!(phone.query().headers("Contact").len(), 1);
}

#[test]
fn a_file_that_yate_saved_is_read_and_written_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    let saved = folder.path().join("saved.conf");
    let far = "4000000000";
    fs::write(
        &saved,
        format!("[alice]\ndriver=sip\ndata=sip/sip:alice@127.0.0.1:15999\nexpires={far}\n"),
    )
    .unwrap();
    let users = format!("[general]\nfile={}\n{USERS}", saved.display());
    fs::write(folder.path().join("conf/bindery.conf"), CONF).unwrap();
    fs::write(folder.path().join("conf/regfile.conf"), users).unwrap();
    let args = ["--config", "conf", "--admin", "127.0.0.1:0"];
    let server = Server::launch(folder, &args, true);
    let mut phone = Phone::new(server.sip[0], "alice", "secret");
    let contacts = phone.query();
    assert!(contacts.text.contains("<sip:alice@127.0.0.1:15999>"), "{}", contacts.text);
    assert_eq!(phone.register(600).code, 200);

    let (_, folder) = server.stop();
    let text = fs::read_to_string(folder.path().join("saved.conf")).unwrap();
    assert!(text.contains("[alice]\ndriver=sip\ndata=sip/sip:alice@127.0.0.1:"), "{text}");
    assert!(text.contains("contact.2="), "{text}");
}

#[test]
fn every_worker_answers_and_sees_the_same_bindings() {
    let conf = format!("[general]\nworkers=4\npin=no\n{CONF}");
    let server = Server::start(&[("bindery.conf", &conf), ("regfile.conf", USERS)]);
    // The kernel spreads source ports over the workers' sockets.
    let mut phones: Vec<Phone> =
        (0..10).map(|_| Phone::new(server.sip[0], "alice", "secret")).collect();
    for (n, phone) in phones.iter_mut().enumerate() {
        let answer = phone.register(600);
        assert_eq!((answer.code, answer.headers("Contact").len()), (200, n + 1));
    }
    let mut one_more = Phone::new(server.sip[0], "alice", "secret");
    let answer = one_more.register(600);
    assert_eq!((answer.code, answer.headers("Retry-After")), (503, vec!["60"]));
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_asked() {
    let conf = "[listener any]\naddr=0.0.0.0\nport=0\n";
    let server = Server::start(&[("bindery.conf", conf), ("regfile.conf", USERS)]);
    let mut asked = server.sip[0];
    for ip in ["127.0.0.1", "127.0.0.77"] {
        asked.set_ip(ip.parse().unwrap());
        let answer = Phone::new(asked, "alice", "secret").register(600);
        assert_eq!((answer.code, answer.from), (200, asked));
    }
}

#[test]
fn bindings_end_in_their_second_without_being_asked_for() {
    let conf = format!("{CONF}[registrar]\nexpires_min=1\n");
    let server = Server::start(&[("bindery.conf", &conf), ("regfile.conf", USERS)]);
    let mut phone = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(phone.register(1).code, 200);
    wait_until("the binding's end", || phone.query().headers("Contact").is_empty());
}

#[test]
fn what_a_snapshot_has_outlives_a_kill() {
    let conf = format!("{CONF}[persist]\nsnapshot_interval=1\n");
    let mut server = Server::start(&[("bindery.conf", &conf), ("regfile.conf", USERS)]);
    let mut phone = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(phone.register(3600).code, 200);
    let snapshot = server.path("state/regfile.snapshot");
    wait_until("a snapshot", || {
        fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("[alice]"))
    });
    server.signal("KILL");
    assert!(!server.wait().success());
    let (_, folder) = server.stop();

    let server = Server::launch(folder, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
    phone.turn_to(server.sip[0]);
    assert_eq!(phone.query().headers("Contact").len(), 1);
}

#[test]
fn sigterm_ends_it_with_zero_and_no_thread_is_left() {
    let (status, folder) = server().stop();
    assert_eq!(status.code(), Some(0));
    let text = fs::read_to_string(folder.path().join("state/regfile.snapshot")).unwrap();
    assert!(text.starts_with("[general]\n"), "{text}");
}
