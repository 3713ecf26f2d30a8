//! Modules that die, stop, dawdle and babble, while phones refresh.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    client::Module,
    file, register, register_in_time, serve, serve_socket,
    support::{Phone, Server, command, wait_until},
};

/// A refresh that waits for a module would take as long as that takes to be given up.
const SOON: Duration = Duration::from_millis(400);

/// A module that answers everything with `secret`, until it is told to stop.
fn obliging(at: SocketAddr, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    let mut module = Module::connect(at);
    module.install(50, "user.auth");
    module.install(50, "user.register");
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let line = module.line();
            let Some(rest) = line.strip_prefix("%%>message:") else { break };
            let id = rest.split(':').next().unwrap();
            module.say(&format!("%%<message:{id}:true::secret"));
        }
    })
}

/// Refreshes of a phone while something is wrong: none waits for a module.
fn refreshes_go_on(phone: &mut Phone) {
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = phone.register(600);
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

fn pid_of(server: &Server) -> String {
    let told = std::fs::read_to_string(server.path("told")).unwrap();
    told.lines().rev().find_map(|line| line.split_once("pid ")).unwrap().1.to_owned()
}

fn signal(pid: &str, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_script_that_is_killed_comes_back_and_cached_users_do_not_notice() {
    let script = file("tests/script/module.sh");
    let server = serve(&format!("[scripts]\n{script}=told\n[bindery]\ncache=300\n"));
    register_in_time(&server, "one", "first");
    let mut phone = Phone::new(server.sip[0], "one", "first");
    assert_eq!(phone.register(600).code, 200);
    let old = pid_of(&server);
    signal(&old, "KILL");
    // Nobody can say who that is, which is not that there is no such user.
    wait_until("the script's end to be noticed", || {
        server.log().contains("it was ended by signal 9")
    });
    refreshes_go_on(&mut phone);
    let code = register(&server, "two", "seco:nd");
    assert!([200, 503].contains(&code), "{code}");
    register_in_time(&server, "two", "seco:nd");
    assert_ne!(pid_of(&server), old);
}

#[test]
fn a_script_that_is_stopped_holds_up_nobody_but_those_it_is_needed_for() {
    let script = file("tests/script/module.sh");
    let server =
        serve(&format!("[general]\ntimeout=500\n[scripts]\n{script}=told\n[bindery]\ncache=300\n"));
    register_in_time(&server, "one", "first");
    let mut phone = Phone::new(server.sip[0], "one", "first");
    assert_eq!(phone.register(600).code, 200);
    let pid = pid_of(&server);
    signal(&pid, "STOP");
    assert_eq!(register(&server, "two", "seco:nd"), 503);
    refreshes_go_on(&mut phone);
    signal(&pid, "CONT");
    register_in_time(&server, "two", "seco:nd");
    // One that is stopped again ends with the rest.
    signal(&pid, "STOP");
    let begun = Instant::now();
    assert!(server.stop().0.success());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Many phones at once register that nobody has heard of, and whose questions are long, until it is
/// over; how many have been refused is counted.
fn crowd(at: SocketAddr, refused: &AtomicUsize, is_over: &AtomicBool) {
    const AT_ONCE: usize = 64;
    thread::scope(|scope| {
        for n in 0..AT_ONCE {
            scope.spawn(move || {
                let mut codes = (0..).map(|m| {
                    let mut phone = Phone::new(at, &format!("crowd-{n}-{m}"), "secret");
                    phone.say_besides(&format!("User-Agent: {}\r\n", "x".repeat(7000)));
                    phone.register(600).code
                });
                while !is_over.load(Ordering::Relaxed) {
                    let code = codes.next();
                    refused.fetch_add(usize::from(code == Some(503)), Ordering::Relaxed);
                }
            });
        }
    });
}

#[test]
fn a_script_that_was_stopped_under_load_goes_on_where_it_is_needed() {
    // Of so many, the questions are several MB.
    const REFUSED: usize = 2000;
    let script = file("tests/script/echo.py");
    let server = serve(&format!("[general]\ntimeout=200\n[scripts]\n{script}=told\n"));
    register_in_time(&server, "one", "secret");
    let pid = pid_of(&server);
    signal(&pid, "STOP");
    let (refused, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| crowd(server.sip[0], &refused, &is_over));
        wait_until("many to be refused", || refused.load(Ordering::Relaxed) > REFUSED);
        signal(&pid, "CONT");
        let mut was_served = false;
        let begun = Instant::now();
        while !was_served && begun.elapsed() < Duration::from_secs(20) {
            was_served = register(&server, "two", "secret") == 200;
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(was_served);
    });
    assert_eq!(pid_of(&server), pid);
}

#[test]
fn what_is_too_long_for_a_script_harms_nobody_else() {
    let script = file("tests/script/echo.py");
    let server = serve(&format!("[scripts]\n{script}=told\n"));
    register_in_time(&server, "one", "secret");
    let (pid, mut other) = (pid_of(&server), Phone::new(server.sip[0], "two", "secret"));
    // The answer has no room in a line of the script's, or the question none in any.
    let mut codes = BTreeSet::new();
    for octets in (1700..2000).step_by(24).chain([40_000]) {
        let mut phone = Phone::new(server.sip[0], &format!("long-{octets}"), "secret");
        // Each is two in a line.
        phone.say_besides(&format!("User-Agent: {}\r\n", "%".repeat(octets)));
        codes.insert(phone.register(600).code);
        assert_eq!(other.register(600).code, 200, "{octets}");
    }
    assert_eq!(codes, BTreeSet::from([200, 503]));
    assert_eq!(pid_of(&server), pid);
    for said in ["its answer is longer than bufsize", "the question is longer than 64 KiB"] {
        wait_until(said, || server.log().contains(said));
    }
}

#[test]
fn a_script_that_cannot_be_started_is_an_outage() {
    let server = serve("[scripts]\nnone.py=\n");
    wait_until("the log to say so", || server.log().contains("none.py: No such file"));
    assert_eq!(register(&server, "one", "x"), 503);
    let ready = || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let answer = agent.get(format!("http://{}/readyz", server.admin)).call();
        answer.unwrap().body_mut().read_to_string().unwrap()
    };
    wait_until("/readyz to name it", || ready().contains("script none.py is away"));
    assert!(!server.log().contains("INFO started"), "{}", server.log());
    assert!(server.stop().0.success());
}

#[test]
fn a_script_that_ends_at_once_stays_away_until_it_installs_something() {
    let (script, other) = (file("tests/script/flapping.sh"), file("tests/script/module.sh"));
    let server = serve(&format!("[scripts]\n{script}=ends\n{other}=told\n"));
    let status = || {
        let mut command = command(&server.path(""));
        let done = command.args(["script", "status", "--admin", &server.admin.to_string()]);
        String::from_utf8(done.output().unwrap().stdout).unwrap()
    };
    register_in_time(&server, "one", "first");
    let starts = |log: &str| log.matches(&format!("INFO started script=script {script}")).count();
    wait_until("some starts", || starts(&server.log()) > 3);
    // Another one that works doesn't make up for it.
    assert!(status().contains(&format!("script {script}=away")), "{}", status());
    assert_eq!(register(&server, "nobody", "x"), 503);
    assert_eq!(server.log().matches("is away").count(), 1, "{}", server.log());
    std::fs::write(server.path("ends"), "").unwrap();
    wait_until("it to stay", || status().contains("scripts=2"));
    assert!(!status().contains("away"));
    wait_until("the log to say so", || server.log().contains("no longer: script"));
}

#[test]
fn after_a_reload_nobody_is_unknown_whom_a_slow_script_knows() {
    let (late, soon) = (file("tests/script/late.sh"), file("tests/script/module.sh"));
    let conf = |told: &str| format!("[scripts]\n{late}=go\n{soon}={told}\n");
    let server = serve(&conf("told"));
    let go = server.path("go");
    std::fs::write(&go, "").unwrap();
    register_in_time(&server, "late", "secret");
    std::fs::remove_file(&go).unwrap();
    server.write("extmodule.conf", &conf("again"));
    server.signal("HUP");
    wait_until("the other script", || server.path("again").exists());
    register_in_time(&server, "one", "first");
    let begun = Instant::now();
    // Longer than others have to come with the first.
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(register(&server, "late", "secret"), 503);
    }
    std::fs::write(&go, "").unwrap();
    register_in_time(&server, "late", "secret");
}

