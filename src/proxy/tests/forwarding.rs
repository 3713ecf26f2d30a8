//! RFC 3261 §16.3 to §16.6: what is passed on, and how it is changed.

use super::*;
use crate::sip::Status;

#[test]
fn what_only_we_may_say_is_taken_out() {
    let mut world = World::new();
    let extra = "P-Asserted-Identity: <sip:boss@example.com>\r\n\
                 P-Preferred-Identity: <sip:boss@example.com>\r\n\
                 Remote-Party-ID: <sip:boss@example.com>\r\n\
                 Proxy-Authorization: Digest username=\"alice\", realm=\"example.com\"\r\n\
                 Route: <sip:192.0.2.1;lr>\r\nX-Other: kept\r\n";
    world.invite(&request("INVITE", 1, "1", extra), ALICE, &[&[target("bob", BOB)]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    for gone in [
        "P-Asserted-Identity",
        "P-Preferred-Identity",
        "Remote-Party-ID",
        "Proxy-Authorization",
        "Route",
    ] {
        assert_eq!(invite.all(gone), [""; 0]);
    }
    assert_eq!(invite.one("X-Other"), "kept");
    assert_eq!(
        invite.all("Via")[1],
        format!("SIP/2.0/UDP {ALICE};branch=z9hG4bK1;rport=5070;received=192.0.2.10")
    );
}

#[test]
fn a_body_goes_through_untouched() {
    let mut world = World::new();
    let body = "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\n";
    let text = request("INVITE", 1, "1", "Content-Type: application/sdp\r\n").replace(
        "Content-Length: 0\r\n\r\n",
        &format!("Content-Length: {}\r\n\r\n{body}", body.len()),
    );
    world.invite(&text, ALICE, &[&[target("bob", BOB)]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    assert!(
        invite.text.ends_with(&format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        "{}",
        invite.text
    );
}

#[test]
fn a_path_becomes_the_route() {
    let mut world = World::new();
    let via_edge = Target {
        path: (*b"<sip:edge.example.com;lr>,<sip:inner.example.com;lr>").into(),
        ..target("bob", CAROL)
    };
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[via_edge]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", CAROL);
    assert_eq!(invite.one("Route"), "<sip:edge.example.com;lr>,<sip:inner.example.com;lr>");
}

#[test]
fn what_comes_back_unchanged_is_a_loop_and_anything_else_is_not() {
    let mut world = World::new();
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[target("bob", PROXY)]]);
    world.expect("100", ALICE);
    let back = world.expect("INVITE", PROXY);
    let looped = |text: &str| {
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        world.core.has_looped(&request)
    };
    let same = back.text.replace("sip:bob@192.0.2.1:5060 ", "sip:bob@example.com ");
    assert!(looped(&same));
    // A spiral: another Request-URI.
    assert!(!looped(&back.text));
    assert!(!looped(&request("INVITE", 1, "1", "")));
    // Somebody else's branches are none of ours.
    assert!(!looped(&same.replace("z9hG4bKbd", "z9hG4bKxx")));
}

#[test]
fn a_request_of_a_dialog_that_has_no_hops_left_ends_here() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let info =
        within("INFO", 2, "i", &answered, true).replace("Max-Forwards: 70", "Max-Forwards: 0");
    assert_eq!(world.come(&info, ALICE), Err(Some(Status::TOO_MANY_HOPS)));
}

#[test]
fn a_server_is_reached_where_its_contact_says_if_that_is_its_own() {
    let mut world = World::new();
    let trusted = ["192.0.2.20/32", "198.51.100.0/24", "2001:db8::/32"];
    world.policy.trusted = trusted.map(|n| n.parse().unwrap()).into();
    let trunk = Target { side: Side::Server(flow(BOB)), ..target("bob", BOB) };
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[trunk]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    for (cseq, uri, reached) in [
        (2, "sip:x@192.0.2.20:5099", "192.0.2.20:5099"),
        (3, "sip:x@198.51.100.7:5080", "198.51.100.7:5080"),
        // Nobody is sent elsewhere, nor looked up.
        (4, "sip:x@192.0.2.99:5099", BOB),
        (5, "sip:x@gw.example.net", BOB),
        // Nor by UDP where TCP is spoken, nor to a family that its flow is not of.
        (7, "sip:x@192.0.2.20:5099;transport=tcp", BOB),
        (8, "sip:x@[2001:db8::7]:5080", BOB),
    ] {
        let info = within("INFO", cseq, &format!("i{cseq}"), &answered, true);
        let info = info.replace("sip:x@192.0.2.20:5060", uri);
        world.come(&info, ALICE).unwrap();
        assert_eq!(world.expect("INFO", reached).start(), format!("INFO {uri}"));
    }
    // Where more proxies are on the way, the next of them.
    let further = within("INFO", 6, "i6", &answered, true)
        .replace("\r\nFrom", "\r\nRoute: <sip:198.51.100.77;lr>\r\nFrom");
    world.come(&further, ALICE).unwrap();
    let info = world.expect("INFO", "198.51.100.77:5060");
    assert_eq!(info.one("Route"), "<sip:198.51.100.77;lr>");
}

#[test]
fn a_phone_gets_what_is_for_it_whatever_route_is_given() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let routed = within("INVITE", 2, "i", &answered, true)
        .replace("\r\nFrom", "\r\nRoute: <sip:203.0.113.5;lr>\r\nFrom");
    world.come(&routed, ALICE).unwrap();
    world.expect("100", ALICE);
    world.expect("INVITE", BOB);
    world.expect_silence();
}

#[test]
fn only_a_party_of_the_dialog_may_send_in_it() {
    let mut world = World::new();
    let invite = world.call_bob();
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let bye = within("BYE", 2, "b", &answered, true);
    let refused = world.come(&bye, DAVE).unwrap_err().unwrap();
    assert_eq!(refused.code, 403);
    world.expect_silence();
    let tagless = bye.replace(";tag=of-", ";tag;x=");
    assert_eq!(world.come(&tagless, ALICE), Err(Some(Status::CALL_DOES_NOT_EXIST)));
    world.policy.trusted = ["192.0.2.40".parse().unwrap()].into();
    world.come(&bye, DAVE).unwrap();
    world.expect("BYE", BOB);
}

#[test]
fn who_wants_privacy_is_not_named_to_phones_but_to_servers() {
    for (side, named) in [(Side::Flow(flow(BOB)), 0), (Side::Server(flow(BOB)), 1)] {
        let mut world = World::new();
        world.strips = false;
        let extra = "P-Asserted-Identity: <tel:+15550100>\r\nPrivacy: id\r\n";
        let to = Target { side, ..target("bob", BOB) };
        world.invite(&request("INVITE", 1, "1", extra), ALICE, &[&[to]]);
        world.expect("100", ALICE);
        assert_eq!(world.expect("INVITE", BOB).all("P-Asserted-Identity").len(), named);
    }
}

#[test]
fn credentials_for_others_go_on_and_ours_do_not() {
    let mut world = World::new();
    let extra = "Proxy-Authorization: Digest username=\"a\", realm=\"example.com\"\r\n\
                 Proxy-Authorization: Digest username=\"a\", realm=\"example.net\"\r\n";
    world.invite(&request("INVITE", 1, "1", extra), ALICE, &[&[target("bob", BOB)]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    assert!(invite.one("Proxy-Authorization").contains("example.net"));
}
