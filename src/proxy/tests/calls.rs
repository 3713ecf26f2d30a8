//! Whole calls, as their parties and the books see them.

use super::*;
use crate::proxy::End;

#[test]
fn a_call_is_set_up_and_taken_down() {
    let mut world = World::new();
    let invite = world.call_bob();
    assert_eq!(invite.start(), "INVITE sip:bob@192.0.2.20:5060");
    assert_eq!(invite.all("Via").len(), 2);
    assert_eq!(invite.one("Max-Forwards"), "69");
    assert!(invite.one("Record-Route").starts_with("<sip:192.0.2.1:5060;lr;bt="));
    assert!(world.come(&invite.answer(180, ""), BOB).is_ok());
    assert_eq!(world.expect("180", ALICE).all("Via").len(), 1);
    let answer = invite.answer(200, "Contact: <sip:bob@10.0.0.1>\r\n");
    assert!(world.come(&answer, BOB).is_ok());
    let answered = world.expect("200", ALICE).text;
    assert!(world.come(&within("ACK", 1, "2", &answered, true), ALICE).is_ok());
    let ack = world.expect("ACK", BOB);
    assert_eq!(ack.all("Route"), [""; 0]);
    for (by_caller, from, to) in [(false, BOB, ALICE), (true, ALICE, BOB)] {
        let info = within("INFO", 2, &format!("i{by_caller}"), &answered, by_caller);
        assert!(world.come(&info, from).is_ok());
        let info = world.expect("INFO", to);
        assert!(world.come(&info.answer(200, ""), to).is_ok());
        world.expect("200", from);
    }
    assert_eq!(world.core.calls(), 1);
    assert!(world.come(&within("BYE", 3, "4", &answered, false), BOB).is_ok());
    let bye = world.expect("BYE", ALICE);
    assert!(world.come(&bye.answer(200, ""), ALICE).is_ok());
    world.expect("200", BOB);
    world.expect_silence();
    assert_eq!(world.stages(), [Stage::Calling, Stage::Ringing, Stage::Answered, Stage::Ended]);
    assert_eq!(world.events[3].call.ended.unwrap().1, End::Bye);
    assert_eq!(world.let_end(), []);
}

#[test]
fn who_gives_up_is_told_so_and_so_is_the_callee() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    let cancel = request("CANCEL", 1, "1", "");
    world.come(&cancel, ALICE).unwrap();
    world.expect("200", ALICE);
    let cancel = world.expect("CANCEL", BOB);
    assert_eq!(cancel.one("Via"), invite.all("Via")[0]);
    assert_eq!(cancel.one("CSeq"), "1 CANCEL");
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    world.come(&invite.answer(487, ""), BOB).unwrap();
    let ack = world.expect("ACK", BOB);
    assert_eq!(ack.one("Via"), invite.all("Via")[0]);
    assert!(ack.one("To").contains(";tag="));
    world.expect("487", ALICE);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    world.expect_silence();
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Cancelled);
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_cancel_waits_until_the_callee_has_said_something() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    world.expect_silence();
    world.come(&invite.answer(100, ""), BOB).unwrap();
    let cancel = world.expect("CANCEL", BOB);
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    // It does not react: the branch is given up after a while (RFC 3261 §9.1).
    let happened = world.pass(40_000);
    assert_eq!(happened[0].1.kind(), "487");
    assert!((32_000..32_100).contains(&happened[0].0), "{}", happened[0].0);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_callee_that_answers_a_cancelled_call_is_connected_all_the_same() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    world.expect("CANCEL", BOB);
    world.come(&invite.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    assert_eq!(*world.stages().last().unwrap(), Stage::Answered);
}

#[test]
fn a_call_that_nobody_picks_up_ends_with_480() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    let happened = world.pass(60_100);
    assert_eq!(happened[0].1.kind(), "CANCEL");
    world.come(&happened[0].1.answer(200, ""), BOB).unwrap();
    world.come(&invite.answer(487, ""), BOB).unwrap();
    world.expect("ACK", BOB);
    world.expect("480", ALICE);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Refused(480));
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_callee_that_is_not_there_is_called_for_32_seconds() {
    let mut world = World::new();
    world.call_bob();
    let happened = world.pass(32_400);
    let kinds: Vec<_> = happened.iter().map(|(_, sent)| sent.kind()).collect();
    assert_eq!(kinds, ["INVITE", "INVITE", "INVITE", "INVITE", "INVITE", "INVITE", "408"]);
    world.come(&request("ACK", 1, "1", ""), ALICE).unwrap();
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_call_whose_bye_never_comes_ends_by_itself() {
    let mut world = World::new();
    world.policy.dead_call = DeltaSeconds(600);
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    assert_eq!(world.pass(500_000), []);
    // Whatever is heard of it keeps it alive.
    world.come(&within("INFO", 2, "i", &answered, true), ALICE).unwrap();
    let info = world.expect("INFO", BOB);
    world.come(&info.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.pass(599_000), []);
    assert_eq!(world.core.calls(), 1);
    world.pass(2_000);
    assert_eq!(world.core.calls(), 0);
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Dead);
}

