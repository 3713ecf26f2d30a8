//! Requests: what was written is what is read, whichever way it was spelled.

use bindery::sip::{
    Limits, Method, Parsed, Parser,
    header::{
        BadValue, Contact, Contacts, Elements, HeaderName, NameAddr, Params, Via, option_tags,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::spelling::{Address, Choices, Parameter, Values, ViaValues, choices, values};

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("what was generated is UTF-8")
}

fn params(params: Params<'_>) -> Vec<Parameter> {
    let params = params.map(|param| param.expect("a well-formed parameter"));
    params.map(|param| (text(param.name), param.value.map(text))).collect()
}

fn address(read: NameAddr<'_>) -> Address {
    // A display name of several words keeps the blanks it came with.
    let words: Vec<_> = text(read.display).split_whitespace().map(str::to_owned).collect();
    let display =
        if read.display.starts_with(b"\"") { text(read.display) } else { words.join(" ") };
    Address { display, uri: text(read.uri), params: params(read.params) }
}

fn via(read: Via<'_>) -> ViaValues {
    ViaValues {
        transport: text(read.transport),
        host: text(read.sent_by.host),
        port: read.sent_by.port,
        params: params(read.params),
    }
}

/// What the parser makes of a datagram, as the values that it may have been written from.
fn read(datagram: &[u8]) -> Values {
    let limits = Limits { max_uri: 4096, max_call_id: 4096, ..Limits::default() };
    let mut parser = Parser::new(limits);
    let parsed = parser.parse(datagram);
    let Parsed::Request(request) = parsed else {
        panic!("{parsed:?}: {}", datagram.escape_ascii())
    };
    let message = request.envelope.message;
    let vias: Vec<_> = message
        .all(HeaderName::Via)
        .flat_map(Elements::new)
        .map(|element| via(Via::parse(element.expect("an element")).expect("a Via")))
        .collect();
    assert_eq!(format!("{:?}", vias[0]), format!("{:?}", via(request.envelope.via)));
    let contacts = Contacts::survey(message.all(HeaderName::Contact), |_| Ok::<_, BadValue>(()));
    let contacts: Vec<_> = match contacts {
        Ok(Contacts::None) => Vec::new(),
        Ok(Contacts::List { .. }) => Contact::all(message.all(HeaderName::Contact))
            .map(|c| NameAddr { display: b"", uri: c.uri, params: c.params })
            .map(address)
            .collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(request.cseq.method, request.envelope.method);
    Values {
        method: text(request.envelope.method.as_bytes()),
        uri: text(request.uri),
        vias,
        from: address(request.from),
        to: address(request.to),
        call_id: text(request.call_id),
        cseq: request.cseq.number,
        contacts,
        tags: message.all(HeaderName::Supported).flat_map(option_tags).map(text).collect(),
        body: request.body.to_vec(),
    }
}

proptest! {
    #[test]
    fn every_spelling_means_the_same(values in values(), choices in choices()) {
        let mut expected = values.clone();
        // A contact's display name is of no use to a registrar, and is not read.
        for contact in &mut expected.contacts {
            contact.display.clear();
        }
        let expected = format!("{expected:?}");
        prop_assert_eq!(format!("{:?}", read(&values.spell(Choices::none()))), &expected[..]);
        let spelled = values.spell(choices);
        prop_assert_eq!(format!("{:?}", read(&spelled)), expected, "{}", spelled.escape_ascii());
    }

    #[test]
    fn any_octets_are_parsed_without_harm(octets in vec(any::<u8>(), 0..300)) {
        let _ = Parser::new(Limits::default()).parse(&octets);
        let start = b"REGISTER sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\n";
        let _ = Parser::new(Limits::default()).parse(&[&start[..], &octets].concat());
    }

    #[test]
    fn what_is_cut_or_changed_is_parsed_without_harm(
        values in values(),
        choices in choices(),
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut spelled = values.spell(choices);
        for (at, octet) in changes {
            let at = at.index(spelled.len());
            spelled[at] = octet;
        }
        spelled.truncate(cut.index(spelled.len() + 1));
        let mut parser = Parser::new(Limits::default());
        if let Parsed::Request(request) = parser.parse(&spelled) {
            prop_assert_ne!(request.envelope.method, Method::Ack);
        }
    }
}
