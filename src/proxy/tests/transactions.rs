//! RFC 3261 §17 as it shows on the wire, between the proxy and its neighbours.

use super::*;

#[test]
fn a_repeated_invite_draws_the_last_response() {
    let mut world = World::new();
    let invite = world.call_bob();
    let again = request("INVITE", 1, "1", "");
    world.invite(&again, ALICE, &[]);
    world.expect("100", ALICE);
    world.come(&invite.answer(183, ""), BOB).unwrap();
    world.expect("183", ALICE);
    world.invite(&again, ALICE, &[]);
    world.expect("183", ALICE);
    world.come(&invite.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    // RFC 6026 §7.1: absorbed.
    world.invite(&again, ALICE, &[]);
    world.expect_silence();
    // Some phones have its ACK in the same transaction.
    let answered = within("ACK", 1, "1", &invite.answer(200, ""), true);
    world.come(&answered, ALICE).unwrap();
    world.expect("ACK", BOB);
}

#[test]
fn a_response_that_nobody_waits_for_goes_nowhere() {
    let mut world = World::new();
    let invite = world.call_bob();
    let answer = invite.answer(200, "");
    // RFC 3261 §16.7 step 1; §18.1.2.
    for forged in [
        answer.replace("z9hG4bKbd0000", "z9hG4bKbd1000"),
        answer.replace("bd00000000", "xx00000000"),
    ] {
        assert_ne!(forged, answer);
        assert_eq!(world.come(&forged, BOB), Err(None));
    }
    world.expect_silence();
    assert_eq!(world.come(&answer, BOB), Ok(()));
}

#[test]
fn a_callee_that_repeats_its_refusal_gets_its_ack_again() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(486, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect("486", ALICE);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    world.come(&invite.answer(486, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect_silence();
}

#[test]
fn a_callee_that_rings_for_ever_is_cancelled_by_timer_c() {
    let mut world = World::new();
    world.ring_timeout = 0;
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    assert_eq!(world.pass(180_000), []);
    // A provisional response begins it anew.
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    assert_eq!(world.pass(180_000), []);
    let happened = world.pass(6_000);
    assert_eq!(happened[0].1.kind(), "CANCEL");
    world.come(&happened[0].1.answer(200, ""), BOB).unwrap();
    world.come(&invite.answer(487, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect("487", ALICE);
}

#[test]
fn a_cancel_is_repeated_until_it_is_answered() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    let cancel = world.expect("CANCEL", BOB);
    let again = world.pass(1_600);
    assert_eq!(again.iter().map(|(_, sent)| sent.kind()).collect::<Vec<_>>(), ["CANCEL"; 2]);
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    assert_eq!(world.pass(10_000), []);
    // And the caller's draws the same 200 as often as it comes.
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    world.expect_silence();
}

#[test]
fn a_request_that_is_not_answered_is_repeated_and_forgotten() {
    let mut world = World::new();
    world.invite(&request("MESSAGE", 1, "1", ""), ALICE, &[&[target("bob", BOB)]]);
    world.expect("MESSAGE", BOB);
    let happened = world.let_end();
    assert!(happened.iter().all(|(_, sent)| sent.kind() == "MESSAGE"), "{happened:?}");
    assert_eq!(happened.len(), 10);
}

#[test]
fn a_re_invite_goes_through_and_begins_no_call() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    for (by_caller, from, to) in [(true, ALICE, BOB), (false, BOB, ALICE)] {
        let again = within("INVITE", 2, &format!("r{by_caller}"), &answered, by_caller);
        world.come(&again, from).unwrap();
        world.expect("100", from);
        let again = world.expect("INVITE", to);
        assert_eq!(again.all("Record-Route"), [""; 0]);
        world.come(&again.answer(488, ""), to).unwrap();
        world.expect("ACK", to);
        world.expect("488", from);
    }
    assert_eq!(world.core.calls(), 1);
    assert_eq!(world.stages(), [Stage::Calling, Stage::Answered]);
}
