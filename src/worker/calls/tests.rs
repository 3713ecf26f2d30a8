//! Calls through a worker without sockets: who is refused, and why.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    auth::policy::Algorithm,
    proxy::{Foreign, Goal, Routed},
    subscribers::builder::Builder,
    worker::{
        AskAuth, AskRegister, Rules,
        parking::{
            Learnt, Question,
            tests::{World, account, at},
        },
    },
};

/// The code of the only answer that there is.
fn code(world: &mut World) -> String {
    let [(answer, _)] = &*world.passed_on() else { panic!("one answer") };
    answer[8..11].to_owned()
}

/// Users of `regfile.conf`: alice, and bob with a number.
fn listed(rules: &mut Rules) {
    let mut builder = Builder::new("example.com", &[Algorithm::Md5]);
    for (name, number) in [("alice", ""), ("bob", "900")] {
        builder.section(name.as_bytes()).unwrap();
        builder.key(b"password", b"secret").unwrap();
        if !number.is_empty() {
            builder.key(b"alternatives", number.as_bytes()).unwrap();
        }
    }
    rules.subscribers = builder.build();
    rules.elsewhere.auth = AskAuth::Never;
}

#[test]
fn a_target_of_a_handler_that_is_nobody_is_unknown() {
    let mut world = World::by(AskRegister::Never, 4, |rules| {
        listed(rules);
        rules.elsewhere.route = true;
    });
    world.challenged();
    for (targets, expected) in [
        (&["sip:bob@example.com"][..], "480"),
        (&["sip:900@example.com"], "480"),
        (&["sip:nobody@example.com"], "404"),
        (&["sip:nobody@192.0.2.9:5060"], "404"),
        (&["sip:nobody@example.com", "sip:bob@example.com"], "480"),
    ] {
        let text = world.invite("secret");
        world.code(&text);
        world.passed_on();
        let mut parked = world.asked(Question::Route);
        let group = targets.iter().map(|uri| Goal::Uri(uri.as_bytes().into())).collect();
        parked.learned.routed = Some(Learnt::Is(Arc::new(Routed::To(vec![group]))));
        world.give_back(parked);
        assert_eq!(code(&mut world), expected, "{targets:?}");
    }
}

#[test]
fn whom_only_a_back_end_can_know_is_somebody() {
    let mut world = World::by(AskRegister::Never, 4, |rules| rules.elsewhere.route = true);
    world.keep(account("secret"));
    world.challenged();
    let text = world.invite("secret");
    world.code(&text);
    world.passed_on();
    let mut parked = world.asked(Question::Route);
    let goal = Goal::Uri((*b"sip:carol@example.com").into());
    parked.learned.routed = Some(Learnt::Is(Arc::new(Routed::To(vec![vec![goal]]))));
    world.give_back(parked);
    assert_eq!(code(&mut world), "480");
}

/// An INVITE of alice to a user of another domain.
fn calls_out(world: &mut World) -> String {
    world
        .of_method("secret", "INVITE", "bob@example.net")
        .replace("To: <sip:alice@example.com>", "To: <sip:bob@example.net>")
        .replace("Authorization:", "Proxy-Authorization:")
}

#[test]
fn who_calls_out_is_not_sent_into_the_network() {
    let mut world = World::by(AskRegister::Never, 4, |rules| {
        listed(rules);
        rules.calls.foreign = Foreign::Dns;
    });
    world.challenged();
    for (found, expected) in [
        ("127.0.0.1:5060", "403"),
        ("10.0.0.7:5060", "403"),
        ("192.0.2.9:5070", "403"),
        ("192.0.2.9:5060", "482"),
    ] {
        let text = calls_out(&mut world);
        world.code(&text);
        world.passed_on();
        let mut parked = world.asked(Question::Resolve);
        parked.learned.hops[0].1 = Some(at(found));
        world.give_back(parked);
        assert_eq!(code(&mut world), expected, "{found}");
    }
    let text = calls_out(&mut world);
    world.code(&text);
    world.passed_on();
    let mut parked = world.asked(Question::Resolve);
    parked.learned.hops[0].1 = Some(at("198.51.100.1:5060"));
    world.give_back(parked);
    let to: SocketAddr = ([198, 51, 100, 1], 5060).into();
    assert_eq!(world.passed_on(), [("INVITE sip:bob@example.net SIP/2.0".to_owned(), to)]);
}

#[test]
fn who_hides_its_name_calls_on_its_own_account() {
    let mut world = World::by(AskRegister::Never, 4, |rules| {
        listed(rules);
        rules.calls.max_calls = 1;
        rules.elsewhere.route = true;
    });
    world.challenged();
    for (anonymous, expected) in [(true, "INVITE sip:x@192.0.2.77 SIP/2.0"), (false, "486")] {
        let text = world.invite("secret");
        let text = if anonymous {
            text.replace("<sip:alice@example.com>;tag=t", "<sip:anonymous@anonymous.invalid>;tag=t")
        } else {
            text
        };
        let text = text.replace("Call-ID: c", &format!("Call-ID: {expected:.3}"));
        world.code(&text);
        world.passed_on();
        let mut parked = world.asked(Question::Route);
        assert_eq!(parked.learned.caller.as_deref(), Some(&b"alice"[..]));
        let goal = Goal::Uri((*b"sip:x@192.0.2.77").into());
        parked.learned.routed = Some(Learnt::Is(Arc::new(Routed::To(vec![vec![goal]]))));
        world.give_back(parked);
        let [(sent, _)] = &*world.passed_on() else { panic!("one message") };
        if anonymous {
            assert_eq!(sent, expected);
        } else {
            assert_eq!(&sent[8..11], expected);
        }
    }
}
