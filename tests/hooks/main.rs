//! Webhooks with the real program: the example receivers, and receivers that misbehave.

mod caller;
mod receiver;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for other tests")]
mod support;
mod trouble;

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
};

use self::{
    caller::End,
    receiver::{Example, Receiver, SECRET, free_port, has},
    support::{Phone, Server, command, wait_until},
};

const BINDERY_CONF: &str = "[general]\nworkers=1\npin=no\n[listener a]\naddr=127.0.0.1\nport=0\n\
                            [registrar]\nexpires_min=1\n[cache]\nnegative=1\n\
                            [calls]\ntrusted=127.0.0.0/8\n";

/// Starts a registrar with these lines in `[hook crm]`, and these users of its own.
fn serve(hook: &str, users: &str) -> Server {
    let conf = format!("{BINDERY_CONF}[hook crm]\nsecret={SECRET}\n{hook}");
    Server::start(&[("bindery.conf", &conf), ("regfile.conf", users)])
}

fn url(port: u16) -> String {
    format!("url=http://127.0.0.1:{port}/hook\n")
}

fn register(server: &Server, user: &str, password: &str) -> u16 {
    Phone::new(server.sip[0], user, password).register(600).code
}

/// A count of the metrics page; zero if it is not there.
fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect(server.admin).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn the_examples_are_asked_and_told() {
    let test = "the_examples_are_asked_and_told";
    for example in Example::ALL.into_iter().filter_map(|example| example.found(test)) {
        let folder = tempfile::tempdir().unwrap();
        let callee = End::new();
        let users =
            format!("100 secret\n200 other sip:200@{}\nblocked1 x\nshort brief\n", callee.addr());
        fs::write(folder.path().join("users"), users).unwrap();
        let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
        let events = "events=auth,register,route,registered,unregister,expire,call\n";
        let server = serve(&format!("{}{events}timeout=5000\n", url(receiver.port)), "");
        assert_eq!(register(&server, "100", "wrong"), 401);
        assert_eq!(register(&server, "nobody", "x"), 401);
        // Nothing is told of who is turned down.
        assert_eq!(register(&server, "blocked1", "x"), 403);
        let mut phone = Phone::new(server.sip[0], "100", "secret");
        for expires in [600, 600, 600, 0] {
            let answer = phone.register(expires);
            assert_eq!(answer.code, 200, "{}", answer.text);
        }
        // Only a change is told; a refresh is none.
        wait_until("unregister", || receiver.told_of("100").len() >= 2);
        assert_eq!(receiver.told_of("100"), ["registered", "unregister"]);
        assert_eq!(receiver.told_of("blocked1"), [""; 0]);
        assert_eq!(Phone::new(server.sip[0], "short", "brief").register(2).code, 200);
        wait_until("expire", || receiver.told_of("short") == ["registered", "expire"]);

        let answer = End::new().call(server.sip[0], "200", &callee);
        assert!(answer.starts_with("SIP/2.0 486"), "{answer}");
        let records = || {
            let all = receiver.told().into_iter();
            all.filter(|note| note["event"] == "call").collect::<Vec<_>>()
        };
        let operations = || {
            let all = records().into_iter();
            all.map(|note| note["params"]["operation"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        wait_until("the end of the call", || operations().contains(&"finalize".to_owned()));
        assert_eq!(operations().first().map(String::as_str), Some("initialize"), "{:?}", records());
        assert_eq!(records().last().unwrap()["params"]["called"], "200");

        let told = receiver.told();
        let registered = told.iter().find(|note| note["event"] == "registered").unwrap();
        assert_eq!(
            (&registered["hook"], &registered["cause"]),
            (&"crm".into(), &"registered".into())
        );
        assert_eq!(registered["params"]["username"], "100");
        let data = registered["bindings"][0]["data"].as_str().unwrap();
        assert!(data.starts_with("sip/sip:100@127.0.0.1:"), "{data}");
        let ids: HashSet<&str> = told.iter().map(|note| note["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), told.len());
        assert!(!receiver.said().contains("wrong signature"), "{}", receiver.said());
        let delivered =
            r#"bindery_hook_notifications_total{hook="crm",event="unregister",result="delivered"}"#;
        wait_until("the metric", || metric(&server, delivered) == 1);
        let refused = r#"bindery_hook_questions_total{hook="crm",event="auth",result="passed"}"#;
        assert!(metric(&server, refused) > 0);
        assert_eq!(metric(&server, r#"bindery_hook_spooled{hook="crm"}"#), 0);
    }
}

#[test]
fn nothing_is_lost_while_the_receiver_is_away_and_the_server_is_killed() {
    let test = "nothing_is_lost_while_the_receiver_is_away_and_the_server_is_killed";
    for example in Example::ALL.into_iter().filter_map(|example| example.found(test)) {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let hook = format!("{}events=registered,unregister,expire\n", url(port));
        let users: String = (0..30).map(|n| format!("[{n}]\npassword=x\n")).collect();
        let mut server = serve(&hook, &users);
        let mut phones: Vec<Phone> =
            (0..30).map(|n| Phone::new(server.sip[0], &n.to_string(), "x")).collect();
        // Killed the moment the last answer is there, twice.
        for round in 0..2 {
            for (n, phone) in phones.iter_mut().enumerate() {
                phone.turn_to(server.sip[0]);
                // Odd ones come and go.
                let expires = if n % 2 == 1 && round == 1 { 0 } else { 600 };
                let answer = phone.register(expires);
                assert_eq!(answer.code, 200, "{round} {n}: {}", answer.text);
            }
            let folder = server.killed();
            server = Server::launch(folder, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
        }
        let receiver = Receiver::start(example, folder.path(), port, SECRET, &[]);
        wait_until("everything to be told", || {
            (0..30).all(|n| {
                let told = receiver.told_of(&n.to_string());
                let last = if n % 2 == 1 { "unregister" } else { "registered" };
                told.last().is_some_and(|event| event == last)
            })
        });
        for n in 0..30 {
            // At least once, and in order: what is told twice is told in a row. Of what was so only
            // for the moment around a kill, the state after it is told.
            let mut told = receiver.told_of(&n.to_string());
            told.dedup();
            let all = ["registered", "unregister"];
            let last = &all[n % 2..1 + n % 2];
            assert!(told == all[..1 + n % 2] || told == last, "{n}: {told:?}");
        }
        let retried =
            r#"bindery_hook_notifications_total{hook="crm",event="registered",result="retried"}"#;
        assert!(metric(&server, retried) > 0);
        wait_until("an empty spool", || {
            metric(&server, r#"bindery_hook_spooled{hook="crm"}"#) == 0
        });
        assert!(server.stop().0.success());
    }
}

#[test]
fn what_ended_while_nobody_was_there_is_told() {
    let Some(example) = Example::Python.found("what_ended_while_nobody_was_there_is_told") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
    let events = "events=registered,unregister,expire\n";
    let server =
        serve(&format!("{}{events}", url(receiver.port)), "[1]\npassword=x\n[2]\npassword=x\n");
    assert_eq!(Phone::new(server.sip[0], "1", "x").register(2).code, 200);
    assert_eq!(register(&server, "2", "x"), 200);
    let (status, state) = server.stop();
    assert!(status.success());
    assert_eq!((receiver.told_of("1"), receiver.told_of("2")).0, ["registered"]);
    let began = tokio::time::Instant::now();
    wait_until("the end of a binding", || began.elapsed().as_secs() >= 3);
    let server = Server::launch(state, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
    wait_until("expire", || receiver.told_of("1") == ["registered", "expire"]);
    // After a stop that was none of a crash, nothing is told twice.
    assert!(server.stop().0.success());
    assert_eq!(receiver.told_of("2"), ["registered"]);
}

#[test]
fn whose_account_goes_while_nobody_is_there_is_told_as_gone() {
    let Some(example) =
        Example::Python.found("whose_account_goes_while_nobody_is_there_is_told_as_gone")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
    let hook = format!("{}events=registered,unregister,expire\n", url(receiver.port));
    let [one, others] = ["[1]\npassword=x\n", "[2]\npassword=x\n[3]\npassword=x\n"];
    let mut server = serve(&hook, &format!("{one}{others}"));
    for user in ["1", "2", "3"] {
        assert_eq!(register(&server, user, "x"), 200);
    }
    wait_until("registered", || receiver.told().len() == 3);
    // Once after a stop, then after a kill.
    for (users, gone) in [(others, "1"), ("[2]\npassword=x\n", "3")] {
        let state = if gone == "1" { server.stop().1 } else { server.killed() };
        fs::write(state.path().join("conf/regfile.conf"), users).unwrap();
        server = Server::launch(state, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
        wait_until("its end", || {
            receiver.told_of(gone).last().is_some_and(|event| event == "unregister")
        });
        let log = server.log();
        assert!(log.contains("orphaned=1") || log.contains("orphaned\":1"), "{log}");
    }
    // It is told once, and of nobody else.
    let server = server.restart();
    wait_until("who is left", || metric(&server, "bindery_aors") == 1);
    assert_eq!(receiver.told_of("1"), ["registered", "unregister"]);
    assert!(receiver.told_of("2").iter().all(|event| event == "registered"));
    assert!(server.stop().0.success());
}

#[test]
fn a_receiver_sees_who_has_not_the_secret() {
    let test = "a_receiver_sees_who_has_not_the_secret";
    for example in Example::ALL.into_iter().filter_map(|example| example.found(test)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("users"), "100 secret\n").unwrap();
        let receiver = Receiver::start(example, folder.path(), 0, "another", &[]);
        let server = serve(&format!("{}events=auth,registered\n", url(receiver.port)), "");
        assert_eq!(register(&server, "100", "secret"), 503);
        wait_until("the complaint", || receiver.said().contains("wrong signature"));
        assert!(receiver.told().is_empty());
    }
}

/// Makes an authority and a certificate of its for 127.0.0.1; `false` without openssl.
fn certify(folder: &Path) -> bool {
    if !has("openssl") {
        return false;
    }
    fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -subj /CN=authority -keyout ca.key -out ca.pem && \
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=receiver \
         -keyout key.pem -out request.pem && \
         openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile ext -out cert.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

#[test]
fn tls_is_checked_and_carries_http_2() {
    let Some(example) = Example::Node.found("tls_is_checked_and_carries_http_2") else { return };
    let folder = tempfile::tempdir().unwrap();
    if !certify(folder.path()) {
        return eprintln!("SKIPPED hooks tls_is_checked_and_carries_http_2: there is no openssl");
    }
    fs::write(folder.path().join("users"), "100 secret\n").unwrap();
    let [cert, key, ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.path().join(name));
    let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[&cert, &key]);
    let hook = |ca: &Path| {
        format!(
            "url=https://127.0.0.1:{}/\nevents=auth,registered\ntimeout=5000\nca_file={}\n",
            receiver.port,
            ca.display()
        )
    };
    let server = serve(&hook(&ca), "");
    assert_eq!(register(&server, "100", "secret"), 200);
    wait_until("the notification", || receiver.told_of("100") == ["registered"]);
    assert_eq!(receiver.told()[0]["httpVersion"], "2.0");
    // Whom that authority doesn't know is not believed.
    let other = tempfile::tempdir().unwrap();
    assert!(certify(other.path()));
    let stranger = serve(&hook(&other.path().join("ca.pem")), "");
    assert_eq!(register(&stranger, "100", "secret"), 503);
    wait_until("the fault", || stranger.log().contains("invalid peer certificate"));

    let check = |ca: &Path| {
        let folder = tempfile::tempdir().unwrap();
        let conf = format!("{BINDERY_CONF}[hook crm]\nsecret={SECRET}\n{}", hook(ca));
        fs::write(folder.path().join("bindery.conf"), conf).unwrap();
        let done =
            command(folder.path()).args(["check", "--connect", "--config", "."]).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    assert_eq!(check(&ca).0, Some(0), "{}", check(&ca).1);
    let (code, said) = check(&other.path().join("ca.pem"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("[hook crm]"), "{said}");
}

#[test]
fn a_reload_brings_another_receiver() {
    let Some(example) = Example::Python.found("a_reload_brings_another_receiver") else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), "100 secret\n").unwrap();
    let server = serve(&format!("{}events=auth,registered\n", url(free_port())), "");
    assert_eq!(register(&server, "100", "secret"), 503);
    let receiver = Receiver::start(example, folder.path(), 0, SECRET, &[]);
    let hook = format!("{}events=auth,registered,unregister\ncache=300\n", url(receiver.port));
    let conf = format!("{BINDERY_CONF}[hook crm]\nsecret={SECRET}\n{hook}");
    server.write("bindery.conf", &conf);
    server.signal("HUP");
    let mut phone = Phone::new(server.sip[0], "100", "secret");
    wait_until("the reload", || phone.register(600).code == 200);
    wait_until("the notification", || receiver.told_of("100") == ["registered"]);
    // None at all.
    server.write("bindery.conf", BINDERY_CONF);
    server.signal("HUP");
    wait_until("the reload", || {
        register(&server, "200", "x") == 401 && phone.register(0).code != 200
    });
}

#[test]
fn stats_tell_how_a_hook_does() {
    let server = serve(&format!("{}events=auth,registered\n", url(free_port())), "");
    assert_eq!(register(&server, "100", "secret"), 503);
    let args = ["stats", "--admin", &server.admin.to_string()];
    let stats = command(&server.path("")).args(args).output().unwrap();
    let stats = String::from_utf8(stats.stdout).unwrap();
    let lines = ["back end   hook crm: user.auth ", "hook       crm: asked: unreachable "];
    for start in lines {
        assert!(stats.lines().any(|line| line.starts_with(start)), "{start}: {stats}");
    }
    assert!(stats.contains("; told: none; 0 waiting\n"), "{stats}");
}
