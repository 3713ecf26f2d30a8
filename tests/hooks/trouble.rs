//! Receivers that are slow, gone, or say what nobody can use.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::atomic::Ordering,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    metric,
    receiver::{Example, Misfit, Receiver, SECRET, Vice, free_port},
    register, serve,
    support::{Phone, wait_until},
    url,
};

#[test]
fn who_is_slow_is_waited_for_as_long_as_was_said_and_no_longer() {
    let misfit = Misfit::start(Vice::Silent);
    let hook = format!("url=http://{}/\nevents=auth\ntimeout=300\n", misfit.addr);
    let users = "[100]\npassword=secret\n";
    let server = serve(&hook, users);
    // The next one is asked, and here it knows.
    let begun = Instant::now();
    assert_eq!(register(&server, "100", "secret"), 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Nobody knows, and not all could say.
    assert_eq!(register(&server, "200", "x"), 503);
    let late = r#"bindery_hook_questions_total{hook="crm",event="auth",result="late"}"#;
    assert!(metric(&server, late) >= 2);
    wait_until("the log to say so", || server.log().contains("no answer within 300 ms"));
    // `refuse` has nobody else asked.
    let server = serve(&format!("{hook}on_error=refuse\n"), users);
    assert_eq!(register(&server, "100", "secret"), 503);
}

#[test]
fn who_comes_to_a_full_queue_does_not_wait() {
    let misfit = Misfit::start(Vice::Silent);
    let hook = "events=auth\ntimeout=3000\nconcurrency=1\nqueue=0\n";
    let server = serve(&format!("url=http://{}/\n{hook}", misfit.addr), "");
    let addr = server.sip[0];
    let first = std::thread::spawn(move || Phone::new(addr, "100", "x").register(600).code);
    wait_until("the first question", || misfit.requests.load(Ordering::Relaxed) == 1);
    let begun = Instant::now();
    assert_eq!(register(&server, "200", "x"), 503);
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(first.join().unwrap(), 503);
    let overload = r#"bindery_hook_questions_total{hook="crm",event="auth",result="overload"}"#;
    assert!(metric(&server, overload) >= 1);
}

#[test]
fn what_can_not_be_used_is_no_answer() {
    for (vice, result) in [
        (Vice::Closing, "unreachable"),
        (Vice::Endless, "garbage"),
        (Vice::Says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), "garbage"),
        (
            Vice::Says(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            ),
            "garbage",
        ),
        (Vice::Says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), "garbage"),
        (Vice::Says("SSH-2.0-OpenSSH_9.2\r\n"), "unreachable"),
        (
            Vice::Says(
                "HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n\
                 {\"refuse\":{\"code\":403,\"reason\":\"a\\r\\nVia: x  \"}}",
            ),
            "garbage",
        ),
    ] {
        let misfit = Misfit::start(vice);
        let server =
            serve(&format!("url=http://{}/\nevents=auth\ntimeout=4000\n", misfit.addr), "");
        assert_eq!(register(&server, "100", "x"), 503, "{vice:?}");
        let name =
            format!(r#"bindery_hook_questions_total{{hook="crm",event="auth",result="{result}"}}"#);
        assert_eq!(metric(&server, &name), 1, "{vice:?}: {}", server.log());
        assert!(misfit.requests.load(Ordering::Relaxed) >= 1);
    }
}

#[test]
fn refreshes_of_known_users_wait_for_nobody() {
    let Some(example) = Example::Python.found("refreshes_of_known_users_wait_for_nobody") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), "100 secret\n").unwrap();
    let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
    let hook = "events=auth,register,registered,unregister\ncache=300\ntimeout=5000\n";
    let server = serve(&format!("{}{hook}", url(receiver.port)), "");
    let mut phone = Phone::new(server.sip[0], "100", "secret");
    assert_eq!(phone.register(600).code, 200);
    wait_until("the notification", || receiver.told_of("100") == ["registered"]);
    drop(receiver);
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = phone.register(600);
        assert_eq!(answer.code, 200, "{}", answer.text);
        assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    }
    // Who is not known yet needs the receiver.
    assert_eq!(register(&server, "200", "x"), 503);
    let reachable = || {
        let log = server.log();
        log.contains("hook crm: ") || log.contains("hook=\"crm\"")
    };
    wait_until("the fault in the log", reachable);
}

#[test]
fn what_a_receiver_never_takes_is_set_aside() {
    let misfit = Misfit::start(Vice::Says("HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n"));
    let hook = format!("url=http://{}/\nevents=registered\n", misfit.addr);
    let server = serve(&hook, "[100]\npassword=secret\n");
    assert_eq!(register(&server, "100", "secret"), 200);
    let aside = || fs::read_to_string(server.path("state/hook-refused.jsonl")).unwrap_or_default();
    wait_until("the file", || aside().ends_with('\n'));
    let note: serde_json::Value = serde_json::from_str(aside().trim()).unwrap();
    assert_eq!((&note["event"], &note["aor"]), (&"registered".into(), &"100".into()));
    assert_eq!(note["reason"], "it answered 422");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("set aside: it answered 422")).unwrap();
    for part in ["registered", "100", note["id"].as_str().unwrap()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    wait_until("an empty spool", || metric(&server, r#"bindery_hook_spooled{hook="crm"}"#) == 0);
}

#[test]
fn what_an_example_could_not_write_is_told_again() {
    let test = "what_an_example_could_not_write_is_told_again";
    for example in Example::ALL.into_iter().filter_map(|example| example.found(test)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("users"), "").unwrap();
        let log = folder.path().join("told.jsonl");
        std::os::unix::fs::symlink("/dev/full", &log).unwrap();
        let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
        let hook = format!("{}events=registered\n", url(receiver.port));
        let server = serve(&hook, "[100]\npassword=secret\n");
        assert_eq!(register(&server, "100", "secret"), 200);
        let tries =
            r#"bindery_hook_notifications_total{hook="crm",event="registered",result="retried"}"#;
        wait_until("a second try", || metric(&server, tries) >= 2);
        assert!(receiver.said().contains("ENOSPC") || receiver.said().contains("No space"));
        fs::remove_file(&log).unwrap();
        wait_until("the notification", || receiver.told_of("100") == ["registered"]);
    }
}

#[test]
fn the_examples_refuse_what_is_no_request_of_ours() {
    let test = "the_examples_refuse_what_is_no_request_of_ours";
    for example in Example::ALL.into_iter().filter_map(|example| example.found(test)) {
        let folder = tempfile::tempdir().unwrap();
        let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        for (head, status) in [
            (format!("Bindery-Signature: t={now},v1=\u{e9}\r\nContent-Length: 2"), 401),
            (format!("Bindery-Signature: t={},v1=00\r\nContent-Length: 2", "9".repeat(5000)), 401),
            ("Content-Length: 2".to_owned(), 401),
            ("Content-Length: x".to_owned(), 400),
            ("Content-Length: -2".to_owned(), 400),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", receiver.port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{{}}");
            stream.write_all(request.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{example:?} {head}: {line}");
        }
        assert!(!receiver.said().contains("Traceback"), "{}", receiver.said());
    }
}

#[test]
fn a_fault_that_goes_on_hides_no_other() {
    let hook = format!("{}events=registered\nspool=1\n", url(free_port()));
    let server = serve(&hook, "[100]\npassword=secret\n[200]\npassword=secret\n");
    assert_eq!(register(&server, "100", "secret"), 200);
    wait_until("the first fault", || server.log().contains("Connection refused"));
    assert_eq!(register(&server, "200", "secret"), 200);
    wait_until("the other", || server.log().contains("there is no room for more notifications"));
}
