//! What a million users cost: reading the lines of their `regfile.conf`, loading it with all
//! H(A1)s, and finding one of them.
//!
//! The file is written at run time; its size is printed first.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use bindery::backend::regfile;
use bindery::config::Findings;
use bindery::config::lines::Lines;
use bindery::config::resolve::{self, Host, Overrides};
use criterion::{Criterion, criterion_group, criterion_main};

const USERS: usize = 1_000_000;

/// A file as an operator's script writes it: a number, a password, and now and then a comment.
fn users() -> String {
    let mut text = String::from("[general]\nautocreate=no\n");
    for user in 0..USERS {
        if user % 100 == 0 {
            let _ = writeln!(text, "\n; hundred {}", user / 100);
        }
        let _ = write!(text, "\n[{}]\npassword=p{:012x}\n", 40_000_000 + user, user * 7919);
    }
    text
}

fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = users();
    std::fs::write(folder.path().join(regfile::FILE), &text).expect("room for the users");
    std::fs::write(folder.path().join(resolve::FILE), "[listener a]\n").expect("room");
    eprintln!("{USERS} users, {} octets", text.len());
    let host = Host { name: "bench".into(), cpus: 1 };
    let mut findings = Findings::default();
    let config = resolve::read(folder.path(), &Overrides::default(), &host, &mut findings);

    let mut group = criterion.benchmark_group("load_users");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("lines", |bench| {
        bench.iter(|| Lines::new(black_box(text.as_bytes())).count());
    });
    group.bench_function("load, SHA-256 and MD5", |bench| {
        bench.iter(|| regfile::read(folder.path(), &config, false, &mut Findings::default()));
    });
    group.finish();

    let subscribers = regfile::read(folder.path(), &config, false, &mut findings).subscribers;
    assert_eq!((subscribers.len(), findings.errors.len()), (USERS, 0));
    let mut user = 0;
    criterion.bench_function("login among a million", |bench| {
        bench.iter(|| {
            // A step that is prime to the number of users: no two look-ups share a cache line.
            user = (user + 611_953) % USERS;
            let mut name = itoa::Buffer::new();
            let name = name.format(40_000_000 + user);
            subscribers.login(name.as_bytes(), b"example.com").is_some()
        });
    });
}

criterion_group!(benches, load);
criterion_main!(benches);
