//! What an operator asks scripts: `bindery script status` and `command`.

use std::thread;

use crate::{
    client::{Module, value},
    serve_socket,
    support::{Server, command},
};

/// Runs `bindery script`; its exit code, and what it has printed.
fn script(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let mut command = command(&server.path(""));
    let done = command.arg("script").args(args).args(["--admin", &server.admin.to_string()]);
    let done = done.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn scripts_answer_an_operator() {
    let (server, at) = serve_socket("role=global\n");
    let (code, said) = script(&server, &["status"]);
    assert_eq!(
        (code, &*said),
        (Some(0), "name=extmodule,type=misc,format=Installed;scripts=0,chans=0;\n")
    );
    let (code, said) = script(&server, &["status", "nope"]);
    assert_eq!((code, &*said), (Some(1), "bindery: no script says that it is nope\n"));
    assert_eq!(script(&server, &["command", "hello"]).0, Some(1));
    let mut module = Module::raw(at);
    module.install(50, "engine.status");
    module.install(60, "engine.command");
    let answering = thread::spawn(move || {
        let message = module.message();
        assert_eq!(message.name, "engine.status");
        assert_eq!((value(&message, "module"), value(&message, "details")), (None, Some("true")));
        let mine = format!("{}name=mine;users=7%M%J", message.retval.replace("\r\n", "%M%J"));
        module.say(&format!("%%<message:{}:false::{mine}", message.id));
        let message = module.message();
        assert_eq!(value(&message, "module"), Some("mine"));
        module.say(&format!("%%<message:{}:true::name=mine;users=8%M%J", message.id));
        let message = module.message();
        assert_eq!(
            (&*message.name, value(&message, "line")),
            ("engine.command", Some("mine a b&=c"))
        );
        module.say(&format!("%%<message:{}:true::done%M%Jand done", message.id));
        let message = module.message();
        module.say(&format!("%%<message:{}:false:", message.id));
        module
    });
    let (code, said) = script(&server, &["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("scripts=1,chans=0;listener m="), "{said}");
    assert!(said.contains("engine.status 50|engine.command 60"), "{said}");
    assert!(said.ends_with("\nname=mine;users=7\n"), "{said}");
    let (code, said) = script(&server, &["status", "mine"]);
    assert_eq!((code, &*said), (Some(0), "name=mine;users=8\n"));
    let (code, said) = script(&server, &["command", "mine", "a", "b&=c"]);
    assert_eq!((code, &*said), (Some(0), "done\nand done\n"));
    let (code, said) = script(&server, &["command", "what"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no script understands what"), "{said}");
    answering.join().unwrap();
}