#[test]
fn a_session_timer_ends_a_call_that_is_not_renewed() {
    let mut world = World::new();
    let invite = world.call_bob();
    let expires = "Session-Expires: 90;refresher=uac\r\n";
    world.come(&invite.answer(200, expires), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    assert_eq!(world.pass(60_000), []);
    world.come(&within("UPDATE", 2, "u", &answered, true), ALICE).unwrap();
    let update = world.expect("UPDATE", BOB);
    world.come(&update.answer(200, expires), BOB).unwrap();
    world.expect("200", ALICE);
    world.pass(121_000);
    assert_eq!(world.core.calls(), 1);
    world.pass(2_000);
    assert_eq!(world.core.calls(), 0);
}

#[test]
fn a_lost_bye_ends_the_call_and_nobody_is_told_408() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    world.come(&within("BYE", 2, "b", &answered, true), ALICE).unwrap();
    world.expect("BYE", BOB);
    let happened = world.let_end();
    // RFC 4320 §4.2.
    assert!(happened.iter().all(|(_, sent)| sent.kind() == "BYE"), "{happened:?}");
    assert_eq!(happened.len(), 10);
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Bye);
}

#[test]
fn a_bye_that_is_refused_does_not_end_the_call() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    for (code, calls) in [(401, 1), (420, 1), (500, 1), (481, 0)] {
        let bye = within("BYE", u32::from(code), &format!("b{code}"), &answered, true);
        world.come(&bye, ALICE).unwrap();
        let bye = world.expect("BYE", BOB);
        world.come(&bye.answer(code, ""), BOB).unwrap();
        world.expect(&code.to_string(), ALICE);
        assert_eq!(world.core.calls(), calls);
    }
}

#[test]
fn a_dialog_goes_on_after_a_restart() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let mut world = World::new();
    world.come(&within("BYE", 2, "b", &answered, true), ALICE).unwrap();
    let bye = world.expect("BYE", BOB);
    world.come(&bye.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.let_end(), []);
}

#[test]
fn nobody_relays_by_a_route_or_a_tag_of_its_own() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let bye = within("BYE", 2, "b", &answered, true);
    let refused = Err(Some(Status::CALL_DOES_NOT_EXIST));
    for forged in [
        bye.replace("call@alice", "other@alice"),
        bye.replace("tag=a", "tag=x"),
        bye.replace(";lr;bt=", ";lr;bt=0"),
        bye.replace("c0000214", "c0000215"),
        bye.lines().filter(|l| !l.starts_with("Route")).map(|l| format!("{l}\r\n")).collect(),
    ] {
        assert_ne!(forged, bye);
        assert_eq!(world.come(&forged, ALICE), refused, "{forged}");
        world.expect_silence();
    }
    let ack = within("ACK", 1, "k", &answered, true).replace("tag=a", "tag=x");
    assert_eq!(world.come(&ack, ALICE), Err(None));
    world.expect_silence();
}

#[test]
fn only_a_bye_to_who_answered_ends_the_call() {
    let mut world = World::new();
    let group = [target("bob", BOB), target("carol", CAROL)];
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&group]);
    world.expect("100", ALICE);
    let (bob, carol) = (world.expect("INVITE", BOB), world.expect("INVITE", CAROL));
    world.come(&bob.answer(200, ""), BOB).unwrap();
    let first = world.expect("200", ALICE).text;
    world.come(&carol.answer(200, ""), CAROL).unwrap();
    let second = world.expect("200", ALICE).text.replace(BOB, CAROL);
    // RFC 3261 §13.2.2.4: the caller hangs up on all but one.
    world.come(&within("BYE", 2, "b", &second, true), ALICE).unwrap();
    let bye = world.expect("BYE", CAROL);
    world.come(&bye.answer(200, ""), CAROL).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.core.calls(), 1);
    let forged = within("BYE", 3, "c", &first, true).replace(";tag=of-192.0.2.20", ";tag=nobody");
    world.come(&forged, ALICE).unwrap();
    let bye = world.expect("BYE", BOB);
    world.come(&bye.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    assert_eq!(world.core.calls(), 1);
    world.come(&within("BYE", 4, "d", &first, true), ALICE).unwrap();
    let bye = world.expect("BYE", BOB);
    world.come(&bye.answer(481, ""), BOB).unwrap();
    world.expect("481", ALICE);
    assert_eq!(world.core.calls(), 0);
}

#[test]
fn nobody_but_the_caller_cancels() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    assert!(world.come(&request("CANCEL", 1, "1", ""), DAVE).is_err());
    world.expect_silence();
}

