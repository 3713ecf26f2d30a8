//! RFC 3263 §4.3: a target with several addresses, tried one after the other.

use super::*;
use crate::proxy::End;

/// Bob's domain, at these addresses.
fn domain(addresses: &[&str]) -> Target {
    let [first, further @ ..] = addresses else { panic!("no address") };
    Target {
        uri: (*b"sip:bob@example.net").into(),
        path: Box::default(),
        flow: flow(first),
        side: Side::Server(flow(first)),
        aor: None,
        further: further.iter().map(|remote| flow(remote)).collect(),
    }
}

fn branch(sent: &Sent) -> String {
    sent.all("Via")[0].split("branch=").nth(1).unwrap().to_owned()
}

/// When requests were first sent to each address, in milliseconds.
fn first_sent(happened: &[(u64, Sent)]) -> Vec<(u64, String)> {
    let mut first: Vec<(u64, String)> = Vec::new();
    for (at, sent) in happened {
        let to = sent.to.to_string();
        if !first.iter().any(|(_, known)| *known == to) {
            first.push((at / 100 * 100, to));
        }
    }
    first
}

#[test]
fn where_nobody_is_the_next_address_is_tried_with_a_new_branch() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL, DAVE])]]);
    world.expect("100", ALICE);
    let first = world.expect("INVITE", BOB);
    // After four transmissions; where nobody else is left it would be timer B.
    let happened = world.pass(4_100);
    assert_eq!(first_sent(&happened), [(500, BOB.to_owned()), (4_000, CAROL.to_owned())]);
    let second = happened.last().unwrap().1.clone();
    assert_eq!((second.start(), second.all("Via").len()), (first.start(), 2));
    assert_ne!(branch(&first), branch(&second));
    // The dialog is with who answered.
    assert_ne!(first.one("Record-Route"), second.one("Record-Route"));
    world.come(&second.answer(200, ""), CAROL).unwrap();
    let answered = world.expect("200", ALICE).text;
    assert_eq!(world.events.last().unwrap().call.target, Some(CAROL.parse().unwrap()));
    world.come(&within("ACK", 1, "2", &answered, true), ALICE).unwrap();
    world.expect("ACK", CAROL);
    world.come(&within("BYE", 2, "3", &answered, true), ALICE).unwrap();
    let bye = world.expect("BYE", CAROL);
    world.come(&bye.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.let_end(), []);
}

