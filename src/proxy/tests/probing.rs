//! Calls of which nothing is heard, and whose parties are asked.

use super::*;
use crate::proxy::{End, ProbeBy, Probed};

/// Seconds of `[calls] probe` here.
const PROBE: u32 = 300;
/// Milliseconds of it, and a tick of the wheel.
const DUE: u64 = 300_016;
const BOBS_CONTACT: &str = "Contact: <sip:bob@10.0.0.2:5062>\r\n";

fn world() -> World {
    let mut world = World::new();
    world.policy.probe = DeltaSeconds(PROBE);
    world
}

/// Bob has answered: what Alice got.
fn answered(world: &mut World, extra: &str) -> String {
    let invite = world.call_bob();
    world.come(&invite.answer(200, extra), BOB).unwrap();
    world.expect("200", ALICE).text
}

/// Lets time pass until both are asked: what Alice and Bob get.
#[track_caller]
fn asked(world: &mut World, method: &str) -> (Sent, Sent) {
    let happened = world.pass(DUE);
    let kinds: Vec<_> = happened.iter().map(|(_, sent)| (sent.kind(), sent.to)).collect();
    assert_eq!(kinds, [(method, ALICE.parse().unwrap()), (method, BOB.parse().unwrap())]);
    assert!(happened[0].0 >= 1000 * u64::from(PROBE), "{}", happened[0].0);
    let mut sent = happened.into_iter().map(|(_, sent)| sent);
    (sent.next().unwrap(), sent.next().unwrap())
}

impl World {
    /// What has been counted of probes since the last time, in the order of [`Probed::ALL`].
    fn probed(&mut self) -> [u64; Probed::ALL.len()] {
        self.fx.take_probed()
    }

    #[track_caller]
    fn expect_ended(&mut self, why: End) {
        assert_eq!(self.core.calls(), 0);
        assert_eq!(self.events.last().unwrap().call.ended.unwrap().1, why);
    }

    /// A request of either party goes through, and is answered.
    fn talk(&mut self, method: &str, cseq: u32, answered: &str, by_caller: bool, extra: &str) {
        let (from, to) = if by_caller { (ALICE, BOB) } else { (BOB, ALICE) };
        let request = within(method, cseq, &format!("{method}{cseq}"), answered, by_caller);
        self.come(&request, from).unwrap();
        let sent = self.expect(method, to);
        self.come(&sent.answer(200, extra), to).unwrap();
        self.expect("200", from);
    }
}

#[test]
fn nobody_is_asked_by_default() {
    let mut world = World::new();
    answered(&mut world, BOBS_CONTACT);
    assert_eq!(world.pass(7_100_000), []);
    assert_eq!(world.core.calls(), 1);
    assert_eq!(world.pass(200_000), []);
    world.expect_ended(End::Dead);
}

#[test]
fn both_are_asked_as_the_other_would_ask() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    world.talk("INFO", 7, &answer, true, "");
    let (alice, bob) = asked(&mut world, "OPTIONS");
    assert_eq!(bob.start(), "OPTIONS sip:bob@10.0.0.2:5062");
    assert_eq!(bob.one("From"), "<sip:alice@example.com>;tag=a");
    assert_eq!(bob.one("To"), "<sip:bob@example.com>;tag=of-192.0.2.20");
    assert_eq!(alice.start(), format!("OPTIONS sip:alice@{ALICE}"));
    assert_eq!((alice.one("From"), alice.one("To")), (bob.one("To"), bob.one("From")));
    // Out of order, and never what was there already; of Bob nothing came that has a number.
    assert_eq!((alice.one("CSeq"), bob.one("CSeq")), ("0 OPTIONS", "6 OPTIONS"));
    for sent in [&alice, &bob] {
        assert_eq!(sent.one("Call-ID"), "call@alice");
        assert_eq!(sent.one("Max-Forwards"), "70");
        assert!(sent.one("Via").starts_with("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK"));
        assert_eq!(sent.all("Route"), [""; 0]);
        assert_eq!(sent.all("Contact"), [""; 0]);
    }
    assert_ne!(alice.one("Via"), bob.one("Via"));
    assert_eq!(world.probed(), [2, 0, 0, 0]);
}