#[test]
fn a_phone_that_rings_on_after_a_cancel_does_not_keep_the_call() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.come(&request("CANCEL", 1, "1", ""), ALICE).unwrap();
    world.expect("200", ALICE);
    let cancel = world.expect("CANCEL", BOB);
    world.come(&cancel.answer(200, ""), BOB).unwrap();
    assert_eq!(world.pass(20_000), []);
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    let happened = world.pass(13_000);
    assert_eq!(happened.first().map(|(_, sent)| sent.kind()), Some("487"), "{happened:?}");
}

#[test]
fn a_session_timer_that_is_agreed_later_counts() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    world.come(&within("UPDATE", 2, "u", &answered, true), ALICE).unwrap();
    let update = world.expect("UPDATE", BOB);
    world.come(&update.answer(200, "Session-Expires: 90\r\n"), BOB).unwrap();
    world.expect("200", ALICE);
    world.pass(100_000);
    // What is no refresh does not prolong it.
    world.come(&within("INFO", 3, "i", &answered, true), ALICE).unwrap();
    let info = world.expect("INFO", BOB);
    world.come(&info.answer(200, ""), BOB).unwrap();
    world.expect("200", ALICE);
    world.pass(23_000);
    assert_eq!(world.core.calls(), 0);
}

#[test]
fn two_calls_of_one_call_id_end_one_by_one() {
    let mut world = World::new();
    // Somebody before us has forked Alice's call, and both branches come here (RFC 3261 §8.2.2.2).
    let mut answered = Vec::new();
    for (branch, who) in [("1", BOB), ("2", CAROL)] {
        let invite = request("INVITE", 1, branch, "");
        world.invite(&invite, ALICE, &[&[target("bob", who)]]);
        world.expect("100", ALICE);
        let invite = world.expect("INVITE", who);
        let answer = invite.answer(200, &format!("Contact: <sip:bob@{who}>\r\n"));
        world.come(&answer, who).unwrap();
        answered.push(world.expect("200", ALICE).text);
    }
    assert_eq!(world.core.calls(), 2);
    for (left, (answer, who)) in answered.iter().zip([BOB, CAROL]).enumerate() {
        world.come(&within("BYE", 2, &format!("b{left}"), answer, true), ALICE).unwrap();
        let bye = world.expect("BYE", who);
        world.come(&bye.answer(200, ""), who).unwrap();
        world.expect("200", ALICE);
        assert_eq!(world.core.calls(), 1 - left);
    }
    let targets: Vec<_> = world.events.iter().filter(|e| e.call.stage == Stage::Ended).collect();
    let targets: Vec<_> = targets.iter().map(|e| e.call.target.unwrap().to_string()).collect();
    assert_eq!(targets, [BOB, CAROL]);
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_phone_that_has_moved_hangs_up_from_where_it_is_now() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, "Contact: <sip:bob@192.0.2.20>\r\n"), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let bye = within("BYE", 3, "m", &answered, false);
    let refused = world.come(&bye, DAVE).unwrap_err();
    assert_eq!(refused.map(|status| status.code), Some(403));
    assert_eq!(world.core.calls(), 1);
    world.has_moved = true;
    world.come(&bye, DAVE).unwrap();
    let bye = world.expect("BYE", ALICE);
    world.come(&bye.answer(200, ""), ALICE).unwrap();
    // Where the request came from, whatever its Via says of the port.
    assert_eq!(world.sent.pop_front().unwrap().kind(), "200");
    assert_eq!(world.let_end(), []);
}

#[test]
fn a_stop_leaves_nobody_ringing_and_nobody_waiting() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(180, ""), BOB).unwrap();
    world.expect("180", ALICE);
    world.stop();
    world.expect("CANCEL", BOB);
    let answer = world.expect("503", ALICE);
    assert_eq!(answer.one("Retry-After"), "5");
    world.expect_silence();
    assert_eq!(world.events.last().unwrap().call.ended.unwrap().1, End::Refused(503));
}

#[test]
fn our_word_for_who_calls_goes_to_our_users_and_to_who_is_trusted() {
    let (trusted, private) = ("192.0.2.0/24", "Privacy: id\r\n");
    for (aor, trusts, extra, named) in [
        (Some("bob"), "", "", 1),
        (Some("bob"), "", private, 0),
        (None, "", "", 0),
        (None, trusted, "", 1),
        (None, trusted, private, 1),
    ] {
        let mut world = World::new();
        world.policy.trusted = trusts.split_terminator(',').map(|n| n.parse().unwrap()).collect();
        world.identity = b"P-Asserted-Identity: <sip:alice@example.com>\r\n";
        let to = Target { aor: aor.map(|aor| aor.as_bytes().into()), ..target("bob", BOB) };
        world.invite(&request("INVITE", 1, "1", extra), ALICE, &[&[to]]);
        world.expect("100", ALICE);
        let invite = world.expect("INVITE", BOB);
        assert_eq!(invite.all("P-Asserted-Identity").len(), named, "{aor:?} {trusts} {extra}");
    }
}
