//! RFC 3261 §16.6 and §16.7: several targets, and the best of what they say.

use super::*;
use crate::proxy::End;

/// Alice calls three phones at once: what they get.
fn fork(world: &mut World) -> [Sent; 3] {
    let group = [target("bob", BOB), target("carol", CAROL), target("dave", DAVE)];
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&group]);
    world.expect("100", ALICE);
    [BOB, CAROL, DAVE].map(|who| world.expect("INVITE", who))
}

#[test]
fn the_first_to_answer_gets_the_call() {
    let mut world = World::new();
    let [bob, carol, dave] = fork(&mut world);
    let branches: std::collections::HashSet<_> =
        [&bob, &carol, &dave].map(|invite| invite.all("Via")[0].to_owned()).into();
    assert_eq!(branches.len(), 3);
    // Each knows how many may fork it again (RFC 5393 §5.3.3).
    assert_eq!(bob.one("Max-Breadth"), "20");
    for (invite, who) in [(&bob, BOB), (&carol, CAROL)] {
        world.come(&invite.answer(180, ""), who).unwrap();
        world.expect("180", ALICE);
    }
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    let cancel = world.expect("CANCEL", BOB);
    // RFC 3326: it shows no missed call.
    assert_eq!(cancel.one("Reason"), "SIP;cause=200;text=\"Call completed elsewhere\"");
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    // Dave has said nothing yet.
    world.expect_silence();
    world.come(&dave.answer(180, ""), DAVE).unwrap();
    world.expect("CANCEL", DAVE);
    for (invite, who) in [(&bob, BOB), (&dave, DAVE)] {
        world.come(&invite.answer(487, ""), who).unwrap();
        world.expect("ACK", who);
    }
    world.expect_silence();
    assert_eq!(world.stages(), [Stage::Calling, Stage::Ringing, Stage::Answered]);
    assert_eq!(world.events[2].call.target, Some(CAROL.parse().unwrap()));
}

#[test]
fn a_call_is_that_of_the_user_who_answers() {
    let mut world = World::new();
    let of = |who: &str, remote| Target { aor: Some(who.as_bytes().into()), ..target(who, remote) };
    let group = [of("bob", BOB), of("carol", CAROL)];
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&group]);
    world.expect("100", ALICE);
    let [bob, carol] = [BOB, CAROL].map(|who| world.expect("INVITE", who));
    world.come(&bob.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    let call = &world.events.last().unwrap().call;
    assert_eq!((call.stage, call.to_aor.as_deref()), (Stage::Answered, Some(&b"carol"[..])));
}

#[test]
fn nobody_is_taken_at_its_word_that_a_request_may_be_forked_without_end() {
    for (said, each) in [("4294967295", "30"), ("10", "5"), ("nonsense", "30")] {
        let mut world = World::new();
        let group = [target("bob", BOB), target("carol", CAROL)];
        let breadth = format!("Max-Breadth: {said}\r\n");
        world.invite(&request("INVITE", 1, "1", &breadth), ALICE, &[&group]);
        world.expect("100", ALICE);
        for who in [BOB, CAROL] {
            assert_eq!(world.expect("INVITE", who).one("Max-Breadth"), each, "{said}");
        }
    }
}

