//! The admin API of the real binary.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    os::unix::fs::PermissionsExt,
};

use serde_json::{Value, json};
use ureq::{
    Agent,
    http::{HeaderMap, Request},
};

use super::support::{Phone, Server, wait_until};

const CONF: &str =
    "[listener main]\naddr=127.0.0.1\nport=0\n[registrar]\nauth_required=no\nmax_contacts=3\n";
const ANYBODY: &str = "[general]\nautocreate=yes\n";
const USERS: &str = "[alice]\npassword=secret\n[bob]\npassword=hidden\n";

fn server(users: &str) -> Server {
    Server::start(&[("bindery.conf", CONF), ("regfile.conf", users)])
}

fn phone(server: &Server, user: &str) -> Phone {
    Phone::new(server.sip[0], user, "")
}

fn token(server: &Server) -> String {
    fs::read_to_string(server.path("state/admin.token")).unwrap().trim().to_owned()
}

/// What the API answered.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// The detail of problem details with this status.
    pub(super) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!((&problem["type"], &problem["status"]), (&json!("about:blank"), &json!(status)));
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub(super) fn ask(
    server: &Server,
    method: &str,
    path: &str,
    authorization: &str,
    body: &str,
) -> Answer {
    let agent = Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", server.admin))
        .header("authorization", authorization)
        .body(body.to_owned())
        .unwrap();
    let request = agent.configure_request(request).allow_non_standard_methods(true).build();
    let mut answer = agent.run(request).unwrap();
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.body_mut().read_to_string().unwrap(),
    }
}

/// Asks with the token.
pub(super) fn call(server: &Server, method: &str, path: &str) -> Answer {
    ask(server, method, path, &bearer(server), "")
}

/// The Authorization that opens the API.
pub(super) fn bearer(server: &Server) -> String {
    format!("Bearer {}", token(server))
}

