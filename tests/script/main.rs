//! External modules with the real program: scripts that it starts, and modules that connect.

mod calls;
mod client;
mod headers;
mod leavings;
mod operator;
mod outages;
mod party;
mod python_yate;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for other tests")]
mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use self::{
    client::Module,
    support::{Phone, Server, command, wait_until},
};

const BINDERY_CONF: &str = "[general]\nworkers=1\npin=no\n[listener a]\naddr=127.0.0.1\nport=0\n\
                            [registrar]\nexpires_min=1\n[cache]\nnegative=1\n";

/// A file of the repository.
fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

/// Starts a registrar with these external modules.
fn serve(extmodule: &str) -> Server {
    let users = "100 secret\n200 other\n";
    let files = [("bindery.conf", BINDERY_CONF), ("extmodule.conf", extmodule), ("users", users)];
    Server::start(&files)
}

/// One with a socket, and where that is.
fn serve_socket(more: &str) -> (Server, std::net::SocketAddr) {
    let server = serve(&format!("[listener m]\ntype=tcp\nport=0\n{more}"));
    let at = client::listening(&server);
    (server, at)
}

fn register(server: &Server, user: &str, password: &str) -> u16 {
    Phone::new(server.sip[0], user, password).register(600).code
}

/// Registers until it gets through: a script takes a moment to start.
fn register_in_time(server: &Server, user: &str, password: &str) {
    wait_until("a registration", || register(server, user, password) == 200);
}

#[test]
fn a_script_does_what_regfile_does() {
    let script = file("docs/examples/regfile.py");
    let server = serve(&format!("[scripts]\n{script}=${{configpath}}/users\n"));
    register_in_time(&server, "100", "secret");
    assert_eq!(register(&server, "200", "wrong"), 401);
    assert_eq!(register(&server, "300", "x"), 401);
    let mut phone = Phone::new(server.sip[0], "200", "other");
    assert_eq!(phone.register(600).code, 200);
    assert_eq!(phone.register(600).code, 200);
    assert_eq!(phone.register(0).code, 200);
    // A new user is there as soon as the script knows of it.
    server.write("users", "100 secret\n300 third\n");
    register_in_time(&server, "300", "third");
    assert_eq!(register(&server, "200", "other"), 401);
}

#[test]
fn a_script_can_be_tried_out() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), "100 secret\n").unwrap();
    let tried = |file: &str| {
        let mut command = command(folder.path());
        let done = command.args(["script", "test", file, "users"]).output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, said) = tried(&file("docs/examples/regfile.py"));
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "<-- %%>install : 90 : user.auth",
        "      username=100",
        "    user.auth: handled; the password is what it returned",
        "    call.route: handled; the call goes to sip/sip:100@192.0.2.10:5062;transport=udp",
        "good: 5 questions, all answered; it has installed user.auth, user.register, \
         user.unregister, call.route",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    for wrong in ["/bin/true", "/nowhere"] {
        assert_eq!(tried(wrong).0, Some(1));
    }
}