#[test]
fn who_answers_at_the_same_time_is_told_on_too() {
    let mut world = World::new();
    let [bob, carol, _] = fork(&mut world);
    world.come(&bob.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    // RFC 3261 §16.7 step 5: all 2xx go on; the caller ends what it does not want.
    world.expect("200", ALICE);
    // And each that is repeated.
    world.come(&bob.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
}

#[test]
fn the_best_refusal_goes_back_once_all_have_refused() {
    let mut world = World::new();
    let [bob, carol, dave] = fork(&mut world);
    for (invite, who, code) in [(&bob, BOB, 404), (&carol, CAROL, 486)] {
        world.come(&invite.answer(code, ""), who).unwrap();
        world.expect("ACK", who);
        world.expect_silence();
    }
    world.come(&dave.answer(503, ""), DAVE).unwrap();
    world.expect("ACK", DAVE);
    let refused = world.expect("404", ALICE);
    assert_eq!(refused.all("Via").len(), 1);
    // Until it is acknowledged.
    let again = world.pass(3_600);
    let times: Vec<_> = again.iter().map(|(at, sent)| (at / 100 * 100, sent.kind())).collect();
    assert_eq!(times, [(500, "404"), (1500, "404"), (3500, "404")]);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_6xx_ends_it_for_all() {
    let mut world = World::new();
    let [bob, carol, dave] = fork(&mut world);
    world.come(&bob.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.come(&carol.answer(603, ""), CAROL).unwrap();
    world.expect("ACK", CAROL);
    world.expect("CANCEL", BOB);
    world.expect_silence();
    world.come(&bob.answer(487, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.come(&dave.answer(486, ""), DAVE).unwrap();
    world.expect("ACK", DAVE);
    world.expect("603", ALICE);
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Refused(603));
}

#[test]
fn all_who_ask_for_credentials_are_heard() {
    let mut world = World::new();
    let [bob, carol, dave] = fork(&mut world);
    let asks = |realm: &str| format!("WWW-Authenticate: Digest realm=\"{realm}\"\r\n");
    world.come(&bob.answer(401, &asks("b")), BOB).unwrap();
    world.come(&carol.answer(401, &asks("c")), CAROL).unwrap();
    world.come(&dave.answer(486, ""), DAVE).unwrap();
    for who in [BOB, CAROL, DAVE] {
        world.expect("ACK", who);
    }
    assert_eq!(world.expect("401", ALICE).all("WWW-Authenticate").len(), 2);
}

#[test]
fn groups_are_tried_one_after_the_other() {
    let mut world = World::new();
    world.ring_timeout = 20;
    let groups = [[target("bob", BOB)], [target("carol", CAROL)], [target("dave", DAVE)]];
    let groups: Vec<&[Target]> = groups.iter().map(|group| &group[..]).collect();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &groups);
    world.expect("100", ALICE);
    let bob = world.expect("INVITE", BOB);
    world.expect_silence();
    world.come(&bob.answer(486, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    let carol = world.expect("INVITE", CAROL);
    world.come(&carol.answer(180, ""), CAROL).unwrap();
    world.expect("180", ALICE);
    let happened = world.pass(20_100);
    assert_eq!(happened.len(), 1, "{happened:?}");
    assert_eq!(happened[0].1.kind(), "CANCEL");
    world.come(&happened[0].1.answer(200, ""), CAROL).unwrap();
    world.come(&carol.answer(487, ""), CAROL).unwrap();
    world.expect("ACK", CAROL);
    let dave = world.expect("INVITE", DAVE);
    world.come(&dave.answer(200, ""), DAVE).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.events.last().unwrap().call.target, Some(DAVE.parse().unwrap()));
}

#[test]
fn nobody_else_is_tried_after_the_caller_gave_up() {
    let mut world = World::new();
    let groups = [[target("bob", BOB)], [target("carol", CAROL)]];
    let groups: Vec<&[Target]> = groups.iter().map(|group| &group[..]).collect();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &groups);
    world.expect("100", ALICE);
    let bob = world.expect("INVITE", BOB);
    world.come(&bob.answer(100, ""), BOB).unwrap();
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    world.expect("CANCEL", BOB);
    world.come(&bob.answer(486, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect("486", ALICE);
    world.expect_silence();
}

#[test]
fn a_request_may_not_be_forked_more_often_than_it_says() {
    for (breadth, kind) in [(1, "440"), (2, "INVITE")] {
        let mut world = World::new();
        let group = [target("bob", BOB), target("carol", CAROL)];
        let text = request("INVITE", 1, "1", &format!("Max-Breadth: {breadth}\r\n"));
        world.invite(&text, ALICE, &[&group]);
        world.expect("100", ALICE);
        assert_eq!(world.sent.pop_front().unwrap().kind(), kind);
    }
}

#[test]
fn a_message_is_forked_and_the_first_2xx_goes_back_alone() {
    let mut world = World::new();
    let group = [target("bob", BOB), target("carol", CAROL)];
    world.invite(&request("MESSAGE", 1, "1", ""), ALICE, &[&group]);
    let bob = world.expect("MESSAGE", BOB);
    let carol = world.expect("MESSAGE", CAROL);
    assert_eq!(bob.all("Record-Route"), [""; 0]);
    world.come(&bob.answer(404, ""), BOB).unwrap();
    world.expect_silence();
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    // The same again for who asks again.
    world.invite(&request("MESSAGE", 1, "1", ""), ALICE, &[]);
    world.expect("200", ALICE);
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_fork_can_not_answer_for_its_siblings() {
    let mut world = World::new();
    let [bob, carol, _] = fork(&mut world);
    let branch = |sent: &Sent| sent.all("Via")[0].split("branch=").nth(1).unwrap().to_owned();
    // It knows its own branch, and guesses: the next number, or the other's without its end.
    let (own, other) = (branch(&bob), branch(&carol));
    let guess = format!("{}{}", &other[..33], "0".repeat(16));
    assert_ne!((own.as_str(), guess.as_str()), (other.as_str(), other.as_str()));
    let forged = bob.answer(603, "").replace(&own, &guess);
    assert_eq!(world.come(&forged, BOB), Err(None));
    world.expect_silence();
}
