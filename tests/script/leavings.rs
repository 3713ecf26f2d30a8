//! What scripts have started goes with them, whichever way it is started and they end.

use std::{fs, path::Path};

use crate::{
    file, serve,
    support::{Server, wait_until},
};

/// Starts a script that leaves three processes behind, and waits until it has.
fn leaving() -> Server {
    let server = serve(&format!("[scripts]\n{}=told\n", file("tests/script/leaver.sh")));
    wait_until("four processes", || told(&server.path("told")).len() == 4);
    server
}

/// The processes that the script has noted, itself last of each start.
fn told(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.rsplit(' ').next()).map(str::to_owned).collect()
}

fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

fn all_end(pids: &[String]) {
    wait_until("all of them to end", || !pids.iter().any(|pid| runs(pid)));
}

#[test]
fn at_a_stop() {
    let server = leaving();
    let pids = told(&server.path("told"));
    assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
    let (status, _folder) = server.stop();
    assert!(status.success(), "{status}");
    // Not some time later: it has ended because they have.
    assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
}

#[test]
fn when_a_script_is_killed_and_started_again() {
    let server = leaving();
    let pids = told(&server.path("told"));
    let script = pids.iter().find(|pid| {
        let line = fs::read_to_string(Path::new("/proc").join(pid).join("cmdline"));
        line.is_ok_and(|line| line.contains("leaver.sh"))
    });
    let sent = std::process::Command::new("kill").args(["-KILL", script.unwrap()]).status();
    assert!(sent.unwrap().success());
    wait_until("another start", || told(&server.path("told")).len() == 8);
    all_end(&pids);
    assert!(server.log().contains("it was ended by signal 9"), "{}", server.log());
}

#[test]
fn when_the_server_is_killed() {
    let server = leaving();
    let pids = told(&server.path("told"));
    let _folder = server.killed();
    all_end(&pids);
}