#[test]
fn a_module_in_shell_is_asked_and_told() {
    let script = file("tests/script/module.sh");
    let server = serve(&format!("[scripts]\n{script}=told\n"));
    let told = || fs::read_to_string(server.path("told")).unwrap_or_default();
    register_in_time(&server, "one", "first");
    // What is returned is unescaped, and `expires` grants.
    let mut two = Phone::new(server.sip[0], "two", "seco:nd");
    let answer = two.register(600);
    assert_eq!((answer.code, answer.expires()), (200, Some(77)), "{}", answer.text);
    assert_eq!(register(&server, "bad", "x"), 403);
    assert_eq!(register(&server, "nobody", "x"), 401);
    assert_eq!(two.register(0).code, 200);
    wait_until("user.unregister", || told().contains("user.unregister two"));
    let text = told();
    for line in [
        "%%<install:80:user.auth:true",
        "%%<watch:user.register:true",
        "%%<setlocal:restart:true:true",
        "engine.start",
        "user.auth one",
        "user.register two sip/sip%ztwo@127.0.0.1%z",
        "watched two",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    // It goes with all that it has started, and hears of it.
    let child = text.lines().find_map(|line| line.strip_prefix("child ")).unwrap().to_owned();
    assert!(Path::new("/proc").join(&child).exists());
    let (status, folder) = server.stop();
    assert!(status.success(), "{status}");
    let runs = || {
        let stat = fs::read_to_string(Path::new("/proc").join(&child).join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    };
    wait_until("the script's child to end", || !runs());
    let text = fs::read_to_string(folder.path().join("told")).unwrap();
    assert!(text.contains("engine.halt"), "{text}");
}

#[test]
fn scripts_run_with_the_rights_they_are_given() {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let user = if is_root { "user=12345\n" } else { "" };
    if !is_root {
        eprintln!("SKIPPED a script as another user: needs root");
    }
    let folder = tempfile::tempdir().unwrap();
    // Where another user can come to it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (script, told) = (folder.path().join("module.sh"), folder.path().join("told"));
    fs::copy(file("tests/script/module.sh"), &script).unwrap();
    let server = serve(&format!(
        "[scripts]\n{}={}\n[bindery]\n{user}files=32\nmemory=512\nnice=3\n",
        script.display(),
        told.display()
    ));
    register_in_time(&server, "one", "first");
    let text = fs::read_to_string(&told).unwrap();
    let user = if is_root { "12345:12345" } else { "" };
    // On top of what this test has itself.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let own: u32 = stat.rsplit(')').next().unwrap().split(' ').nth(17).unwrap().parse().unwrap();
    let rights = format!(", 32 files, nice {}, ", (own + 3).min(19));
    assert!(text.contains(user) && text.contains(&rights), "{text}");
}

#[test]
fn a_module_that_connects_handles_messages_in_yates_order() {
    let (server, at) = serve_socket("[bindery]\ncache=0\n");
    let mut module = Module::connect(at);
    module.say("%%>install:50:user.auth");
    assert_eq!(module.line(), "%%<install:50:user.auth:true");
    module.say("nonsense");
    assert_eq!(module.line(), "Error in: nonsense");
    module.say("%%>install:50:user.register:username:100");
    assert_eq!(module.line(), "%%<install:50:user.register:true");
    let sip = server.sip[0];
    let phone = std::thread::spawn(move || Phone::new(sip, "100", "a=b:c%ü").register(600).code);
    let message = module.message();
    assert_eq!(message.name, "user.auth");
    let names: Vec<_> = client::names(&message);
    let order = ["protocol", "username", "realm", "nonce", "response", "method", "uri", "ip_host"];
    assert_eq!(names[..order.len()], order);
    assert_eq!(client::value(&message, "username"), Some("100"));
    module.say(&format!("%%<message:{}:true::a=b%zc%%ü", message.id));
    let message = module.message();
    assert_eq!(message.name, "user.register");
    module.say(&format!("%%<message:{}:false:::reason=busy", message.id));
    // Only the first answer counts.
    module.say(&format!("%%<message:{}:false::code=603", message.id));
    assert_eq!(phone.join().unwrap(), 486);
}

#[test]
fn wrong_passwords_are_told_to_who_wants_to_hear_of_them() {
    let (server, at) = serve_socket("role=global\n[bindery]\ncache=300\n");
    let mut ears = Module::raw(at);
    ears.install(50, "user.authfail");
    let mut watcher = Module::raw(at);
    watcher.say("%%>watch:user.authfail");
    watcher.line();
    let mut module = Module::raw(at);
    module.install(110, "user.auth");
    let sip = server.sip[0];
    let phone = std::thread::spawn(move || Phone::new(sip, "one", "wrong").register(600).code);
    let message = module.message();
    module.say(&format!("%%<message:{}:true::right", message.id));
    assert_eq!(phone.join().unwrap(), 401);
    let failure = ears.message();
    assert_eq!(failure.name, "user.authfail");
    assert_eq!(client::value(&failure, "username"), Some("one"));
    assert!(client::value(&failure, "ip_host").is_some());
    ears.say(&format!("%%<message:{}:false:", failure.id));
    assert!(watcher.line().starts_with("%%<message::false:user.authfail:"));
}

#[test]
fn modules_talk_to_each_other_and_nothing_is_lost_on_the_way() {
    let (_server, at) = serve_socket("role=global\n");
    let (mut one, mut other) = (Module::raw(at), Module::raw(at));
    let long = "ü=:%\n".repeat(5120);
    assert!(long.len() >= 30 << 10);
    for module in [&mut one, &mut other] {
        module.say("%%>setlocal:bufsize:65536");
        assert_eq!(module.line(), "%%<setlocal:bufsize:65536:true");
    }
    other.say("%%>install:10:user.auth");
    other.line();
    one.say(&format!("%%>message:m%z1:0:user.auth::username=u:long={}", client::escaped(&long)));
    let message = other.message();
    assert_eq!(client::value(&message, "long"), Some(&*long));
    let answer = format!("%%<message:{}:true::{}", message.id, client::escaped(&long));
    other.say(&answer);
    let line = one.line();
    assert!(line.starts_with("%%<message:m%z1:true:user.auth:"));
    assert!(line.contains(&client::escaped(&long)));
    // What is not known here is nobody's.
    one.say("%%>message:2:0:chan.attach::a=b");
    assert_eq!(one.line(), "%%<message:2:false:chan.attach::a=b");
    // A line that is too long ends it.
    one.say(&"x".repeat(70_000));
    assert_eq!(one.line(), "");
}