fn get(server: &Server, path: &str) -> Value {
    let answer = call(server, "GET", path);
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[test]
fn only_the_token_opens_the_api() {
    let server = server(USERS);
    let mode = fs::metadata(server.path("state/admin.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for open in ["/", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(&server, "GET", open, "", "").status, 200, "{open}");
    }
    let closed =
        ["/api/v1/status", "/api/v1/openapi.json", "/api/v1/bindings", "/none", "//healthz"];
    for path in closed {
        for wrong in ["", "Bearer", "Bearer 0", "Basic YTpi", &token(&server)] {
            let answer = ask(&server, "GET", path, wrong, "");
            answer.problem(401);
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert_eq!(ask(&server, "POST", "/api/v1/reload", "", "").status, 401);
    assert_eq!(call(&server, "GET", "/api/v1/status").status, 200);
    // It is the same after a restart.
    let before = token(&server);
    let server = server.restart();
    assert_eq!(token(&server), before);
    assert_eq!(call(&server, "GET", "/api/v1/status").status, 200);
    assert!(!server.log().contains(&before));
}

#[test]
fn a_token_file_that_others_can_read_is_warned_of() {
    let (_, folder) = server(USERS).stop();
    let file = folder.path().join("state/admin.token");
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let server = Server::launch(folder, &["--config", "conf", "--admin", "127.0.0.1:0"], true);
    assert!(server.log().contains("others can read the admin token"), "{}", server.log());
}

#[test]
fn what_is_not_served_is_a_problem() {
    let server = server(USERS);
    call(&server, "GET", "/api/v1/none").problem(404);
    call(&server, "PUT", "/api/v1/status").problem(405);
    call(&server, "GET", "/api/v1/reload").problem(405);
    let authorization = format!("Bearer {}", token(&server));
    let long = "x".repeat(5000);
    ask(&server, "POST", "/api/v1/snapshot", &authorization, &long).problem(413);
    let said = call(&server, "GET", "/api/v1/bindings?ua=x").problem(400);
    assert!(said.contains("unknown field `ua`, expected one of `aor`"), "{said}");
    let said = call(&server, "GET", "/api/v1/bindings?limit=1001").problem(400);
    assert_eq!(said, "limit=1001: expected a number from 1 to 1000");
    let said = call(&server, "DELETE", "/api/v1/bindings/alice/7").problem(400);
    assert_eq!(said, "an id has 16 hexadecimal digits");
}

#[test]
fn openapi_describes_what_is_served() {
    let server = server(USERS);
    let openapi = get(&server, "/api/v1/openapi.json");
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        let path = path.replace("{aor}", "alice").replace("{id}", "0011223344556677");
        let refused = call(&server, "PATCH", &path);
        refused.problem(405);
        let allowed: BTreeSet<String> =
            refused.header("allow").split(',').map(str::to_ascii_lowercase).collect();
        let mut described: BTreeSet<String> = operations
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
            .cloned()
            .collect();
        if described.contains("get") {
            described.insert("head".to_owned());
        }
        assert_eq!(allowed, described, "{path}");
    }
}

#[test]
fn a_list_of_a_thousand_is_read_in_pages() {
    let server = server(ANYBODY);
    for number in 0..1000 {
        assert_eq!(phone(&server, &format!("u{number:03}")).register(600).code, 200);
    }
    let mut listed = Vec::new();
    let mut next = Value::String(String::new());
    while let Some(cursor) = next.as_str() {
        let cursor = if cursor.is_empty() { String::new() } else { format!("&cursor={cursor}") };
        let page = get(&server, &format!("/api/v1/bindings?limit=70{cursor}"));
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 70);
        listed.extend(items.iter().map(|item| item["aor"].as_str().unwrap().to_owned()));
        next = page["next"].clone();
    }
    assert_eq!(next, Value::Null);
    assert_eq!(listed.len(), 1000);
    assert_eq!(listed.into_iter().collect::<HashSet<_>>().len(), 1000);

    let count = |query: &str| {
        let page = get(&server, &format!("/api/v1/bindings?limit=1000&{query}"));
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("aor=u12"), 10);
    assert_eq!(count("transport=udp&source=127.0.0.1"), 1000);
    assert_eq!(count("source=127.0.0.2"), 0);
    assert_eq!(count("user_agent=x"), 0);
    call(&server, "GET", "/api/v1/bindings?cursor=00").problem(400);

    let status = get(&server, "/api/v1/status");
    assert_eq!((&status["aors"], &status["bindings"]), (&json!(1000), &json!(1000)));
    assert_eq!(status["counters"]["register"], json!({"added": 1000}));
    assert_eq!(status["listeners"][0]["addr"], json!(server.sip[0].to_string()));
}

#[test]
fn bindings_are_shown_and_removed() {
    let server = server(ANYBODY);
    let mut phones = [phone(&server, "alice"), phone(&server, "alice"), phone(&server, "alice")];
    for phone in &mut phones {
        assert_eq!(phone.register(600).code, 200);
    }
    let view = get(&server, "/api/v1/bindings/alice");
    assert_eq!(view["aor"], "alice");
    let bindings = view["bindings"].as_array().unwrap();
    assert_eq!(bindings.len(), 3);
    let first = &bindings[0];
    assert_eq!((&first["listener"], &first["transport"]), (&json!("main"), &json!("udp")));
    let contact = first["contact"].as_str().unwrap();
    let (_, port) = contact.rsplit_once(':').unwrap();
    assert_eq!(first["source"], json!(format!("127.0.0.1:{port}")));
    let left = first["expires"].as_u64().unwrap();
    assert!((500..=600).contains(&left), "{left}");
    // The user part counts, whatever the domain and its spelling.
    for path in ["alice@example.com", "%61lice%40x"] {
        assert_eq!(get(&server, &format!("/api/v1/bindings/{path}"))["aor"], "alice");
    }

    let one = format!("/api/v1/bindings/alice/{}", first["id"].as_str().unwrap());
    let removed = call(&server, "DELETE", &one).json();
    assert_eq!(removed, json!({"aor": "alice", "removed": 1, "left": 2}));
    call(&server, "DELETE", &one).problem(404);
    assert!(!phones[0].query().text.contains(contact));
    let all = call(&server, "DELETE", "/api/v1/bindings/alice").json();
    assert_eq!(all, json!({"aor": "alice", "removed": 2, "left": 0}));
    assert_eq!(call(&server, "GET", "/api/v1/bindings/alice").problem(404), "alice has no binding");
    call(&server, "DELETE", "/api/v1/bindings/alice").problem(404);
    assert_eq!(phones[0].query().headers("Contact").len(), 0);
}

#[test]
fn a_domain_is_part_of_the_aor() {
    let conf = format!("[general]\ndomains=Example.com,127.0.0.1\n{CONF}");
    let server = Server::start(&[("bindery.conf", &conf), ("regfile.conf", ANYBODY)]);
    assert_eq!(phone(&server, "alice").register(600).code, 200);
    assert_eq!(get(&server, "/api/v1/bindings/alice@127.0.0.1")["aor"], "alice@127.0.0.1");
    call(&server, "GET", "/api/v1/bindings/alice@example.com").problem(404);
    call(&server, "GET", "/api/v1/bindings/alice").problem(404);
}

#[test]
fn a_reload_by_the_api_takes_all_or_nothing() {
    let server = server(USERS);
    assert_eq!(phone(&server, "bob").register(600).code, 200);
    server.write("regfile.conf", "[alice]\npassword=secret\n[bob\n");
    let refused = call(&server, "POST", "/api/v1/reload");
    assert_eq!(refused.problem(409), "nothing was reloaded: conf/regfile.conf:3: `[` without `]`");
    let error = &refused.json()["errors"][0];
    assert_eq!((&error["file"], &error["line"]), (&json!("conf/regfile.conf"), &json!(3)));
    assert_eq!(get(&server, "/api/v1/status")["users"], 2);
    get(&server, "/api/v1/bindings/bob");

    server.write("regfile.conf", "[alice]\npassword=secret\n");
    let reloaded = call(&server, "POST", "/api/v1/reload").json();
    assert_eq!(reloaded, json!({"users": 1, "removed": 1, "warnings": []}));
    call(&server, "GET", "/api/v1/bindings/bob").problem(404);
}

#[test]
fn a_snapshot_is_on_the_disk_when_it_is_answered() {
    let server = server(USERS);
    assert_eq!(phone(&server, "alice").register(600).code, 200);
    let taken = call(&server, "POST", "/api/v1/snapshot").json();
    assert_eq!((&taken["aors"], &taken["bindings"]), (&json!(1), &json!(1)));
    let saved = fs::read(server.path("state/regfile.snapshot")).unwrap();
    assert_eq!(taken["bytes"], json!(saved.len()));
    assert_eq!(get(&server, "/api/v1/status")["snapshot"]["last"], taken);

    // A disk that fails is said, and is no longer a matter once it is back.
    let state = server.path("state");
    let away = server.path("away");
    let authorization = format!("Bearer {}", token(&server));
    fs::rename(&state, &away).unwrap();
    let said = ask(&server, "POST", "/api/v1/snapshot", &authorization, "").problem(500);
    assert!(said.starts_with("the bindings could not be saved: "), "{said}");
    let unready = ask(&server, "GET", "/readyz", "", "");
    assert_eq!((unready.status, &unready.json()["ready"]), (503, &json!(false)));
    assert_ne!(unready.json()["checks"]["snapshot"], "ok");
    fs::rename(&away, &state).unwrap();
    assert_eq!(call(&server, "POST", "/api/v1/snapshot").status, 200);
    let ready = ask(&server, "GET", "/readyz", "", "");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
}

#[test]
fn metrics_are_valid_and_true() {
    let server = server(ANYBODY);
    for user in ["alice", "bob"] {
        assert_eq!(phone(&server, user).register(600).code, 200);
    }
    assert_eq!(call(&server, "POST", "/api/v1/snapshot").status, 200);
    let answer = ask(&server, "GET", "/metrics", "", "");
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let samples = samples(&answer.text);
    for (name, value) in [
        ("bindery_requests_total{method=\"REGISTER\",transport=\"udp\"}", 2.0),
        ("bindery_responses_total{method=\"REGISTER\",code=\"200\"}", 2.0),
        ("bindery_register_total{result=\"added\"}", 2.0),
        ("bindery_drops_total{reason=\"not_sip\"}", 0.0),
        ("bindery_receive_queue_drops_total{listener=\"main\"}", 0.0),
        ("bindery_auth_total{result=\"granted\"}", 0.0),
        ("bindery_bindings{transport=\"udp\"}", 2.0),
        ("bindery_aors", 2.0),
        ("bindery_users", 0.0),
        ("bindery_user_agents", 0.0),
        ("bindery_expirations_total", 0.0),
        ("bindery_snapshot_sections", 2.0),
        ("bindery_snapshot_failures_total", 0.0),
        ("bindery_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{}", answer.text);
    }
    for name in [
        "bindery_start_time_seconds",
        "bindery_uptime_seconds",
        "bindery_snapshot_last_timestamp_seconds",
        "bindery_snapshot_duration_seconds",
        "bindery_snapshot_size_bytes",
        "bindery_worker_cpu_seconds_total{worker=\"00\"}",
    ] {
        assert!(samples.contains_key(name), "{name}\n{}", answer.text);
    }
    // What comes later is counted later.
    phone(&server, "carol").register(600);
    wait_until("the third", || {
        let text = ask(&server, "GET", "/metrics", "", "").text;
        self::samples(&text).get("bindery_aors") == Some(&3.0)
    });
}

/// The samples of an OpenMetrics text, checked against its grammar: one TYPE for each family
/// before its samples, suffixes by type, units at the ends of names, no sample twice, an end.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = HashSet::new();
    let (mut family, mut kind) = ("", "");
    let text = text.strip_suffix("# EOF\n").expect("an end");
    for line in text.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let [keyword, name, value] =
                meta.splitn(3, ' ').collect::<Vec<_>>().try_into().expect("three words");
            match keyword {
                "TYPE" => {
                    assert!(families.insert(name), "{name} twice");
                    (family, kind) = (name, value);
                }
                "UNIT" => assert!(name == family && name.ends_with(&format!("_{value}")), "{line}"),
                "HELP" => assert!(!value.is_empty(), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        let bare = name.split('{').next().unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            "gauge" => "",
            _ => panic!("{family} is a {kind}"),
        };
        assert_eq!(bare, format!("{family}{suffix}"), "{line}");
        assert!(bare.bytes().all(|b| b.is_ascii_lowercase() || b"_".contains(&b)), "{line}");
        let value: f64 = value.parse().expect("a number");
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    samples
}
