//! Python-yate, a library for external modules that others have written, as it is.
//!
//! `tests/run` installs it below the target directory; where it is not, these tests are skipped by
//! name.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    client, file, register, register_in_time, serve, serve_socket,
    support::{Phone, Server, wait_until},
};

/// Users of `yate_users.py`.
const USERS: usize = 10_000;

/// The interpreter that has the library.
fn python(test: &str) -> Option<String> {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let python = target.parent()?.join("python-yate/bin/python3");
    if !python.exists() {
        eprintln!(
            "SKIPPED python_yate::{test}: {} is not there (tests/run makes it)",
            python.display()
        );
        return None;
    }
    Some(python.display().to_string())
}

/// Registers all users, each with a phone of its own; some at once.
fn all_register(server: &Server) {
    const AT_ONCE: usize = 8;
    let next = AtomicUsize::new(0);
    let sip = server.sip[0];
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let user = next.fetch_add(1, Ordering::Relaxed);
                    if user >= USERS {
                        break;
                    }
                    let (name, password) = (format!("u{user}"), format!("p={user}:%"));
                    let answer = Phone::new(sip, &name, &password).register(600);
                    assert_eq!(answer.code, 200, "{name}: {}", answer.text);
                }
            });
        }
    });
}

fn is_right(server: &Server) {
    register_in_time(server, "u1", "p=1:%");
    all_register(server);
    assert_eq!(register(server, "u1", "p=2:%"), 401);
    assert_eq!(register(server, "u10000", "p=10000:%"), 401);
    let mut phone = Phone::new(server.sip[0], "u7", "p=7:%");
    assert_eq!(phone.register(600).code, 200);
    assert_eq!(phone.register(600).code, 200);
}

#[test]
fn ten_thousand_users_register_with_a_script() {
    let Some(python) = python("ten_thousand_users_register_with_a_script") else { return };
    let script = file("tests/script/yate_users.py");
    let server = serve(&format!(
        "[general]\nscripts_dir=.\n[scripts]\n{python}={script}\n[bindery]\ncache=60\n"
    ));
    is_right(&server);
    assert!(server.stop().0.success());
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ten_thousand_users_register_over_a_socket() {
    let Some(python) = python("ten_thousand_users_register_over_a_socket") else { return };
    let (server, at) = serve_socket("[bindery]\ncache=60\n");
    let script = file("tests/script/yate_users.py");
    let mut module = Running(
        Command::new(python)
            .args([script, at.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .expect("the interpreter is there"),
    );
    is_right(&server);
    // It asks what is bound by a message of its own, which another one is shown.
    let mut watcher = client::Module::connect(at);
    watcher.say("%%>watch:user.register");
    assert_eq!(watcher.line(), "%%<watch:user.register:true");
    register_in_time(&server, "u8", "p=8:%");
    assert!(watcher.line().starts_with("%%<message::true:user.register:"));
    assert!(server.stop().0.success());
    wait_until("the module's end", || module.0.try_wait().is_ok_and(|ended| ended.is_some()));
}