#[test]
fn whatever_is_answered_shows_that_somebody_is_there() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    for codes in [(200, 200), (500, 405), (501, 404), (480, 603)] {
        let (alice, bob) = asked(&mut world, "OPTIONS");
        world.come(&bob.answer(100, ""), BOB).unwrap();
        world.come(&alice.answer(codes.0, ""), ALICE).unwrap();
        world.come(&bob.answer(codes.1, ""), BOB).unwrap();
        // Nobody is told.
        world.expect_silence();
        assert_eq!(world.core.calls(), 1);
        assert_eq!(world.probed(), [2, 2, 0, 0]);
    }
    world.talk("BYE", 9, &answer, false, "");
    world.expect_ended(End::Bye);
    assert_eq!(world.let_end(), []);
}

#[test]
fn parties_that_live_have_a_call_go_on() {
    let mut world = world();
    world.policy.dead_call = DeltaSeconds(400);
    answered(&mut world, BOBS_CONTACT);
    for _ in 0..5 {
        let (alice, bob) = asked(&mut world, "OPTIONS");
        world.come(&alice.answer(200, ""), ALICE).unwrap();
        world.come(&bob.answer(200, ""), BOB).unwrap();
    }
    assert_eq!(world.core.calls(), 1);
    let gone = world.let_end();
    assert!(gone.iter().all(|(_, sent)| sent.kind() == "OPTIONS"), "{gone:?}");
    world.expect_ended(End::Vanished);
}

#[test]
fn a_party_that_has_no_such_call_ends_it() {
    for (code, by_caller) in [(481, true), (481, false), (408, true)] {
        let mut world = world();
        answered(&mut world, BOBS_CONTACT);
        let (alice, bob) = asked(&mut world, "OPTIONS");
        let (gone, other) = if by_caller { (alice, bob) } else { (bob, alice) };
        world.come(&gone.answer(code, ""), BOB).unwrap();
        world.expect_ended(End::Vanished);
        assert_eq!(world.probed(), [2, 0, 1, 0]);
        // Neither is hung up on, and what the other says does not matter any more.
        world.come(&other.answer(200, ""), BOB).unwrap();
        assert_eq!(world.probed(), [0; 4]);
        assert_eq!(world.let_end(), []);
    }
}

#[test]
fn a_party_that_is_silent_is_asked_for_32_seconds() {
    let mut world = world();
    answered(&mut world, BOBS_CONTACT);
    let (alice, bob) = asked(&mut world, "OPTIONS");
    world.come(&alice.answer(200, ""), ALICE).unwrap();
    let happened = world.pass(31_900);
    let same: Vec<_> = happened.iter().map(|(_, sent)| sent == &bob).collect();
    assert_eq!(same, [true; 10]);
    assert_eq!(world.core.calls(), 1);
    assert_eq!(world.pass(200), []);
    world.expect_ended(End::Vanished);
    assert_eq!(world.probed(), [2, 1, 0, 1]);
    // Its answer comes too late, and goes nowhere.
    world.come(&bob.answer(200, ""), BOB).unwrap();
    world.expect_silence();
    assert_eq!(world.let_end(), []);
}

#[test]
fn only_one_round_goes_on_at_a_time() {
    let mut world = world();
    world.policy.probe = DeltaSeconds(5);
    answered(&mut world, BOBS_CONTACT);
    let first = world.pass(5_016);
    assert_eq!(first.len(), 2);
    world.come(&first[0].1.answer(200, ""), ALICE).unwrap();
    // Bob is asked again, Alice is not.
    let again = world.pass(20_000);
    assert!(again.iter().all(|(_, sent)| *sent == first[1].1), "{again:?}");
    world.come(&first[1].1.answer(200, ""), BOB).unwrap();
    assert_eq!(world.pass(4_900), []);
    let second = world.pass(200);
    assert_eq!(second.len(), 2);
    // What was for the first round says nothing about the second.
    world.come(&first[0].1.answer(481, ""), ALICE).unwrap();
    world.come(&first[1].1.answer(481, ""), BOB).unwrap();
    assert_eq!(world.core.calls(), 1);
    assert_eq!(world.probed(), [4, 2, 0, 0]);
}

#[test]
fn nobody_else_can_answer() {
    let mut world = world();
    answered(&mut world, BOBS_CONTACT);
    let (alice, bob) = asked(&mut world, "OPTIONS");
    let gone = alice.answer(481, "");
    for (what, instead) in [("branch=z9hG4bKbp0", "branch=z9hG4bKbp1"), ("\r\nFrom", "0\r\nFrom")] {
        let forged = gone.replacen(what, instead, 1);
        assert_ne!(forged, gone);
        assert_eq!(world.come(&forged, DAVE), Err(None), "{forged}");
    }
    // Bob knows his probe, which does not tell him Alice's.
    let bobs = bob.one("Via").rsplit_once('=').unwrap().1;
    let forged = format!("{}0{}", &bobs[..33], &bobs[34..]);
    assert_ne!(forged, bobs);
    assert_eq!(world.come(&bob.answer(481, "").replace(bobs, &forged), BOB), Err(None));
    assert_eq!(world.core.calls(), 1);
}