#[test]
fn a_reload_of_numbers_starts_nothing_again() {
    let script = file("tests/script/module.sh");
    let conf = |timeout| format!("[general]\ntimeout={timeout}\n[scripts]\n{script}=told\n");
    let server = serve(&conf(60_000));
    register_in_time(&server, "one", "first");
    let pid = pid_of(&server);
    server.write("extmodule.conf", &conf(100));
    server.signal("HUP");
    wait_until("the reload", || server.log().contains("reloaded"));
    assert_eq!(register(&server, "one", "first"), 200);
    signal(&pid, "STOP");
    // By the new timeout.
    assert_eq!(register(&server, "two", "seco:nd"), 503);
    signal(&pid, "CONT");
    register_in_time(&server, "two", "seco:nd");
    assert_eq!(pid_of(&server), pid);
}

#[test]
fn a_timebomb_ends_who_does_not_answer() {
    let (server, at) = serve_socket("[general]\ntimeout=200\ntimebomb=yes\n");
    let mut module = Module::connect(at);
    module.install(50, "user.auth");
    assert_eq!(register(&server, "one", "x"), 503);
    assert_eq!(module.message().name, "user.auth");
    // Of some questions that were put to it before.
    while !module.line().is_empty() {}
}

#[test]
fn who_babbles_or_answers_what_nobody_asked_disturbs_nobody() {
    let (server, at) = serve_socket("[bindery]\ncache=300\n[general]\ntimeout=1000\n");
    let stop = Arc::new(AtomicBool::new(false));
    let good = obliging(at, &stop);
    register_in_time(&server, "one", "secret");
    let mut phone = Phone::new(server.sip[0], "one", "secret");
    assert_eq!(phone.register(600).code, 200);

    let babblers: Vec<_> = [
        "babble babble babble",
        "%%<message:0x0001.1:true::stolen",
        "%%>output:hello",
        "%%>message:x:0:user.nothing::a=b",
        "Error in: Error in: x",
    ]
    .into_iter()
    .map(|line| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut module = Module::connect(at);
            module.install(40, "engine.timer");
            // Never reads what it is answered.
            while !stop.load(Ordering::Relaxed) {
                module.say(&format!("{line}\n").repeat(100));
            }
        })
    })
    .collect();
    for _ in 0..5 {
        refreshes_go_on(&mut phone);
    }
    // Who has to be asked for still is.
    for user in ["two", "three", "four"] {
        register_in_time(&server, user, "secret");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(server.stop().0.success());
    for babbler in babblers {
        babbler.join().unwrap();
    }
    good.join().unwrap();
}
