//! `bindery bench` against `bindery serve`, and against its own echo.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use super::support::{Server, command};

const CONF: &str = "[general]\nworkers=1\npin=no\n[listener main]\naddr=127.0.0.1\nport=0\n";

/// Users of each scenario; fewer than a batch and more than a window are both in it.
const USERS: u64 = 50;

fn server(conf: &str) -> Server {
    let users: String =
        (0..USERS).map(|user| format!("[u{user:06}]\npassword=p{user:06}\n")).collect();
    Server::start(&[("bindery.conf", &format!("{CONF}{conf}")), ("regfile.conf", &users)])
}

/// Runs a scenario; the result is its exit code and its JSON.
fn bench(server: &Server, args: &[&str]) -> (Option<i32>, Value) {
    let target = server.sip[0].to_string();
    // Free ports: other tests run at the same time.
    let mut all = vec!["bench"];
    all.extend(args);
    all.extend(["--target", &target, "--users", "50", "--port", "0", "--sources", "3"]);
    all.extend(["--batch", "7", "--warmup", "0", "--json", "-"]);
    if !args.contains(&"--rate") && !args.contains(&"storm") {
        all.extend(["--window", "20"]);
    }
    let output = command(Path::new(".")).args(all).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// What a counter of the server is at, all its labels together.
fn count(server: &Server, name: &str, label: &str) -> u64 {
    let text = ureq::get(format!("http://{}/metrics", server.admin)).call().unwrap();
    let text = text.into_body().read_to_string().unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// That the server has counted what the generator says it sent and got.
fn agree(server: &Server, report: &Value) {
    let messages = &report["all_messages"];
    let sent_again = messages["retransmissions"].as_u64().unwrap();
    let sent = messages["requests"].as_u64().unwrap() + sent_again;
    assert_eq!(sent, count(server, "bindery_requests_total", ""), "{report}");
    for (status, answers) in messages["answers"].as_object().unwrap() {
        let code = format!("code=\"{status}\"");
        let sent = count(server, "bindery_responses_total", &code);
        // On a machine that stands still for half a second, more were sent than were waited for.
        let answers = answers.as_u64().unwrap();
        assert!((answers..=answers + sent_again).contains(&sent), "{status} {report}");
    }
}

#[test]
fn each_scenario_counts_what_the_server_counts() {
    for (scenario, operations) in [
        ("register", vec!["registration"]),
        ("auth", vec!["registration"]),
        ("refresh", vec!["re-registration"]),
        ("query", vec!["query"]),
        ("unregister", vec!["restoration", "unregistration"]),
        ("options", vec!["options"]),
    ] {
        let server = server("");
        let amount: &[&str] = if scenario == "register" { &[] } else { &["--count", "300"] };
        let (code, report) = bench(&server, &[&[scenario], amount].concat());
        assert_eq!(code, Some(0), "{report}");
        let each = if scenario == "register" { USERS } else { 300 };
        for operation in &operations {
            assert_eq!(report["operations"][operation]["completed"], each, "{report}");
        }
        assert_eq!(report["completed"], each * operations.len() as u64);
        assert_eq!((&report["failed"], &report["lost"]), (&0.into(), &0.into()));
        assert_eq!(report["scenario"], scenario);
        let latency = &report["operations"][operations[0]]["latency"];
        let percentiles = ["p50", "p90", "p99", "p999", "max"];
        let percentiles = percentiles.map(|name| latency[name].as_f64().unwrap());
        assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{latency}");
        agree(&server, &report);
        if scenario != "options" {
            assert_eq!(count(&server, "bindery_aors", ""), USERS);
        }
    }
}

#[test]
fn a_mix_has_all_of_it() {
    let server = server("[auth]\nalgorithms=SHA-256,MD5\n");
    let args = ["mix", "--count", "2000", "--seed", "7", "--algorithm", "MD5"];
    let (code, report) = bench(&server, &args);
    assert_eq!(code, Some(0), "{report}");
    let operations = report["operations"].as_object().unwrap();
    let counts = |name: &str| operations[name]["completed"].as_u64().unwrap();
    assert_eq!(counts("unregistration"), counts("restoration"));
    assert_eq!(operations.len(), 5);
    assert_eq!(report["completed"], 2000 + counts("restoration"));
    assert!(counts("re-registration") > 1400 && counts("registration") > 100, "{report}");
    agree(&server, &report);
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let server = server("[auth]\nalgorithms=SHA-256\n");
    let (code, report) = bench(&server, &["refresh", "--rate", "500", "--count", "250"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!((&report["completed"], &report["offered_rate"]), (&250.into(), &500.0.into()));
    // The last one starts after 0.498 s, and no sooner.
    assert!(report["seconds"].as_f64().unwrap() >= 0.498, "{report}");
    assert!(report["lateness"][0].is_f64() && report["window"].is_null());
    assert_eq!(report["not_started"], 0);
    agree(&server, &report);
}

#[test]
fn a_rate_that_is_not_kept_is_told() {
    // Nobody answers after the first request, so each phone waits for its answer.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap().to_string();
    let echo = std::thread::spawn(move || {
        let mut octets = [0; 4096];
        let (len, from) = socket.recv_from(&mut octets).unwrap();
        socket.send_to(&octets[..len], from).unwrap();
        socket
    });
    let output = run(&[
        "echo",
        "--target",
        &target,
        "--users",
        "3",
        "--rate",
        "1000",
        "--duration",
        "0.3",
        "--warmup",
        "0",
        "--json",
        "-",
    ]);
    drop(echo.join().unwrap());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    let missing = report["not_started"].as_u64().unwrap();
    assert_eq!(missing + 3, 300, "{report}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("297 of 300 that were due (99 %) were not started"), "{said}");
}

#[test]
fn a_storm_ends_when_all_are_registered() {
    let server = server("");
    let (code, report) = bench(&server, &["storm", "--ramp", "0.1"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["operations"]["registration"]["completed"], USERS);
    let storm = &report["storm"];
    assert_eq!(storm["within"][7][1], USERS, "{storm}");
    assert_eq!(storm["until"][3][0], 100);
    assert!(storm["until"][3][1].as_f64().unwrap() > 0.0, "{storm}");
    let by_second = storm["by_second"].as_array().unwrap().iter();
    assert_eq!(by_second.map(|count| count.as_u64().unwrap()).sum::<u64>(), USERS);
    assert_eq!(count(&server, "bindery_aors", ""), USERS);
}

#[test]
fn a_lost_enrolment_is_asked_for_again() {
    // The first datagram of each user is lost, after that of the probe.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap().to_string();
    let registrar = std::thread::spawn(move || {
        let mut octets = [0; 4096];
        let mut seen = 0;
        // The probe, three times two REGISTERs, and three refreshes.
        while seen < 10 {
            let (len, from) = socket.recv_from(&mut octets).unwrap();
            seen += 1;
            if !(2..=4).contains(&seen) {
                socket.send_to(&answer(&octets[..len], "200 OK"), from).unwrap();
            }
        }
        socket
    });
    let output = run(&[
        "refresh", "--target", &target, "--users", "3", "--count", "3", "--warmup", "0", "--json",
        "-",
    ]);
    drop(registrar.join().unwrap());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!((&report["completed"], &report["users_missing"]), (&3.into(), &0.into()));
    assert_eq!(report["all_messages"]["retransmissions"], 3);
}

/// A registrar's answer to a request.
fn answer(request: &[u8], status: &str) -> Vec<u8> {
    let request = String::from_utf8_lossy(request);
    let headers = ["Via", "From", "To", "Call-ID", "CSeq", "Contact"];
    let named = |line: &&str| headers.iter().any(|name| line.starts_with(name));
    let lines: String = request.lines().filter(named).map(|line| format!("{line}\r\n")).collect();
    format!("SIP/2.0 {status}\r\n{lines}Content-Length: 0\r\n\r\n").into_bytes()
}

#[test]
fn phones_turned_away_come_back_when_told() {
    // Two of the server's answers are 503 with Retry-After, then it is in order.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap().to_string();
    let registrar = std::thread::spawn(move || {
        let mut octets = [0; 4096];
        let mut seen = 0;
        loop {
            let (len, from) = socket.recv_from(&mut octets).unwrap();
            seen += 1;
            // The first one is to find out about challenges; this registrar wants none.
            let status = match seen {
                2 | 3 => "503 Busy\r\nRetry-After: 1",
                _ => "200 OK",
            };
            socket.send_to(&answer(&octets[..len], status), from).unwrap();
            if seen == 5 {
                return;
            }
        }
    });
    let output = command(Path::new("."))
        .args(["bench", "storm", "--users", "2", "--ramp", "0", "--port", "0", "--json", "-"])
        .args(["--target", &target])
        .output()
        .unwrap();
    registrar.join().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!((&report["completed"], &report["messages"]["retries"]), (&2.into(), &2.into()));
    assert_eq!(report["messages"]["answers"], serde_json::json!({"200": 2, "503": 2}));
    // Their time counts from when they first came.
    assert!(report["operations"]["registration"]["latency"]["p50"].as_f64().unwrap() >= 1e6);
}

#[test]
fn wrong_passwords_are_failures() {
    let server = server("");
    let (code, report) = bench(&server, &["register", "--password-format", "wrong%06d"]);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!((&report["completed"], &report["failed"]), (&0.into(), &USERS.into()));
    assert_eq!(report["faults"]["credentials refused"], USERS);
    assert_eq!(report["first_wrong"], "SIP/2.0 401 Unauthorized");
    agree(&server, &report);
}

/// A running echo server.
struct Echo {
    child: Child,
    target: String,
}

impl Echo {
    fn start() -> Self {
        let mut child = command(Path::new("."))
            .args(["bench", "echo-server", "--listen", "127.0.0.1:0", "--answer-octets", "500"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        let target = line.trim().strip_prefix("echo on udp:").expect("an address").to_owned();
        Self { child, target }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(args: &[&str]) -> Output {
    command(Path::new(".")).arg("bench").args(args).args(["--port", "0"]).output().unwrap()
}

#[test]
fn the_echo_answers_all() {
    let echo = Echo::start();
    let pid = echo.child.id().to_string();
    let args = ["echo", "--target", &echo.target, "--count", "2000", "--pid", &pid, "--json", "-"];
    let output = run(&args);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["operations"]["echo"]["completed"], 2000);
    assert!(report["server_cpu"]["per_operation"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["generator_cpu"]["per_operation"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn what_cannot_be_measured_is_one_sentence() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let refused = |args: &[&str], code: i32| {
        let Output { status, stdout, stderr } = run(args);
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert!(stdout.is_empty());
        stderr
    };
    let said = refused(&["refresh", "--target", &target], 1);
    let expected = format!("bindery: nobody listens on udp:{target} (ICMP: port unreachable)\n");
    assert_eq!(said, expected);
}

#[test]
fn arguments_that_cannot_be_meant_are_usage_errors() {
    for (wrong, said) in [
        (&["nothing"][..], "possible values"),
        (&[], "Usage"),
        (&["refresh", "--rate", "0"], "more than 0"),
        (&["refresh", "--rate", "1e300"], "10000000 at most"),
        (&["refresh", "--rate", "5", "--window", "5"], "cannot be used with"),
        (&["refresh", "--users", "x"], "invalid digit"),
        (&["refresh", "--users", "0"], "not in 1.."),
        (&["refresh", "--expires", "0"], "0 removes what is to be registered"),
        (&["refresh", "--user-format", "u%s"], "neither %d, like %06d, nor %%"),
        (&["refresh", "--user-format", "same"], "all users would be one"),
        (&["refresh", "--password-format", "%d%d"], "two places for a number"),
        (&["refresh", "--domain", "a@b"], "\"a@b\" is no domain"),
        (&["refresh", "--target", "nobody"], "no HOST:PORT"),
        (&["refresh", "--core", "5000"], "--core 5000 is no CPU"),
        (&["storm", "--count", "5"], "takes no --count"),
        (&["storm", "--window", "5"], "or --window"),
        (&["storm", "--warmup", "2"], "no --warmup"),
        (&["register", "--duration", "5"], "not --count or --duration"),
        (&["refresh", "--ramp", "5"], "--ramp is for storm"),
        (&["register", "--backoff", "5"], "--backoff is for storm"),
        (&["auth", "--weights", "auth=1"], "--weights is for mix"),
        (&["mix", "--weights", "none=1"], "there is no"),
        (&["refresh", "--acknowledged", "file"], "what a churn writes"),
    ] {
        let all = misused(wrong);
        assert!(all.contains(said), "{wrong:?}: {all}");
    }
}

/// What a command says that is refused for its arguments.
fn misused(args: &[&str]) -> String {
    let Output { status, stderr, .. } =
        command(Path::new(".")).arg("bench").args(args).output().unwrap();
    assert_eq!(status.code(), Some(2));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn an_echo_for_anyone_is_asked_for() {
    let said = misused(&["echo-server", "--listen", "0.0.0.0:0"]);
    assert!(said.starts_with("error: 0.0.0.0:0 is not loopback"), "{said}");
    assert!(said.contains("--anyone") && said.lines().count() == 1, "{said}");
}

#[test]
fn ports_in_a_row_end_at_the_last_one() {
    let said = misused(&["refresh", "--port", "65530", "--sources", "7"]);
    assert_eq!(said, "error: --port 65530 with --sources 7 goes beyond port 65535\n");
}

#[test]
fn sigint_ends_a_run_with_what_it_has() {
    let server = server("");
    let target = server.sip[0].to_string();
    let child = command(Path::new("."))
        .args(["bench", "refresh", "--target", &target, "--users", "50", "--port", "0"])
        .args(["--warmup", "0", "--duration", "600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    super::support::wait_until("refreshes", || {
        count(&server, "bindery_register_total", "result=\"refreshed\"") > 100
    });
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("stopped early"), "{text}");
    let row = text.lines().find(|line| line.starts_with("re-registration  ")).expect(&text);
    // Completed, failed, lost: what was under way is none of them.
    let counts: Vec<_> = row.split_whitespace().skip(1).take(3).collect();
    assert!(counts[0] != "0" && counts[1..] == ["0", "0"], "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[test]
fn a_server_that_dies_leaves_a_report() {
    let mut echo = Echo::start();
    let pid = echo.child.id().to_string();
    let child = command(Path::new("."))
        .args(["bench", "echo", "--target", &echo.target, "--port", "0", "--warmup", "0"])
        .args(["--duration", "600", "--pid", &pid, "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stat = format!("/proc/{pid}/stat");
    // It has worked for 50 ms: user and system time are the 14th and 15th field.
    super::support::wait_until("echoes", || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let times = stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        times.sum::<u64>() >= 5
    });
    echo.child.kill().unwrap();
    echo.child.wait().unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!((&report["gone"], &report["interrupted"]), (&true.into(), &false.into()));
    assert!(report["completed"].as_u64().unwrap() > 100, "{report}");
    assert!(report["rate"].as_f64().unwrap() > 100.0, "{report}");
    // What the dead process has spent nobody can say any more.
    assert!(report["server_cpu"].is_null(), "{report}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("went away") && said.contains("CPU time is unknown"), "{said}");
}

#[test]
fn a_registrar_is_no_echo() {
    let server = server("");
    let target = server.sip[0].to_string();
    let output = run(&["echo", "--target", &target]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        said,
        format!("bindery: udp:{target} is no echo: it answers something else than it is sent\n")
    );
}

#[test]
fn an_echo_that_differs_is_a_failure() {
    // The first one, which finds out, is right. Of the others one is short, all are altered, and
    // one in sixteen is looked at so closely: those of users 15 and 31, whose CSeq is 100000001.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap().to_string();
    let echo = std::thread::spawn(move || {
        let mut octets = [0; 4096];
        for number in 0..33 {
            let (len, from) = socket.recv_from(&mut octets).unwrap();
            octets[len - 1] ^= u8::from(number > 0);
            let cut = usize::from(number == 1);
            socket.send_to(&octets[..len - cut], from).unwrap();
        }
        socket
    });
    let args = ["echo", "--target", &target, "--users", "32", "--count", "32", "--warmup", "0"];
    let output = run(&[&args[..], &["--json", "-"]].concat());
    drop(echo.join().unwrap());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!((&report["completed"], &report["failed"]), (&29.into(), &3.into()), "{report}");
    assert_eq!(report["faults"]["echo differs"], 3);
}

#[test]
fn accounts_that_register_too_often_are_warned_of() {
    let server = server("");
    let (code, report) = bench(&server, &["auth", "--count", "3000"]);
    assert_eq!(code, Some(0), "{report}");
    // Sixty registrations of each account at once: more nonces than are remembered.
    assert!(report["requests_per_operation"].as_f64().unwrap() > 2.02, "{report}");
    assert_eq!(report["requests_meant"], 2.0);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("not 2.00") && warning.contains("take more --users"), "{warning}");
    let (_, report) = bench(&server, &["refresh", "--count", "300"]);
    assert_eq!(report["warnings"], serde_json::json!([]), "{report}");
    assert_eq!(report["requests_per_operation"], 1.0);
}

#[test]
fn the_same_seed_can_be_used_again() {
    let server = server("");
    for _ in 0..2 {
        let (code, report) = bench(&server, &["refresh", "--count", "100", "--seed", "7"]);
        assert_eq!(code, Some(0), "{report}");
    }
}

#[test]
fn a_reader_may_leave_before_the_report() {
    let server = server("");
    let target = server.sip[0].to_string();
    for json in [&[][..], &["--json", "-"]] {
        let mut child = command(Path::new("."))
            .args(["bench", "register", "--users", "50", "--port", "0", "--target", &target])
            .args(json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }
}
