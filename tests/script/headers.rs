//! Headers that scripts add to answers, and long values both ways.

use std::thread;

use crate::{
    client::{self, Module, value},
    serve_socket,
    support::{Phone, wait_until},
};

/// 30 KiB that a header may have, and that fields have to escape.
fn long() -> String {
    "ü=:%\t\"x".repeat(30 * 1024 / 8 + 1)
}

/// Has `phone` ask, and a module answer what it is asked in turn.
fn answered<A: Send + 'static>(
    module: &mut Module,
    mut phone: Phone,
    asks: fn(&mut Phone) -> A,
    answers: &[&str],
) -> (Phone, A) {
    let asking = thread::spawn(move || {
        let answer = asks(&mut phone);
        (phone, answer)
    });
    for answer in answers {
        let message = module.message();
        module.say(&format!("%%<message:{}:{answer}", message.id));
    }
    asking.join().unwrap()
}

#[test]
fn answers_have_the_headers_that_a_script_names() {
    let (server, at) = serve_socket("role=global\n[bindery]\ncache=300\n");
    let mut module = Module::raw(at);
    module.install(50, "user.auth");
    module.install(50, "user.register");
    let register = |phone: &mut Phone| phone.register(600);
    let phone = Phone::new(server.sip[0], "one", "secret");
    let auth = "true::secret:osip_Service-Route=<sip%zedge@127.0.0.1;lr>:osip_Content-Length=9";
    let bound = "true:::osip_X-Bound=yes:osip_X-Bad=a%M%JContact%z <sip%zx@y>";
    let (mut phone, answer) = answered(&mut module, phone, register, &[auth, bound]);
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(answer.headers("Service-Route"), ["<sip:edge@127.0.0.1;lr>"]);
    assert_eq!(answer.headers("X-Bound"), ["yes"]);
    assert_eq!((answer.headers("X-Bad").len(), answer.headers("Contact").len()), (0, 1));
    assert_eq!(answer.headers("Content-Length"), ["0"]);
    let said = "osip_X-Bad: a header's value has no line end";
    wait_until("the log to say why", || server.log().contains(said));
    // What is known of the account is there when nobody is asked; nothing else is.
    let answer = phone.register(600);
    assert_eq!(answer.headers("Service-Route"), ["<sip:edge@127.0.0.1;lr>"]);
    assert!(answer.headers("X-Bound").is_empty());
    // A refusal has them as well, and a challenge has none.
    let phone = Phone::new(server.sip[0], "two", "secret");
    let refused = "false:::code=480:osip_X-Why=away";
    let (_, answer) =
        answered(&mut module, phone, register, &["true::secret:osip_X-Who=two", refused]);
    assert_eq!(answer.code, 480);
    assert_eq!((answer.headers("X-Who"), answer.headers("X-Why")), (vec!["two"], vec!["away"]));
    let phone = Phone::new(server.sip[0], "three", "wrong");
    let (_, answer) = answered(&mut module, phone, register, &["true::secret:osip_X-Who=three"]);
    assert_eq!((answer.code, answer.headers("X-Who").len()), (401, 0));
}

#[test]
fn thirty_kibioctets_go_both_ways() {
    let (server, at) = serve_socket("role=global\n[bindery]\ncache=300\n");
    let mut module = Module::raw(at);
    module.say("%%>setlocal:bufsize:65536");
    module.line();
    module.install(50, "user.auth");
    module.install(50, "user.register");
    let phone = Phone::new(server.sip[0], "one", "secret");
    let register = |phone: &mut Phone| phone.register(600);
    let (phone, _) = answered(&mut module, phone, register, &["true::secret", "true:"]);
    // Another contact is new, and so somebody is asked.
    let ask = |phone: &mut Phone| {
        phone.send(&format!("Contact: <sip:b@127.0.0.1>\r\nX-Long: {}\r\n", long()))
    };
    let mut phone = phone;
    let asking = thread::spawn(move || ask(&mut phone));
    let message = module.message();
    assert_eq!(message.name, "user.register");
    assert_eq!(value(&message, "sip_x-long"), Some(&*long()));
    let back = client::escaped(&long());
    module.say(&format!("%%<message:{}:true:::osip_X-Long={back}", message.id));
    let answer = asking.join().unwrap();
    assert_eq!(answer.code, 200);
    assert_eq!(answer.headers("X-Long"), [&*long()]);
    assert_eq!(answer.headers("Contact").len(), 2);
}

#[test]
fn long_parameters_of_an_account_are_not_kept() {
    let (server, at) = serve_socket("role=global\n[bindery]\ncache=300\n");
    let mut module = Module::raw(at);
    module.install(50, "user.auth");
    let phone = Phone::new(server.sip[0], "one", "secret");
    // Nobody but who has the account is asked for that.
    let query = |phone: &mut Phone| phone.query();
    let auth = format!("true::secret:osip_X-Long={}", "x".repeat(5000));
    let (phone, answer) = answered(&mut module, phone, query, &[&auth]);
    assert_eq!((answer.code, answer.headers("X-Long").len()), (200, 1));
    let (phone, _) = answered(&mut module, phone, query, &[&auth]);
    let short = format!("true::secret:osip_X-Long={}", "x".repeat(4000));
    let (mut phone, _) = answered(&mut module, phone, query, &[&short]);
    // That is.
    let answer = phone.query();
    assert_eq!((answer.code, answer.headers("X-Long")[0].len()), (200, 4000));
}