#[test]
fn whoever_is_heard_need_not_be_asked() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    for (cseq, by_caller) in [(2, true), (3, false), (4, true)] {
        assert_eq!(world.pass(299_000), []);
        world.talk("INFO", cseq, &answer, by_caller, "");
    }
    let (alice, bob) = asked(&mut world, "OPTIONS");
    assert_eq!((alice.one("CSeq"), bob.one("CSeq")), ("2 OPTIONS", "3 OPTIONS"));
}

#[test]
fn who_is_heard_while_somebody_is_asked_ends_the_round() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    let (_, bob) = asked(&mut world, "OPTIONS");
    world.pass(3_000);
    world.talk("INFO", 2, &answer, true, "");
    assert_eq!(world.pass(40_000), []);
    assert_eq!(world.core.calls(), 1);
    world.come(&bob.answer(481, ""), BOB).unwrap();
    assert_eq!(world.core.calls(), 1);
    assert_eq!(world.probed(), [2, 0, 0, 0]);
}

#[test]
fn who_hangs_up_while_being_asked_has_hung_up() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    let (alice, bob) = asked(&mut world, "OPTIONS");
    world.talk("BYE", 3, &answer, false, "");
    world.expect_ended(End::Bye);
    for (sent, from) in [(alice, ALICE), (bob, BOB)] {
        world.come(&sent.answer(481, ""), from).unwrap();
    }
    world.expect_silence();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_session_timer_makes_probes_needless() {
    let expires = "Session-Expires: 1800;refresher=uac\r\n";
    let mut world = world();
    answered(&mut world, &format!("{BOBS_CONTACT}{expires}"));
    assert_eq!(world.pass(1_840_000), []);
    world.expect_ended(End::Dead);
    // One that is agreed later does, too.
    let mut world = self::world();
    let answer = answered(&mut world, BOBS_CONTACT);
    world.talk("UPDATE", 2, &answer, true, expires);
    assert_eq!(world.pass(1_840_000), []);
    world.expect_ended(End::Dead);
}

#[test]
fn an_update_says_where_the_other_is() {
    let mut world = world();
    world.policy.probe_by = ProbeBy::Update;
    answered(&mut world, BOBS_CONTACT);
    let (alice, bob) = asked(&mut world, "UPDATE");
    assert_eq!(bob.one("Contact"), format!("<sip:alice@{ALICE}>"));
    assert_eq!(alice.one("Contact"), "<sip:bob@10.0.0.2:5062>");
    assert_eq!((alice.one("CSeq"), bob.one("CSeq")), ("0 UPDATE", "0 UPDATE"));
    // As it began: a reload in between changes nothing of this round.
    world.policy.probe_by = ProbeBy::Options;
    let again = world.pass(600);
    assert_eq!(again.into_iter().map(|(_, sent)| sent).collect::<Vec<_>>(), [alice, bob]);
}

#[test]
fn who_moves_is_asked_where_it_is_now() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    let contact = "Contact: <sip:alice@10.0.0.9>\r\n";
    let update = within("UPDATE", 2, "u", &answer, true);
    let update = update.replacen("Content-Length", &format!("{contact}Content-Length"), 1);
    world.come(&update, ALICE).unwrap();
    let update = world.expect("UPDATE", BOB);
    let bobs = "Contact: <sip:bob@10.0.0.3>\r\n";
    world.come(&update.answer(200, bobs), BOB).unwrap();
    world.expect("200", ALICE);
    let (alice, bob) = asked(&mut world, "OPTIONS");
    assert_eq!(alice.start(), "OPTIONS sip:alice@10.0.0.9");
    assert_eq!(bob.start(), "OPTIONS sip:bob@10.0.0.3");
    world.talk("UPDATE", 1, &answer, false, "Contact: <sip:alice@10.0.0.8>\r\n");
    let (alice, bob) = asked(&mut world, "OPTIONS");
    assert_eq!(alice.start(), "OPTIONS sip:alice@10.0.0.8");
    assert_eq!(bob.start(), "OPTIONS sip:bob@10.0.0.3");
}

