//! What the journal is for, on the real binary: kills, damaged files, a disk that is full.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    CONF, USERS,
    support::{Phone, Server, command, wait_until},
};

pub(super) const ARGS: [&str; 4] = ["--config", "conf", "--admin", "127.0.0.1:0"];

/// Of one worker, whose changes all go to one segment.
fn conf(persist: &str) -> String {
    format!("[general]\nworkers=1\n{CONF}[persist]\n{persist}\n")
}

fn server(persist: &str) -> Server {
    Server::launch(folder(persist), &ARGS, true)
}

/// A server at which alice has registered, then bob.
fn with_two_phones(persist: &str) -> (Server, Phone, Phone) {
    let server = server(persist);
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    let mut bob = Phone::new(server.sip[0], "bob", "hidden");
    assert_eq!(alice.register(3600).code, 200);
    assert_eq!(bob.register(3600).code, 200);
    (server, alice, bob)
}

pub(super) fn contacts(server: &Server, phone: &mut Phone) -> usize {
    phone.turn_to(server.sip[0]);
    let answer = phone.query();
    assert_eq!(answer.code, 200, "{}", answer.text);
    answer.headers("Contact").len()
}

/// The worker's segment of the journal that has something in it.
fn segment(folder: &Path) -> PathBuf {
    const HEAD_LEN: u64 = 32;
    let files = fs::read_dir(folder.join("state")).unwrap().map(|file| file.unwrap().path());
    let is_it = |path: &PathBuf| {
        path.to_str().is_some_and(|path| path.ends_with("-001.log"))
            && fs::metadata(path).is_ok_and(|file| file.len() > HEAD_LEN)
    };
    files.filter(is_it).max().expect("a segment with changes")
}

#[test]
fn what_was_answered_outlives_a_kill() {
    for durability in ["journal", "sync"] {
        let (server, mut alice, mut bob) = with_two_phones(&format!("durability={durability}"));
        assert_eq!(alice.register(1800).code, 200);
        assert_eq!(bob.register(0).code, 200);

        let server = Server::launch(server.killed(), &ARGS, true);
        // No challenge: what the nonce was used for came back as well.
        alice.turn_to(server.sip[0]);
        let answer = alice.send("");
        assert_eq!(answer.code, 200, "{}", answer.text);
        let left = answer.expires().unwrap();
        assert!((1700..=1800).contains(&left), "{left}");
        assert_eq!(contacts(&server, &mut bob), 0, "what was removed came back");

        // And again, with nothing but what the start before has read.
        let server = Server::launch(server.killed(), &ARGS, true);
        assert_eq!(contacts(&server, &mut alice), 1);
        assert_eq!(contacts(&server, &mut bob), 0);
    }
}

#[test]
fn damage_in_the_journal_costs_what_was_damaged() {
    let (server, mut alice, mut bob) = with_two_phones("");
    let folder = server.killed();
    let segment = segment(folder.path());
    let mut octets = fs::read(&segment).unwrap();
    // In the first change, after the heads of file and frame; and an end that was not written.
    octets[32 + 20 + 20] ^= 1;
    octets.extend_from_slice(b"\xf5\xc0\xf6\xc1torn");
    fs::write(&segment, octets).unwrap();

    let server = Server::launch(folder, &ARGS, true);
    let log = server.log();
    assert!(log.contains("the journal is damaged: changes were lost"), "{log}");
    assert!(log.contains("cut a torn end off"), "{log}");
    assert_eq!(contacts(&server, &mut alice), 0);
    assert_eq!(contacts(&server, &mut bob), 1);
}

