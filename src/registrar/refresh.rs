//! The refresh that changes nothing but numbers: what most REGISTERs are.
//!
//! A phone that is still where it was sends the same Contact, Call-ID, Path and User-Agent from the
//! same address, with the next CSeq. Texts that are the same octets need no parsing, and the packed
//! record needs no packing anew: a few numbers are overwritten where they stand. Everything else,
//! and whatever is in doubt, is for [`register`](super::register()), which comes to the same octets.

use super::{
    binding::{Binding, MAX_AGENT},
    outcome::Changes,
    policy::Policy,
    record::AorRecord,
    register::{Register, Wanted, granted, is_kept},
};
use crate::time::{Deadline, DeltaSeconds, Moment, Now};

/// A refresh of one stored binding, found to leave all texts as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Where the bindings start in the record, and the refreshed one.
    bindings_at: usize,
    binding_at: usize,
    binding_len: usize,
    deadline: Deadline,
    updated: Moment,
    cseq: u32,
    branch: u32,
    /// The first deadline of all bindings, once this is applied.
    first: Deadline,
}

impl Refresh {
    /// What a refresh that is found counts as.
    pub const CHANGES: Changes =
        Changes { added: 0, refreshed: 1, removed: 0, expired: 0, evicted: 0 };

    /// The refresh that `request` is, if it is one that leaves the texts of `record` alone.
    ///
    /// `None` says no more than that [`register`](super::register()) has to work it out.
    pub fn find(
        policy: &Policy,
        now: Now,
        request: &Register<'_>,
        record: &AorRecord<'_>,
    ) -> Option<Self> {
        let Wanted::Contacts([contact]) = request.wanted else { return None };
        let is_path_known = request.path.is_empty() || request.supports_path;
        let granted = granted(policy, request, contact).ok().filter(|g| *g > DeltaSeconds(0))?;
        if !is_path_known || policy.max_contacts == 0 {
            return None;
        }
        let deadline = Deadline::after(now, granted);
        let agent = &request.agent[..request.agent.len().min(MAX_AGENT)];
        let is_same = |b: &Binding<'_>| {
            b.call_id == request.call_id
                && b.uri == contact.uri
                && b.flow == request.flow
                && b.agent == agent
                && b.path == request.path
                && b.q == contact.q
                && is_kept(contact, b.params)
        };
        let bindings_at = record.as_bytes().len() - record.packed_bindings().len();
        let (mut rest, mut at) = (record.packed_bindings(), bindings_at);
        let (mut found, mut first) = (None, deadline);
        while let Some((binding, tail)) = Binding::decode(rest) {
            let len = rest.len() - tail.len();
            if binding.deadline.is_past(now) {
                return None;
            }
            if found.is_some() {
                first = first.min(binding.deadline);
            } else if is_same(&binding) {
                // A CSeq that isn't higher takes the rules of step 7.
                found = (request.cseq > binding.cseq).then_some((at, len));
                found?;
            } else if binding.matches(contact.uri, contact.instance, contact.reg_id) {
                return None;
            } else {
                first = first.min(binding.deadline);
            }
            (rest, at) = (tail, at + len);
        }
        let (binding_at, binding_len) = found?;
        Some(Self {
            bindings_at,
            binding_at,
            binding_len,
            deadline,
            updated: Moment::of(now),
            cseq: request.cseq,
            branch: request.branch,
            first,
        })
    }

    /// The first deadline of the record's bindings after the refresh.
    pub fn first_deadline(&self) -> Deadline {
        self.first
    }

    /// Overwrites the numbers in the record that the refresh was found for, and puts the binding
    /// first: they stand in the order of their last refresh.
    pub fn apply(&self, record: &mut [u8]) {
        let Some(bindings) = record.get_mut(self.bindings_at..self.binding_at + self.binding_len)
        else {
            return;
        };
        if self.binding_at != self.bindings_at {
            bindings.rotate_right(self.binding_len);
        }
        Binding::set_numbers(bindings, self.deadline, self.updated, self.cseq, self.branch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{Flow, ListenerId, Transport},
        registrar::{Outcome, Workspace, register},
        sip::header::Contact,
    };
    use proptest::prelude::*;

    /// Contacts that are the same, equal, alike or another.
    const CONTACTS: [&str; 9] = [
        "<sip:a@192.0.2.1>",
        "<sip:a@192.0.2.1>;expires=300",
        "<sip:%61@192.0.2.1>;expires=300",
        "<sip:a@192.0.2.1;x=1> ;q=0.5; expires=300 ;x",
        "<sip:a@192.0.2.1;x=2>;x;q=0.5",
        "<sip:b@192.0.2.2>;+sip.instance=\"<urn:uuid:1>\";reg-id=1",
        "<sip:c@192.0.2.3>;expires=90;+sip.instance=\"<urn:uuid:1>\";reg-id=1",
        "<sip:c@192.0.2.3>;+sip.instance=\"<urn:uuid:1>\";reg-id=2",
        "<sip:d@192.0.2.4>;expires=0",
    ];

    /// One request: which contacts, and from what a few values all else is taken.
    #[derive(Clone, Debug)]
    struct Asked {
        wait: u32,
        contacts: Vec<usize>,
        cseq: u32,
        branch: u32,
        /// Header expiration, Call-ID, port, path, agent: zero is the usual.
        odd: [u8; 5],
    }

    fn asked() -> impl Strategy<Value = Asked> {
        let contacts = prop_oneof![
            8 => prop::collection::vec(0..CONTACTS.len(), 1),
            1 => prop::collection::vec(0..CONTACTS.len(), 0..3),
        ];
        let odd = || prop_oneof![8 => Just(0_u8), 1 => 1..3_u8];
        let odd = [odd(), odd(), odd(), odd(), odd()];
        (0..120_u32, contacts, 0..3_u32, 0..3_u32, odd).prop_map(
            |(wait, contacts, cseq, branch, odd)| Asked { wait, contacts, cseq, branch, odd },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Through any history, a refresh that is found does what the rules do, to the octet.
        #[test]
        fn it_is_what_the_rules_come_to(history in prop::collection::vec(asked(), 1..30)) {
            let policy = Policy::default();
            let (mut record, mut cseq) = (Vec::new(), 1);
            let mut now = Now { millis: 1000, unix: 1_800_000_000 };
            for Asked { wait, contacts, cseq: step, branch, odd } in history {
                now.millis += 1000 * u64::from(wait);
                now.unix += u64::from(wait);
                cseq += step;
                let contacts: Vec<_> = contacts
                    .iter()
                    .map(|&at| Contact::parse(CONTACTS[at].as_bytes()).unwrap())
                    .collect();
                let [expires, call_id, _, path, agent] = odd.map(usize::from);
                let port = u16::from(odd[2]);
                let request = Register {
                    expires: [None, Some(&b"1800"[..]), Some(b"30")][expires],
                    call_id: [&b"1@here"[..], b"2@here", b"3@there"][call_id],
                    branch,
                    path: [&b""[..], b"<sip:p;lr>", b"<sip:q;lr>"][path],
                    agent: [&b"Phone/1"[..], b"Phone/2", &[b'x'; 300]][agent],
                    ..request(&contacts, cseq, port)
                };
                let mut work = Workspace::default();
                let stored = AorRecord::new(&record);
                let outcome =
                    register(&policy, now, &request, b"alice", b"nonces", stored, &mut work);
                if let Some(refresh) =
                    stored.and_then(|stored| Refresh::find(&policy, now, &request, &stored))
                {
                    let mut refreshed = record.clone();
                    refresh.apply(&mut refreshed);
                    prop_assert_eq!(outcome, Ok(Outcome::Registered(Refresh::CHANGES)));
                    prop_assert_eq!(&refreshed[..], work.record_bytes());
                    let first = work.record().unwrap().stored().map(|b| b.deadline).min();
                    prop_assert_eq!(Some(refresh.first_deadline()), first);
                }
                if outcome.is_ok() {
                    record = work.record_bytes().to_vec();
                }
            }
        }
    }

    /// Each contact is refreshed the short way after it was bound, with its own time, with one by
    /// the header, and from behind another.
    #[test]
    fn the_usual_refresh_is_found() {
        let policy = Policy::default();
        let now = |second: u64| Now { millis: second * 1000, unix: 1_800_000_000 + second };
        let mut work = Workspace::default();
        let mut stored = Vec::new();
        let texts = ["<sip:a@192.0.2.1>;expires=300", "<sip:b@192.0.2.1>;q=0.1;expires=300;x"];
        for (cseq, text) in [(1, 0), (2, 1), (3, 1), (4, 0), (5, 1)] {
            let contact = [Contact::parse(texts[text].as_bytes()).unwrap()];
            let second = u64::from(cseq);
            let request = request(&contact, cseq, 0);
            let record = AorRecord::new(&stored);
            let found = record.and_then(|r| Refresh::find(&policy, now(second), &request, &r));
            assert_eq!(found.is_some(), cseq > 2);
            register(&policy, now(second), &request, b"alice", b"", record, &mut work).unwrap();
            stored = work.record_bytes().to_vec();
        }
    }

    fn request<'a>(contacts: &'a [Contact<'a>], cseq: u32, port: u16) -> Register<'a> {
        Register {
            wanted: Wanted::Contacts(contacts),
            expires: None,
            granted: None,
            call_id: b"1@here",
            cseq,
            branch: cseq,
            flow: Flow {
                listener: ListenerId(0),
                transport: Transport::Udp,
                local: None,
                remote: ([192, 0, 2, 1], 5060 + port).into(),
            },
            path: b"",
            supports_path: true,
            agent: b"Phone/2",
        }
    }
}