#[test]
fn a_phone_at_another_address_is_asked_there() {
    let mut world = world();
    let answer = answered(&mut world, BOBS_CONTACT);
    world.has_moved = true;
    for (cseq, from) in [(1, DAVE), (2, "192.0.2.20:40404")] {
        let info = within("INFO", cseq, &format!("m{cseq}"), &answer, false);
        world.come(&info, from).unwrap();
        let info = world.expect("INFO", ALICE);
        world.come(&info.answer(200, ""), ALICE).unwrap();
        world.sent.clear();
        let happened = world.pass(DUE);
        let to: Vec<_> = happened.iter().map(|(_, sent)| sent.to.to_string()).collect();
        assert_eq!(to, [ALICE, from]);
    }
}

#[test]
fn probes_go_through_the_proxies_on_the_way() {
    let (edge, trunk) = ("Record-Route: <sip:192.0.2.30;lr>\r\n", "<sip:192.0.2.10:5080;lr>");
    let mut world = world();
    let carol = Target { side: Side::Server(flow(CAROL)), ..target("bob", CAROL) };
    let record = format!("Record-Route: {trunk}\r\n");
    world.invite(&request("INVITE", 1, "1", &record), ALICE, &[&[carol]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", CAROL);
    // The proxy next to Bob writes itself before all others.
    let far = "Record-Route: <sip:198.51.100.7;lr>\r\n";
    let answer = invite.answer(200, BOBS_CONTACT);
    let answer = answer.replacen("Record-Route", &format!("{far}{edge}Record-Route"), 1);
    world.come(&answer, CAROL).unwrap();
    world.expect("200", ALICE);
    let happened = world.pass(DUE);
    let [(_, alice), (_, bob)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((alice.to, alice.all("Route")), (ALICE.parse().unwrap(), vec![trunk]));
    let routes = vec!["<sip:192.0.2.30;lr>", "<sip:198.51.100.7;lr>"];
    assert_eq!((bob.to, bob.all("Route")), (CAROL.parse().unwrap(), routes));
    assert_eq!(bob.start(), "OPTIONS sip:bob@10.0.0.2:5062");
}

#[test]
fn a_server_is_probed_where_its_contact_says_if_that_is_its_own() {
    for (contact, to) in [
        ("Contact: <sip:bob@192.0.2.20:5099>\r\n", "192.0.2.20:5099"),
        ("Contact: <sip:bob@198.51.100.1:5099>\r\n", BOB),
    ] {
        let mut world = world();
        let bob = Target { side: Side::Server(flow(BOB)), ..target("bob", BOB) };
        world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[bob]]);
        world.expect("100", ALICE);
        let invite = world.expect("INVITE", BOB);
        world.come(&invite.answer(200, contact), BOB).unwrap();
        world.expect("200", ALICE);
        assert_eq!(world.pass(DUE)[1].1.to, to.parse().unwrap());
    }
}

#[test]
fn of_two_who_answer_the_first_is_asked() {
    let mut world = world();
    let group = [target("bob", BOB), target("carol", CAROL)];
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&group]);
    world.expect("100", ALICE);
    let (bob, carol) = (world.expect("INVITE", BOB), world.expect("INVITE", CAROL));
    world.come(&bob.answer(200, BOBS_CONTACT), BOB).unwrap();
    world.expect("200", ALICE);
    world.come(&carol.answer(200, "Contact: <sip:carol@10.0.0.3>\r\n"), CAROL).unwrap();
    world.expect("200", ALICE);
    let (alice, bob) = asked(&mut world, "OPTIONS");
    assert_eq!(alice.one("From"), bob.one("To"));
    assert!(bob.one("To").ends_with("tag=of-192.0.2.20"));
}

#[test]
fn who_can_not_be_named_is_not_asked() {
    let long = format!("Contact: <sip:{}@10.0.0.2>\r\n", "b".repeat(4096));
    for contact in ["", "Contact: <tel:+1555>\r\n", "Contact: *\r\n", &long] {
        let mut world = world();
        answered(&mut world, contact);
        assert_eq!(world.pass(7_100_000), [], "{contact}");
        world.pass(200_000);
        world.expect_ended(End::Dead);
    }
}

#[test]
fn the_setting_may_change_meanwhile() {
    let mut world = world();
    answered(&mut world, BOBS_CONTACT);
    asked(&mut world, "OPTIONS");
    world.policy.probe = DeltaSeconds(0);
    assert_eq!(world.pass(40_000), []);
    assert_eq!(world.core.calls(), 1);
    world.policy.probe = DeltaSeconds(PROBE);
    // Nothing is known any more of calls that were not to be asked about.
    assert_eq!(world.pass(1_000_000), []);
    assert_eq!(world.core.calls(), 1);
}