/// What a refresh says is absolute: it counts though the one before it is lost.
#[test]
fn a_lost_refresh_costs_no_later_one() {
    let server = server("");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    for expires in [3600, 3000, 2400, 1800] {
        assert_eq!(alice.register(expires).code, 200);
    }
    let folder = server.killed();
    let segment = segment(folder.path());
    let mut octets = fs::read(&segment).unwrap();
    let marker = b"\xf5\xc0\xf6\xc1";
    let frames: Vec<_> = (0..octets.len()).filter(|&at| octets[at..].starts_with(marker)).collect();
    octets[frames[1] + 40] ^= 1;
    fs::write(&segment, octets).unwrap();

    let (code, said) = state(folder.path(), &["dump", "state"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("{\"aor\":\"alice\""), "{said}");
    assert!(said.contains("1 file damaged or missing"), "{said}");
    let (code, said) = state(folder.path(), &["compact", "state", "--keep", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(segment.exists(), "what is damaged stays to be looked at: {said}");
    fs::remove_file(folder.path().join("state/regfile.snapshot")).unwrap();

    let server = Server::launch(folder, &ARGS, true);
    let log = server.log();
    assert!(log.contains("applied refreshes to older states"), "{log}");
    assert!(!log.contains("left a change of the journal out"), "{log}");
    alice.turn_to(server.sip[0]);
    assert!(alice.query().expires().unwrap() <= 1800);
}

#[test]
fn segments_that_are_missing_are_missed() {
    for is_emptied in [false, true] {
        let (server, _, _) = with_two_phones("");
        let folder = server.killed();
        let path = segment(folder.path());
        let other = path.to_str().unwrap().replace("-001.log", "-000.log");
        match is_emptied {
            true => fs::write(&other, b"").unwrap(),
            false => fs::remove_file(&other).unwrap(),
        }
        let (code, said) = state(folder.path(), &["verify", "state"]);
        assert_eq!(code, Some(1), "{said}");
        let what = if is_emptied { "it is empty" } else { "it is missing" };
        assert!(said.contains(what), "{said}");
        let server = Server::launch(folder, &ARGS, true);
        let log = server.log();
        assert!(log.contains("segments of the journal are missing: changes were lost"), "{log}");
    }
}

/// A phone with two contacts at one AoR: each refresh costs what that of one alone does.
#[test]
fn a_refresh_of_one_of_two_is_short() {
    let server = server("snapshot_interval=600");
    let mut desk = Phone::new(server.sip[0], "alice", "secret");
    let mut mobile = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!((desk.register(3600).code, mobile.register(3600).code), (200, 200));
    for _ in 0..2 {
        assert_eq!((desk.register(3000).code, mobile.register(3000).code), (200, 200));
    }
    let path = server.path("state");
    let path = segment(path.parent().unwrap());
    let before = fs::metadata(&path).unwrap().len();
    for _ in 0..5 {
        assert_eq!((desk.register(1800).code, mobile.register(1200).code), (200, 200));
    }
    let each = (fs::metadata(&path).unwrap().len() - before) / 10;
    assert!(each <= 150, "{each}");

    let server = Server::launch(server.killed(), &ARGS, true);
    assert_eq!(contacts(&server, &mut desk), 2);
    let times: Vec<_> = desk.query().headers("Contact").iter().map(ToString::to_string).collect();
    assert!(times.iter().any(|c| c.contains("expires=1")), "{times:?}");
}

#[test]
fn damaged_secrets_are_made_anew() {
    let server = server("");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(alice.register(3600).code, 200);
    let (_, folder) = server.stop();
    for name in ["nonce.key", "admin.token"] {
        fs::write(folder.path().join("state").join(name), b"").unwrap();
    }
    let server = Server::launch(folder, &ARGS, true);
    let log = server.log();
    assert!(log.contains("the nonce key was damaged"), "{log}");
    assert!(log.contains("the admin token was damaged"), "{log}");
    assert!(server.path("state/nonce.key.corrupt").exists());
    // Its nonce is nobody's any more: one challenge, and all is well.
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(contacts(&server, &mut alice), 1);
}

#[test]
fn the_snapshot_may_be_named_in_the_state_folder() {
    let folder = folder("");
    let regfile = format!("[general]\nfile=../state/phones.snapshot\n{USERS}");
    fs::write(folder.path().join("conf/regfile.conf"), regfile).unwrap();
    let server = Server::launch(folder, &ARGS, true);
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(alice.register(3600).code, 200);
    let (status, folder) = server.stop();
    assert!(status.success());
    assert!(folder.path().join("state/phones.snapshot").exists());
    let (code, said) =
        state(folder.path(), &["dump", "state", "--snapshot", "state/phones.snapshot"]);
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    let (code, said) = state(folder.path(), &["dump", "state", "--snapshot", "state/none"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no snapshot state/none"), "{said}");
}

/// A start that is refused for a port leaves nothing behind, however often it is tried.
#[test]
fn a_port_that_is_taken_leaves_no_segments() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let args = ["--config", "conf", "--admin", &addr];
    let mut server = Server::launch(folder(""), &args, false);
    assert_eq!(server.wait().code(), Some(1));
    let said = server.await_log("can't serve the admin API");
    assert_eq!(said.matches("in use").count(), 1, "{said}");
    let names: Vec<_> = fs::read_dir(server.path("state"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with("journal-")), "{names:?}");
}

#[test]
fn a_folder_that_others_write_to_is_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("");
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let server = Server::launch(folder, &ARGS, true);
    assert!(server.log().contains("others can write to this folder"), "{}", server.log());
}

#[test]
fn what_is_no_segment_is_set_aside() {
    let server = server("");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(alice.register(3600).code, 200);
    let folder = server.killed();
    let state = folder.path().join("state");
    fs::write(state.join("journal-00000007-001.log"), [b'x'; 100]).unwrap();
    fs::write(state.join("journal-00000008-001.log"), b"").unwrap();

    let server = Server::launch(folder, &ARGS, true);
    let log = server.log();
    assert!(log.contains("set a damaged segment of the journal aside"), "{log}");
    assert!(server.path("state/journal-00000007-001.log.corrupt").exists());
    assert_eq!(contacts(&server, &mut alice), 1);
}

/// The folder of a server that was not started yet.
pub(super) fn folder(persist: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("conf")).unwrap();
    fs::write(folder.path().join("conf/bindery.conf"), conf(persist)).unwrap();
    fs::write(folder.path().join("conf/regfile.conf"), USERS).unwrap();
    folder
}

/// A server whose files may have 4 KiB each: some fifty refreshes.
fn short_of_room(on_disk_error: &str) -> Server {
    let persist = format!("on_disk_error={on_disk_error}\nsnapshot_interval=600");
    Server::launch_with_short_files(folder(&persist), &ARGS, 8)
}

#[test]
fn a_full_disk_does_not_stop_service() {
    let server = short_of_room("serve");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    wait_until("a fault of the disk", || {
        assert_eq!(alice.register(3600).code, 200);
        server.log().contains("the journal can't be written")
    });
    // A snapshot makes up for it, without anybody's doing.
    server.await_log("everything acknowledged is on disk again");
    assert_eq!(alice.register(1800).code, 200);

    let server = Server::launch(server.killed(), &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
    assert!(alice.query().expires().unwrap() <= 1800);
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep() {
    let server = short_of_room("refuse");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    // Less than what a snapshot takes to make up for it: the refusals come before that.
    alice.accept_silence(Duration::from_millis(200));
    let (mut is_refused, mut is_silent) = (false, false);
    wait_until("a refusal", || {
        let answer = alice.register(3600);
        match answer.code {
            503 => {
                assert!(answer.text.contains("Registrations Cannot Be Saved"), "{}", answer.text);
                assert_eq!(answer.headers("Retry-After").len(), 1);
                is_refused = true;
            }
            // The one whose change could not be written.
            0 => is_silent = true,
            code => assert_eq!(code, 200, "{}", answer.text),
        }
        is_refused
    });
    assert!(is_silent);
    server.await_log("everything acknowledged is on disk again");
    wait_until("service again", || alice.register(3600).code == 200);
}

/// Runs `bindery state` and gives its code and what it printed.
fn state(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = command(folder).arg("state").args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_state_folder_is_verified_dumped_and_compacted_offline() {
    let server = server("");
    let mut alice = Phone::new(server.sip[0], "alice", "secret");
    assert_eq!(alice.register(3600).code, 200);
    let (code, said) = state(&server.path("."), &["verify", "state"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a server uses the folder state: stop it first"), "{said}");

    let folder = server.killed();
    let (code, said) = state(folder.path(), &["verify", "state"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("journal-00000001-001.log"), "{said}");
    let (code, said) = state(folder.path(), &["dump", "state"]);
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
    assert!(said.starts_with("{\"aor\":\"alice\",\"sequence\":"), "{said}");
    assert!(said.contains("\"listener\":\"main\""), "{said}");

    for _ in 0..3 {
        let (code, said) = state(folder.path(), &["compact", "state", "--keep", "1"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with("1 binding of 1 AoR in a snapshot of "), "{said}");
    }
    let (code, said) = state(folder.path(), &["verify", "state"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("journal-"), "{said}");

    let path = folder.path().join("state/regfile.snapshot");
    let mut octets = fs::read(&path).unwrap();
    octets[40] ^= 1;
    fs::write(&path, octets).unwrap();
    let (code, said) = state(folder.path(), &["verify", "state"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 file damaged"), "{said}");
    assert!(path.exists(), "verify renames nothing");

    // The older one has it, too.
    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
}

#[test]
fn a_journal_is_read_though_it_is_no_longer_written() {
    let (server, mut alice, mut bob) = with_two_phones("");
    let folder = server.killed();
    fs::write(folder.path().join("conf/bindery.conf"), conf("durability=snapshot")).unwrap();
    let server = Server::launch(folder, &ARGS, true);
    assert_eq!(contacts(&server, &mut alice), 1);
    bob.turn_to(server.sip[0]);
    assert_eq!(bob.register(0).code, 200);
    // What the old segments say of bob is overtaken by the last snapshot.
    let server = server.restart();
    assert_eq!(contacts(&server, &mut alice), 1);
    assert_eq!(contacts(&server, &mut bob), 0);
}
