//! Packed bindings and records: what was packed is what is read, whatever it holds.

use std::net::{IpAddr, SocketAddr};

use bindery::{
    flow::{Flow, ListenerId, Transport},
    registrar::{AorRecord, Binding, RecordWriter},
    sip::header::Quality,
    time::{Deadline, Moment, Now},
};
use proptest::{collection::vec, option, prelude::*};

/// The texts of a binding, which borrows them, and all else.
#[derive(Clone, Debug)]
struct Kept {
    texts: [Vec<u8>; 5],
    numbers: (u32, u32, u32, u32, Option<u16>),
    flow: Flow,
}

impl Kept {
    fn binding(&self) -> Binding<'_> {
        let [uri, params, call_id, path, agent] = &self.texts;
        let (deadline, updated, cseq, branch, q) = self.numbers;
        Binding {
            uri,
            params,
            q: q.map(Quality),
            deadline: Deadline(deadline),
            updated: Moment(updated.cast_signed()),
            call_id,
            cseq,
            branch,
            flow: self.flow,
            path,
            agent,
        }
    }
}

fn kept() -> impl Strategy<Value = Kept> {
    let long = || vec(any::<u8>(), 0..600);
    let short = || vec(any::<u8>(), 0..=255);
    let texts =
        (long(), long(), short(), long(), short()).prop_map(|(a, b, c, d, e)| [a, b, c, d, e]);
    let numbers =
        (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), option::of(0..=1000_u16));
    let flow = (any::<u8>(), 0..5_usize, option::of(any::<IpAddr>()), any::<SocketAddr>());
    let flow = flow.prop_map(|(listener, transport, local, remote)| Flow {
        listener: ListenerId(listener),
        transport: Transport::ALL[transport],
        local,
        // A flow has no scope or flow label.
        remote: SocketAddr::new(remote.ip(), remote.port()),
    });
    (texts, numbers, flow).prop_map(|(texts, numbers, flow)| Kept { texts, numbers, flow })
}

proptest! {
    #[test]
    fn a_record_round_trips(
        aor in vec(any::<u8>(), 0..300),
        nonces in vec(any::<u8>(), 0..80),
        kept in vec(kept(), 0..6),
        second in any::<u32>(),
    ) {
        let bindings: Vec<_> = kept.iter().map(Kept::binding).collect();
        let mut octets = vec![1; 9];
        let mut writer = RecordWriter::new(&mut octets, &aor, &nonces).expect("it fits");
        for binding in &bindings {
            writer.push(binding).expect("it fits");
        }
        writer.finish();
        let record = AorRecord::new(&octets).expect("a record");
        prop_assert_eq!((record.aor(), record.nonces()), (&aor[..], &nonces[..]));
        prop_assert_eq!(record.len(), bindings.len());
        prop_assert_eq!(record.stored().collect::<Vec<_>>(), &bindings[..]);

        let now = Now { millis: u64::from(second) * 1000, unix: 0 };
        let live: Vec<_> = bindings.into_iter().filter(|b| b.deadline.0 > second).collect();
        prop_assert_eq!(record.bindings(now).collect::<Vec<_>>(), live);
    }

    #[test]
    fn a_text_too_long_is_refused_and_leaves_no_trace(
        kept in kept(),
        which in 0..5_usize,
        before in vec(any::<u8>(), 0..20),
    ) {
        let mut kept = kept;
        let longest = if which == 2 || which == 4 { 255 } else { 65_535 };
        kept.texts[which] = vec![b'a'; longest + 1];
        let mut octets = before.clone();
        prop_assert_eq!(kept.binding().encode_into(&mut octets), None);
        prop_assert_eq!(&octets, &before);
        kept.texts[which].pop();
        prop_assert_eq!(kept.binding().encode_into(&mut octets), Some(()));
        let (read, rest) = Binding::decode(&octets[before.len()..]).expect("a binding");
        prop_assert_eq!((read, rest), (kept.binding(), &[][..]));
    }

    #[test]
    fn any_octets_are_decoded_without_harm(octets in vec(any::<u8>(), 0..120)) {
        if let Some(record) = AorRecord::new(&octets) {
            let _ = (record.aor(), record.nonces(), record.sequence(), record.scheduled());
            prop_assert!(record.stored().count() <= octets.len());
        }
        let _ = Binding::decode(&octets);
    }
}