#[test]
fn who_can_not_serve_is_passed_over_at_once() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    let first = world.expect("INVITE", BOB);
    world.come(&first.answer(100, ""), BOB).unwrap();
    world.come(&first.answer(503, "Retry-After: 10\r\n"), BOB).unwrap();
    assert_eq!(branch(&world.expect("ACK", BOB)), branch(&first));
    let second = world.expect("INVITE", CAROL);
    world.expect_silence();
    // What comes again is acknowledged again, and nothing else.
    world.come(&first.answer(503, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect_silence();
    // Any other refusal is an answer.
    world.come(&second.answer(486, ""), CAROL).unwrap();
    world.expect("ACK", CAROL);
    world.expect("486", ALICE);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_refusal_is_final_whatever_addresses_are_left() {
    for code in [404, 480, 500, 504] {
        let mut world = World::new();
        world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
        world.expect("100", ALICE);
        let first = world.expect("INVITE", BOB);
        world.come(&first.answer(code, ""), BOB).unwrap();
        world.expect("ACK", BOB);
        world.expect(&code.to_string(), ALICE);
        world.expect_silence();
    }
}

#[test]
fn a_branch_has_failed_when_all_addresses_have() {
    // By silence.
    let mut world = World::new();
    world.ring_timeout = 600;
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    world.expect("INVITE", BOB);
    let happened = world.pass(36_200);
    let (at, last) = happened.last().unwrap();
    assert_eq!((at / 100 * 100, last.kind()), (36_000, "408"));
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Refused(408));
    assert_eq!(world.let_end(), []);
    // By 503, which is ours to explain then (RFC 3261 §16.7 step 6).
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    for who in [BOB, CAROL] {
        let invite = world.expect("INVITE", who);
        world.come(&invite.answer(503, ""), who).unwrap();
        world.expect("ACK", who);
    }
    world.expect("500", ALICE);
    world.expect_silence();
}

#[test]
fn who_has_said_something_is_not_left_for_another_address() {
    let mut world = World::new();
    world.ring_timeout = 20;
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    let first = world.expect("INVITE", BOB);
    world.come(&first.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    let happened = world.pass(20_100);
    let [(_, cancel)] = &*happened else { panic!("{happened:?}") };
    assert_eq!(cancel.kind(), "CANCEL");
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    world.come(&first.answer(487, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect("480", ALICE);
    world.expect_silence();
}

#[test]
fn who_says_100_is_given_all_the_time() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    let first = world.expect("INVITE", BOB);
    world.come(&first.answer(100, ""), BOB).unwrap();
    assert_eq!(world.pass(50_000), []);
    world.come(&first.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
}

#[test]
fn each_address_may_ring_for_as_long_as_the_first() {
    let mut world = World::new();
    world.ring_timeout = 2;
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    world.expect("INVITE", BOB);
    let happened = world.pass(4_100);
    assert_eq!(
        first_sent(&happened),
        [(500, BOB.to_owned()), (2_000, CAROL.to_owned()), (4_000, ALICE.to_owned())]
    );
    assert_eq!(happened.last().unwrap().1.kind(), "480");
}

#[test]
fn nobody_else_is_tried_for_a_caller_who_has_given_up() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    world.expect("INVITE", BOB);
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    let happened = world.pass(33_000);
    assert!(happened.iter().all(|(_, sent)| sent.to.to_string() != CAROL), "{happened:?}");
    assert!(happened.iter().any(|(_, sent)| sent.kind() == "487"));
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn in_a_fork_one_target_fails_over_and_the_others_ring_on() {
    let mut world = World::new();
    let group = [domain(&[BOB, CAROL]), target("dave", DAVE)];
    let text = request("INVITE", 1, "1", "Max-Breadth: 10\r\n");
    world.invite(&text, ALICE, &[&group]);
    world.expect("100", ALICE);
    let bob = world.expect("INVITE", BOB);
    let dave = world.expect("INVITE", DAVE);
    world.come(&dave.answer(180, ""), DAVE).unwrap();
    world.expect("180", ALICE);
    world.come(&bob.answer(503, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    let carol = world.expect("INVITE", CAROL);
    // All that are out at a time share what the request came with (RFC 5393 §5.3.3).
    for invite in [&bob, &dave, &carol] {
        assert_eq!(invite.one("Max-Breadth"), "5");
    }
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    world.expect("CANCEL", DAVE);
}

#[test]
fn other_requests_fail_over_too() {
    let mut world = World::new();
    let text = request("MESSAGE", 1, "1", "");
    world.invite(&text, ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("MESSAGE", BOB);
    // Timer F.
    let happened = world.pass(32_100);
    let second = happened.last().unwrap().1.clone();
    assert_eq!((second.kind(), second.to.to_string().as_str()), ("MESSAGE", CAROL));
    world.come(&second.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.let_end(), []);
}

#[test]
fn where_no_way_leads_the_next_address_is_tried_at_once() {
    for method in ["INVITE", "MESSAGE"] {
        let mut world = World::new();
        world.invite(&request(method, 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
        if method == "INVITE" {
            world.expect("100", ALICE);
        }
        let first = world.expect(method, BOB);
        assert!(world.unsent(&first));
        let second = world.expect(method, CAROL);
        assert_ne!(branch(&first), branch(&second));
        // It was told twice, as of a batch with a repetition in it.
        assert!(!world.unsent(&first));
        world.expect_silence();
        assert!(world.unsent(&second));
        // RFC 3261 §16.9 with §16.7 step 6.
        world.expect("500", ALICE);
        world.expect_silence();
        if method == "INVITE" {
            world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
            assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Refused(500));
        }
        assert_eq!(world.let_end(), []);
    }
}

#[test]
fn what_is_no_request_of_a_branch_fails_nobody() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    let trying = world.expect("100", ALICE);
    assert!(!world.unsent(&trying));
    let invite = world.expect("INVITE", BOB);
    let other = Sent { text: invite.text.replace(&branch(&invite), "z9hG4bKx"), ..invite.clone() };
    assert!(!world.unsent(&other));
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    // Somebody is there: a repetition that could not be sent says nothing.
    assert!(!world.unsent(&invite));
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    let cancel = world.expect("CANCEL", BOB);
    assert!(!world.unsent(&cancel));
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    world.come(&invite.answer(487, ""), BOB).unwrap();
    let ack = world.expect("ACK", BOB);
    assert!(!world.unsent(&ack));
    world.expect("487", ALICE);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_caller_who_has_given_up_is_told_so_where_no_way_leads() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[domain(&[BOB, CAROL])]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    assert!(world.unsent(&invite));
    world.expect("487", ALICE);
    world.expect_silence();
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_request_that_leaves_by_another_listener_names_both() {
    const PROXY6: &str = "[2001:db8::1]:5060";
    const BOB6: &str = "[2001:db8::20]:5060";
    let mut world = World::new();
    let listeners = [PROXY, PROXY6].map(|addr| addr.parse().unwrap()).into();
    world.core = Core::new([2; 16], TokenKey::new([1; 16]), listeners, Limits::default(), 1);
    let flow6 = Flow { listener: ListenerId(1), ..flow(BOB6) };
    let target = Target { further: [flow6].into(), ..domain(&[BOB]) };
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[target]]);
    world.expect("100", ALICE);
    let first = world.expect("INVITE", BOB);
    assert_eq!(first.all("Record-Route").len(), 1);
    world.come(&first.answer(503, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    let second = world.expect("INVITE", BOB6);
    assert!(second.all("Via")[0].starts_with(&format!("SIP/2.0/UDP {PROXY6};")), "{second:?}");
    let named: Vec<_> =
        second.all("Record-Route").iter().map(|r| r.split(';').next().unwrap()).collect();
    assert_eq!(named, [format!("<sip:{PROXY6}"), format!("<sip:{PROXY}")]);
    world.come(&second.answer(200, ""), BOB6).unwrap();
    let answered = world.expect("200", ALICE).text;
    world.come(&within("INFO", 2, "i", &answered, true), ALICE).unwrap();
    let info = world.expect("INFO", BOB6);
    assert_eq!(info.all("Route"), [""; 0]);
}
