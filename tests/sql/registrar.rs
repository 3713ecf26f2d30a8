//! The registrar itself, with its users and their locations in a database.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Battery;
use super::engines::Kind;
use super::support::{Phone, Server, wait_until};

const BINDERY_CONF: &str = "[general]\nworkers=2\npin=no\n[listener a]\naddr=127.0.0.1\nport=0\n\
                            [registrar]\nexpires_min=1\n[cache]\nnegative=1\n";

/// Starts a registrar on the battery's tables, with `more` in its bindery.conf.
fn serve(battery: &Battery, more: &str) -> Server {
    let (name, account) = battery.engine.conf();
    let bindery = format!("{BINDERY_CONF}{more}");
    Server::start(&[
        ("bindery.conf", &bindery),
        ("register.conf", battery.engine.ready_made()),
        (name, &account),
    ])
}

async fn add_user(battery: &Battery, username: &str, password: &str) {
    let sql = "INSERT INTO users (username, password) VALUES ('${u}', '${p}')";
    battery.run(sql, &[("u", username), ("p", password)]).await;
}

async fn location(battery: &Battery, username: &str) -> Option<String> {
    battery.cell("SELECT location FROM users WHERE username='${u}'", &[("u", username)]).await
}

/// Waits until a user's location is what `is_right` says.
async fn await_location(
    battery: &Battery,
    username: &str,
    is_right: impl Fn(Option<&str>) -> bool,
) {
    let started = Instant::now();
    loop {
        let location = location(battery, username).await;
        if is_right(location.as_deref()) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{username} is at {location:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The body of an open resource of the admin API.
fn http_get(admin: SocketAddr, path: &str) -> String {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let answer = agent.get(format!("http://{admin}{path}")).call();
    answer.and_then(|mut answer| answer.body_mut().read_to_string()).unwrap()
}

/// DELETEs a resource of the admin API.
fn http_delete(server: &Server, path: &str) {
    let token = fs::read_to_string(server.path("state/admin.token")).unwrap();
    let url = format!("http://{}{path}", server.admin);
    let bearer = format!("Bearer {}", token.trim());
    ureq::delete(url).header("authorization", bearer).call().unwrap();
}

fn metric(server: &Server, line: &str) -> u64 {
    let text = http_get(server.admin, "/metrics");
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {line} in\n{text}"))
}

pub(crate) async fn phones_register_with_users_of_the_database(battery: &mut Battery) {
    for (user, password) in [("r1", "one"), ("o'r\\2", "two"), ("r3", "three")] {
        add_user(battery, user, password).await;
    }
    let server = serve(battery, "");
    let at = server.sip[0];

    // Neither a wrong password nor a name that nobody knows gets in.
    assert_eq!(Phone::new(at, "r1", "two").register(600).code, 401);
    assert_eq!(Phone::new(at, "nobody", "one").register(600).code, 401);
    assert_eq!(location(battery, "r1").await, None);

    // A new binding is in the database before it is answered.
    let mut phone = Phone::new(at, "r1", "one");
    let answer = phone.register(600);
    assert_eq!((answer.code, answer.expires()), (200, Some(600)), "{}", answer.text);
    let first = location(battery, "r1").await.unwrap();
    assert!(first.starts_with("sip/sip:r1@127.0.0.1:"), "{first}");

    // With two phones the row shows the one that came last, and the other once that is gone.
    let mut second = Phone::new(at, "r1", "one");
    assert_eq!(second.register(600).code, 200);
    await_location(battery, "r1", |at| at.is_some_and(|at| at != first)).await;
    assert_eq!(second.register(0).code, 200);
    await_location(battery, "r1", |at| at == Some(&first)).await;
    assert_eq!(phone.register(0).code, 200);
    await_location(battery, "r1", |at| at.is_none()).await;

    // A removed binding is not there for anybody.
    assert_eq!(phone.query().headers("Contact").len(), 0);

    // One that is not renewed ends here and there.
    assert_eq!(phone.register(1).code, 200);
    assert!(location(battery, "r1").await.is_some());
    await_location(battery, "r1", |at| at.is_none()).await;
}

pub(crate) async fn a_hash_that_cannot_be_read_locks_its_account(battery: &mut Battery) {
    for (user, password, hash) in [("l1", "", "*"), ("l2", "open", "!"), ("l3", "", "0123")] {
        add_user(battery, user, password).await;
        let values = [("u", user), ("h", hash)];
        battery.run("UPDATE users SET ha1='${h}' WHERE username='${u}'", &values).await;
    }
    let server = serve(battery, "");
    for user in ["l1", "l2", "l3"] {
        for password in ["", "open", "anything"] {
            let answer = Phone::new(server.sip[0], user, password).register(600);
            assert_eq!(answer.code, 401, "{user} {password}");
        }
    }
}

pub(crate) async fn a_new_password_counts_once_the_old_one_has_aged(battery: &mut Battery) {
    add_user(battery, "r2", "old").await;
    let server = serve(battery, "lifetime=1\n");
    let mut phone = Phone::new(server.sip[0], "r2", "old");
    assert_eq!(phone.register(600).code, 200);
    battery.run("UPDATE users SET password='new' WHERE username='r2'", &[]).await;
    wait_until("the new password", || {
        Phone::new(server.sip[0], "r2", "new").register(600).code == 200
    });
    assert_eq!(Phone::new(server.sip[0], "r2", "old").register(600).code, 401);
}

pub(crate) async fn only_the_address_itself_says_which_domain_it_is_of(battery: &mut Battery) {
    add_user(battery, "r10", "ten").await;
    let (name, account) = battery.engine.conf();
    let bindery = BINDERY_CONF.replace("[general]\n", "[general]\ndomains=127.0.0.1,evil.test\n");
    let queries = battery.engine.ready_made();
    let asked = "WHERE username='${username}'\nresult=password";
    assert!(queries.contains(asked));
    // As if everybody were a user of that domain only.
    let of_evil = "WHERE username='${username}' AND '${domain}'='evil.test'\nresult=password";
    let server = Server::start(&[
        ("bindery.conf", &bindery),
        ("register.conf", &queries.replace(asked, of_evil)),
        (name, &account),
    ]);
    let mut phone = Phone::new(server.sip[0], "r10", "ten");
    phone.say_from("sip:r10@evil.test");
    assert_eq!(phone.register(600).code, 401);
}

pub(crate) async fn a_refresh_asks_nobody(battery: &mut Battery) {
    add_user(battery, "r4", "four").await;
    let server = serve(battery, "");
    let mut phone = Phone::new(server.sip[0], "r4", "four");
    assert_eq!(phone.register(600).code, 200);
    let asked = || {
        let name = battery.account.name.as_ref();
        let of = |query: &str| {
            let line =
                format!("bindery_backend_seconds_count{{backend=\"{name}\",query=\"{query}\"}}");
            metric(&server, &line)
        };
        (of("user.auth"), of("user.register"))
    };
    let before = asked();
    for _ in 0..20 {
        assert_eq!(phone.register(600).code, 200);
    }
    assert_eq!(asked(), before);

    // Until the cache is told to forget.
    http_delete(&server, "/api/v1/cache/r4");
    assert_eq!(phone.register(600).code, 200);
    assert_eq!(asked().0, before.0 + 1);
}

pub(crate) async fn a_reload_reads_the_database_again(battery: &mut Battery) {
    add_user(battery, "r5", "five").await;
    let server = serve(battery, "");
    let mut phone = Phone::new(server.sip[0], "r5", "five");
    assert_eq!(phone.register(600).code, 200);
    battery.run("UPDATE users SET password='new' WHERE username='r5'", &[]).await;
    assert_eq!(phone.register(600).code, 200, "known for a while");
    server.signal("HUP");
    server.await_log("reloaded");
    wait_until("the new password", || phone.register(600).code == 401);
    assert_eq!(Phone::new(server.sip[0], "r5", "new").register(600).code, 200);
}

pub(crate) async fn all_accounts_can_be_loaded_at_the_start(battery: &mut Battery) {
    add_user(battery, "r6", "six").await;
    let server =
        serve(battery, "preload=SELECT username, password FROM users WHERE password IS NOT NULL\n");
    wait_until("the accounts", || server.log().contains("loaded accounts"));
    let mut phone = Phone::new(server.sip[0], "r6", "six");
    assert_eq!(phone.register(600).code, 200);
    let text = http_get(server.admin, "/metrics");
    assert!(!text.contains("query=\"user.auth\""), "nobody was asked: {text}");
}

pub(crate) async fn a_load_that_a_reload_cuts_short_keeps_nobody_waiting(battery: &mut Battery) {
    let server = serve(battery, "preload=SELECT username, password FROM nowhere\n");
    wait_until("the load to be waited for", || {
        http_get(server.admin, "/readyz").contains("loading accounts")
    });
    server.write("bindery.conf", BINDERY_CONF);
    server.signal("HUP");
    wait_until("readiness", || http_get(server.admin, "/readyz").contains("\"ready\":true"));
}

pub(crate) async fn a_database_that_is_away_keeps_out_strangers_only(battery: &mut Battery) {
    if battery.engine.kind() == Kind::Sqlite {
        // A file has nobody to kill; what locks it is in `outages`.
        return;
    }
    for (user, password) in [("r7", "seven"), ("r8", "eight")] {
        add_user(battery, user, password).await;
    }
    let server = serve(battery, "lifetime=1\n");
    let mut known = Phone::new(server.sip[0], "r7", "seven");
    assert_eq!(known.register(600).code, 200);
    battery.engine.kill();

    // Who was here goes on.
    for _ in 0..3 {
        assert_eq!(known.register(600).code, 200);
    }
    // Who was not is told when to come again.
    let mut unknown = Phone::new(server.sip[0], "r8", "eight");
    let answer = unknown.register(600);
    assert_eq!((answer.code, answer.headers("Retry-After").len()), (503, 1), "{}", answer.text);
    wait_until("readiness to show it", || http_get(server.admin, "/readyz").contains("database"));

    battery.engine.resume_after_kill().await;
    wait_until("the unknown to be let in", || match unknown.register(600) {
        answer if answer.code == 503 => false,
        answer => {
            assert_eq!(answer.code, 200, "{}{}", answer.text, server.log());
            true
        }
    });
    wait_until("readiness to be back", || {
        http_get(server.admin, "/readyz").contains("\"ready\":true")
    });
    await_location(battery, "r8", |at| at.is_some()).await;
}

pub(crate) async fn a_restart_tells_the_database_what_it_missed(battery: &mut Battery) {
    add_user(battery, "r9", "nine").await;
    let server = serve(battery, "");
    let mut phone = Phone::new(server.sip[0], "r9", "nine");
    assert_eq!(phone.register(600).code, 200);
    let folder = server.killed();
    battery.run("UPDATE users SET location=NULL WHERE username='r9'", &[]).await;
    let args = ["--config", "conf", "--admin", "127.0.0.1:0"];
    let server = Server::launch(folder, &args, true);
    await_location(battery, "r9", |at| at.is_some()).await;
    drop(server);
}
