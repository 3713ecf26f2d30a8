//! RFC 3261 §16.3 to §16.6: what is passed on, and how it is changed.

use super::*;
use crate::sip::Status;

#[test]
fn what_only_we_may_say_is_taken_out() {
    let mut world = World::new();
    let extra = "P-Asserted-Identity: <sip:boss@example.com>\r\n\
                 Proxy-Authorization: Digest username=\"alice\"\r\n\
                 Route: <sip:192.0.2.1;lr>\r\nX-Other: kept\r\n";
    world.invite(&request("INVITE", 1, "1", extra), ALICE, &[&[target("bob", BOB)]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    for gone in ["P-Asserted-Identity", "Proxy-Authorization", "Route"] {
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
fn a_server_is_reached_where_its_contact_says() {
    let mut world = World::new();
    let trunk = Target { side: Side::Uri, ..target("bob", BOB) };
    world.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[trunk]]);
    world.expect("100", ALICE);
    let invite = world.expect("INVITE", BOB);
    world.come(&invite.answer(200, ""), BOB).unwrap();
    let answered = world.expect("200", ALICE).text;
    let bye = within("BYE", 2, "b", &answered, true);
    let elsewhere = bye.replace("BYE sip:x@192.0.2.20:5060", "BYE sip:x@192.0.2.99:5099");
    world.come(&elsewhere, ALICE).unwrap();
    world.expect("BYE", "192.0.2.99:5099");
    // Where more proxies are on the way, the next of them.
    let further = within("INFO", 3, "i", &answered, true)
        .replace("Max-Forwards", "Max-Forwards: 70\r\nX")
        .replace("\r\nFrom", "\r\nRoute: <sip:192.0.2.77;lr>\r\nFrom");
    world.come(&further, ALICE).unwrap();
    let info = world.expect("INFO", "192.0.2.77:5060");
    assert_eq!(info.one("Route"), "<sip:192.0.2.77;lr>");
}
