//! Answers: well-formed whatever comes in, and never much longer than what drew them.

use bindery::{
    registrar::Policy,
    sip::{Limits, Parsed, Parser, Silence},
    worker::{Arrived, Handled},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    answer::read_answer,
    arrival::{START, udp_from},
    registrar::registrar,
    spelling::{Values, choices, values},
};

/// Octets of the smallest legal REGISTER; what is shorter may draw more than three times its size.
const SMALLEST: usize = 170;

fn answer_to(datagram: &[u8], policy: Policy) -> Option<Vec<u8>> {
    let ([mut pipeline], _) = registrar(&["example.com"], &[("alice", "secret")], policy);
    let arrived = Arrived { bytes: datagram, flow: udp_from("192.0.2.1:5062"), truncated: false };
    let mut out = vec![0; 65_535];
    match pipeline.handle(START, arrived, &mut out) {
        Handled::Answer { len, .. } => Some(out[..len].to_vec()),
        Handled::Dropped(_) => None,
    }
}

fn open() -> Policy {
    Policy { auth_required: false, ..Policy::default() }
}

/// A REGISTER of ours out of any request.
fn register(mut values: Values) -> Values {
    values.method = "REGISTER".into();
    values.uri = "sip:example.com".into();
    values.to.uri = "sip:alice@example.com".into();
    values
}

fn check(datagram: &[u8], policy: Policy) -> Option<u16> {
    let answer = answer_to(datagram, policy)?;
    let (code, _) = read_answer(&answer);
    let mut parser = Parser::new(Limits::default());
    // What a broken request lacks its answer lacks too.
    let reread = parser.parse(&answer);
    assert!(matches!(reread, Parsed::Response(_) | Parsed::Silence(Silence::BadResponse)));
    Some(code)
}

proptest! {
    #[test]
    fn any_request_draws_a_well_formed_answer(values in values(), choices in choices()) {
        prop_assert!(check(&values.spell(choices), open()).is_some());
    }

    #[test]
    fn a_register_draws_a_well_formed_answer(values in values(), choices in choices()) {
        let datagram = register(values).spell(choices);
        prop_assert_eq!(check(&datagram, Policy::default()), Some(401));
        let code = check(&datagram, open());
        prop_assert!(code.is_some_and(|code| code == 200 || code == 404), "{code:?}");
    }

    #[test]
    fn no_input_ends_a_line_of_the_answer(
        values in values(),
        choices in choices(),
        changes in vec((any::<Index>(), prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()]), 1..6),
    ) {
        for values in [values.clone(), register(values)] {
            let mut datagram = values.spell(choices.clone());
            for (at, octet) in &changes {
                let at = at.index(datagram.len());
                datagram[at] = *octet;
            }
            check(&datagram, open());
            check(&datagram, Policy::default());
        }
    }

    #[test]
    fn who_shows_no_credentials_draws_at_most_three_times_his_octets(
        values in values(),
        choices in choices(),
        is_register in any::<bool>(),
    ) {
        let values = if is_register { register(values) } else { values };
        let datagram = values.spell(choices);
        prop_assume!(datagram.len() >= SMALLEST);
        let len = answer_to(&datagram, Policy::default()).map_or(0, |answer| answer.len());
        prop_assert!(len <= 3 * datagram.len(), "{len} to {}", datagram.escape_ascii());
    }
}
