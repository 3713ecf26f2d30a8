//! What scripts are told of calls, and what they do to them.

use std::thread;

use crate::{
    client::{Module, value},
    party::{Party, header},
    serve_socket,
};

/// What a module is told next of a call: the message, and of which leg.
fn told(module: &mut Module) -> String {
    let message = module.message();
    let of = |name| value(&message, name).unwrap_or_default().to_owned();
    let told = [message.name.clone(), of("operation"), of("direction"), of("reason")];
    module.say(&format!("%%<message:{}:false:", message.id));
    told.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_call_is_told_from_its_beginning_to_its_end() {
    let (server, at) = serve_socket("role=global\n");
    let (mut router, mut ears, mut watcher) = (Module::raw(at), Module::raw(at), Module::raw(at));
    for name in ["call.execute", "call.cdr", "chan.startup", "chan.hangup"] {
        ears.install(50, name);
    }
    watcher.say("%%>watch:chan.hangup");
    watcher.line();
    router.install(50, "user.auth");
    router.install(50, "call.route");
    let (caller, callee) = (Party::new(server.sip[0]), Party::new(server.sip[0]));
    let target = callee.at();
    let calling = thread::spawn(move || caller.call("one", "secret", "two"));

    // Nobody but this script knows who calls.
    let message = router.message();
    assert_eq!((&*message.name, value(&message, "username")), ("user.auth", Some("one")));
    assert_eq!(value(&message, "method"), Some("INVITE"));
    router.say(&format!("%%<message:{}:true::secret", message.id));
    let message = router.message();
    assert_eq!((&*message.name, value(&message, "caller")), ("call.route", Some("one")));
    router.say(&format!(
        "%%<message:{}:true::sip/sip%ztwo@127.0.0.1%z{}:osip_X-Tag=7:osip_Via=x:osip_Y=a%Jb",
        message.id,
        target.port()
    ));
    let invite = callee.turn_down("486 Busy Here");
    assert_eq!((header(&invite, "X-Tag"), header(&invite, "Y")), ("7", ""));
    assert!(!invite.contains("Via: x"), "{invite}");
    assert!(calling.join().unwrap().starts_with("SIP/2.0 486"));

    let all: Vec<String> = std::iter::repeat_with(|| told(&mut ears)).take(12).collect();
    assert_eq!(
        all,
        [
            "chan.startup incoming",
            "call.cdr initialize incoming",
            "call.execute incoming",
            "chan.startup outgoing",
            "call.cdr initialize outgoing",
            "call.cdr update incoming",
            "call.cdr update outgoing",
            "chan.hangup outgoing busy",
            "call.cdr finalize outgoing busy",
            "chan.hangup incoming busy",
            "call.cdr finalize incoming busy",
            "call.cdr combined incoming busy",
        ]
    );
    for id in ["sip/2", "sip/1"] {
        let line = watcher.line();
        assert!(line.starts_with(&format!("%%<message::false:chan.hangup::id={id}:")), "{line}");
    }
}

#[test]
fn where_no_way_leads_is_known_at_once() {
    // A socket of the loopback can't send there: nothing leaves.
    const NOWHERE: &str = "sip/sip%ztwo@192.0.2.77";
    let (server, at) = serve_socket("role=global\n");
    let mut router = Module::raw(at);
    router.install(50, "user.auth");
    router.install(50, "call.route");
    let callee = Party::new(server.sip[0]);
    let elsewhere = format!("fork {NOWHERE} | sip/sip%ztwo@127.0.0.1%z{}", callee.at().port());
    for (target, code) in [(NOWHERE, "500"), (&*elsewhere, "486")] {
        let caller = Party::new(server.sip[0]);
        let calling = thread::spawn(move || caller.call("one", "secret", "two"));
        for answer in [":true::secret".to_owned(), format!(":true::{target}")] {
            let message = router.message();
            router.say(&format!("%%<message:{}{answer}", message.id));
        }
        if code == "486" {
            callee.turn_down("486 Busy Here");
        }
        // Ten seconds is how long a party waits.
        let answer = calling.join().unwrap();
        assert!(answer.starts_with(&format!("SIP/2.0 {code}")), "{answer}");
    }
}

#[test]
fn a_target_that_means_nothing_is_left_to_the_next() {
    let (server, at) = serve_socket("role=global\n");
    let (mut router, mut next) = (Module::raw(at), Module::raw(at));
    router.install(50, "user.auth");
    router.install(50, "call.route");
    next.install(60, "call.route");
    for (answer, code) in [(":true::-:error=busy", "486"), (":false::", "503")] {
        let caller = Party::new(server.sip[0]);
        let calling = thread::spawn(move || caller.call("one", "secret", "two"));
        for garbage in [":true::secret", ":true::sip/nonsense"] {
            let message = router.message();
            router.say(&format!("%%<message:{}{garbage}", message.id));
        }
        let message = next.message();
        // What meant nothing is not shown to others.
        assert_eq!(message.retval, "");
        next.say(&format!("%%<message:{}{answer}", message.id));
        let answer = calling.join().unwrap();
        assert!(answer.starts_with(&format!("SIP/2.0 {code}")), "{answer}");
    }
}

#[test]
fn a_refusal_has_the_headers_that_a_script_names() {
    let (server, at) = serve_socket("role=global\n");
    let mut router = Module::raw(at);
    router.install(50, "user.auth");
    router.install(50, "call.route");
    for (answers, code, why) in [
        (&[":true::-:error=forbidden:osip_X-Why=auth"][..], "403", "auth"),
        (&[":true::secret", ":true::-:error=busy:osip_X-Why=route"][..], "486", "route"),
    ] {
        let caller = Party::new(server.sip[0]);
        let calling = thread::spawn(move || caller.call("one", "secret", "two"));
        for answer in answers {
            let message = router.message();
            router.say(&format!("%%<message:{}{answer}", message.id));
        }
        let answer = calling.join().unwrap();
        assert!(answer.starts_with(&format!("SIP/2.0 {code}")), "{answer}");
        assert_eq!(header(&answer, "X-Why"), why, "{answer}");
    }
}
