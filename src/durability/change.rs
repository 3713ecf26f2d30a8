//! Changes as records of the journal, and back.
//!
//! What a record of the process's memory has that means nothing to another process is said so that
//! it does: deadlines in Unix seconds, listeners and user agents by name. `persist/FORMAT.md` has
//! the octets.

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{Mutex, PoisonError},
};

use crate::{
    flow::{Flow, ListenerId, Transport},
    location::Recorded,
    packed::{put_ip, put_text, take, take_ip, take_text},
    registrar::{Binding, RecordWriter},
    sip::{
        header::{Params, Quality},
        uri::is_well_formed,
    },
    time::{Deadline, DeltaSeconds, Moment, Now},
};

/// The first octet: what the record is.
const STATE: u8 = 1;
const REFRESH: u8 = 2;
const EARLY: u8 = 3;
const REFRESH_OF: u8 = 4;

/// Bits of a binding's flags, above the three of the transport.
const TRANSPORT: u8 = 7;
const REMOTE_V6: u8 = 1 << 3;
const LOCAL_V4: u8 = 1 << 4;
const LOCAL_V6: u8 = 1 << 5;

/// A change that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<'a> {
    /// The AoR.
    pub(super) aor: &'a [u8],
    /// Its sequence.
    pub(super) sequence: u64,
    /// Its nonce counts after the change.
    pub(super) nonces: &'a [u8],
    /// What else.
    pub(super) what: What<'a>,
}

/// The kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    /// These are all its bindings, packed for the disk.
    State(&'a [u8]),
    /// These are the bindings that it was given before what was saved had been read.
    Early(&'a [u8]),
    /// One of its bindings has new numbers; the sequence before was `before`.
    Refresh {
        /// The sequence before.
        before: u64,
        /// [`Binding::id`] of that binding; `None` if there is only one.
        which: Option<u64>,
        /// The numbers.
        numbers: Numbers,
    },
}

/// What a refresh changes of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// When it ends, in Unix seconds.
    pub(super) expires: u32,
    /// When it was refreshed, in Unix seconds.
    pub(super) updated: u32,
    /// CSeq.
    pub(super) cseq: u32,
    /// A hash of the topmost Via's branch.
    pub(super) branch: u32,
}

impl Numbers {
    /// Octets of the packed form.
    const LEN: usize = 16;

    fn of(binding: &Binding<'_>, now: Now) -> Self {
        let Binding { deadline, cseq, branch, .. } = *binding;
        // Both by the clock as it is set now: the time between them is what was granted.
        let updated = binding.updated.to_unix(now);
        let expires = u32::try_from(deadline.to_unix(now)).unwrap_or(u32::MAX);
        Self { expires, updated, cseq, branch }
    }

    fn encode_into(self, out: &mut Vec<u8>) {
        let Self { expires, updated, cseq, branch } = self;
        let mut octets = [0; Self::LEN];
        for (octets, word) in
            octets.as_chunks_mut().0.iter_mut().zip([expires, updated, cseq, branch])
        {
            *octets = u32::to_le_bytes(word);
        }
        out.extend_from_slice(&octets);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut word = || take(bytes).map(u32::from_le_bytes);
        Some(Self { expires: word()?, updated: word()?, cseq: word()?, branch: word()? })
    }

    /// When the binding ends by this process's clock; the start of the process, which is past, if
    /// it has ended.
    ///
    /// It never lasts longer than was granted, whatever the wall clock says: one that has stepped
    /// back must not keep a binding for ever.
    pub(super) fn deadline(self, now: Now) -> Deadline {
        ends_at(now, u64::from(self.expires), Some(self.updated))
    }
}

/// When something ends by this process's clock that ends at Unix second `expires`; see
/// [`Numbers::deadline`]. Without `granted_at` it lasts for as long as anything is granted.
pub(super) fn ends_at(now: Now, expires: u64, granted_at: Option<u32>) -> Deadline {
    let longest = u64::from(DeltaSeconds::LONGEST.0);
    // A refresh that seems to come after its end was dated by a clock that was set back since.
    let granted = granted_at.and_then(|at| expires.checked_sub(u64::from(at))).unwrap_or(longest);
    let latest = now.unix + granted.min(longest);
    Deadline::from_unix(now, expires.min(latest)).unwrap_or(Deadline(0))
}

/// Numbers of listeners whose names are on disk.
pub trait Listeners: Sync {
    /// The number of the listener with this name.
    fn id_of(&self, name: &[u8]) -> ListenerId;
}

/// Those of a process, in order: one that is there no more was the first.
impl<L: Deref<Target = [Box<str>]> + Sync> Listeners for L {
    fn id_of(&self, name: &[u8]) -> ListenerId {
        let at = self.iter().position(|known| known.as_bytes() == name);
        ListenerId(at.and_then(|at| u8::try_from(at).ok()).unwrap_or(0))
    }
}

/// Those that are found.
#[derive(Debug, Default)]
pub(super) struct Found(Mutex<Vec<Box<str>>>);

impl Found {
    pub(super) fn names(&self) -> Vec<Box<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Listeners for Found {
    fn id_of(&self, name: &[u8]) -> ListenerId {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = names.iter().position(|known| known.as_bytes() == name).unwrap_or_else(|| {
            names.push(String::from_utf8_lossy(name).into());
            names.len() - 1
        });
        ListenerId(u8::try_from(at).unwrap_or(u8::MAX))
    }
}

/// Appends a change to `out`.
pub(super) fn encode(what: Recorded<'_>, now: Now, listeners: &[Box<str>], out: &mut Vec<u8>) {
    let (kind, record) = match what {
        Recorded::State(record) => (STATE, record),
        Recorded::Early(record) => (EARLY, record),
        Recorded::Refresh { record, .. } => (REFRESH_OF, record),
    };
    out.push(kind);
    out.extend_from_slice(&record.sequence().to_le_bytes());
    put_text(record.aor(), out);
    put_text(record.nonces(), out);
    if let Recorded::Refresh { before, .. } = what {
        out.extend_from_slice(&before.to_le_bytes());
        // The latest refreshed is the first.
        if let Some(binding) = record.stored().next() {
            out.extend_from_slice(&binding.id().to_le_bytes());
            Numbers::of(&binding, now).encode_into(out);
        }
        return;
    }
    for binding in record.stored() {
        encode_binding(&binding, now, listeners, out);
    }
}

fn encode_binding(binding: &Binding<'_>, now: Now, listeners: &[Box<str>], out: &mut Vec<u8>) {
    let Flow { listener, transport, local, remote } = binding.flow;
    Numbers::of(binding, now).encode_into(out);
    let mut flags = transport.code() & TRANSPORT;
    let mut flag = |bit, is_set| flags |= if is_set { bit } else { 0 };
    flag(REMOTE_V6, remote.is_ipv6());
    flag(LOCAL_V4, local.is_some_and(|ip| ip.is_ipv4()));
    flag(LOCAL_V6, local.is_some_and(|ip| ip.is_ipv6()));
    out.push(flags);
    out.extend_from_slice(&remote.port().to_le_bytes());
    put_ip(remote.ip(), out);
    if let Some(local) = local {
        put_ip(local, out);
    }
    let listener = listeners.get(usize::from(listener.0)).map_or("", |name| name);
    let Binding { uri, params, path, call_id, agent, .. } = *binding;
    for text in [uri, params, path, call_id, agent, listener.as_bytes()] {
        put_text(text, out);
    }
}

impl<'a> Change<'a> {
    /// Reads a change. `None` if it is none: a later version of this program has written it, or
    /// something else has.
    pub(super) fn decode(octets: &'a [u8]) -> Option<Self> {
        let rest = &mut { octets };
        let [kind] = take(rest)?;
        let sequence = u64::from_le_bytes(take(rest)?);
        let (aor, nonces) = (take_text(rest)?, take_text(rest)?);
        let what = match kind {
            STATE => What::State(rest),
            EARLY => What::Early(rest),
            REFRESH | REFRESH_OF => {
                let before = u64::from_le_bytes(take(rest)?);
                let which = match kind {
                    REFRESH_OF => Some(u64::from_le_bytes(take(rest)?)),
                    _ => None,
                };
                let numbers = Numbers::decode(rest)?;
                rest.is_empty().then_some(What::Refresh { before, which, numbers })?
            }
            _ => return None,
        };
        Some(Self { aor, sequence, nonces, what })
    }

    /// Whether it says no more than new numbers.
    pub(super) fn is_refresh(&self) -> bool {
        matches!(self.what, What::Refresh { .. })
    }

    /// Packs the bindings of a state as this process's memory has them. Those that have ended are
    /// there, with a deadline that is past.
    ///
    /// `None` if they can't be read.
    pub(super) fn pack(
        &self,
        aor: &[u8],
        now: Now,
        listeners: &dyn Listeners,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let mut rest = match self.what {
            What::State(bindings) | What::Early(bindings) => bindings,
            What::Refresh { .. } => return None,
        };
        let mut writer = RecordWriter::new(out, aor, self.nonces)?;
        while !rest.is_empty() {
            writer.push(&decode_binding(&mut rest, now, listeners)?)?;
        }
        writer.finish();
        Some(())
    }
}

fn decode_binding<'a>(
    rest: &mut &'a [u8],
    now: Now,
    listeners: &dyn Listeners,
) -> Option<Binding<'a>> {
    let numbers = Numbers::decode(rest)?;
    let [flags] = take(rest)?;
    let port = u16::from_le_bytes(take(rest)?);
    let remote = SocketAddr::new(take_ip(rest, flags & REMOTE_V6 != 0)?, port);
    let local = match flags & (LOCAL_V4 | LOCAL_V6) {
        0 => None,
        bits => Some(take_ip(rest, bits & LOCAL_V6 != 0)?),
    };
    let [uri, params, path, call_id, agent, listener] = {
        let mut text = || take_text(rest);
        [text()?, text()?, text()?, text()?, text()?, text()?]
    };
    // They go into answers.
    let texts = [uri, params, path, call_id, agent];
    if texts.iter().any(|text| text.iter().any(u8::is_ascii_control)) || !is_well_formed(uri) {
        return None;
    }
    Params::new(params).check().ok()?;
    let transport = Transport::from_code(flags & TRANSPORT)?;
    let listener = listeners.id_of(listener);
    Some(Binding {
        uri,
        params,
        q: Params::new(params).find("q").and_then(|q| Quality::parse(q.value?)),
        deadline: numbers.deadline(now),
        updated: Moment::from_unix(now, numbers.updated),
        call_id,
        cseq: numbers.cseq,
        branch: numbers.branch,
        flow: Flow { listener, transport, local, remote },
        path,
        agent,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registrar::{AorRecord, binding_for_tests as binding};

    const NOW: Now = Now { millis: 5_000_000, unix: 1_800_000_000 };

    fn listeners() -> Vec<Box<str>> {
        vec!["general".into(), "inside".into()]
    }

    /// A record with these bindings, and the octets of it as a state.
    fn packed(bindings: &[Binding<'_>]) -> (Vec<u8>, Vec<u8>) {
        let mut record = Vec::new();
        let mut writer = RecordWriter::new(&mut record, b"alice@example.com", &[1, 0xff]).unwrap();
        bindings.iter().for_each(|b| writer.push(b).unwrap());
        writer.finish();
        let mut octets = Vec::new();
        let state = Recorded::State(AorRecord::new(&record).unwrap());
        encode(state, NOW, &listeners(), &mut octets);
        (record, octets)
    }

    fn unpack(octets: &[u8], now: Now) -> Option<Vec<u8>> {
        let change = Change::decode(octets)?;
        let mut out = Vec::new();
        change.pack(change.aor, now, &listeners(), &mut out)?;
        Some(out)
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let mut first = binding(b"sip:a@10.0.0.1:5062;ob");
        (first.deadline, first.updated) = (Deadline(5600), Moment(4990));
        let mut second = binding(b"sip:a@[2001:db8::9]");
        (second.deadline, second.updated) = (Deadline(5060), Moment(4000));
        second.flow.remote = "[2001:db8::9]:5060".parse().unwrap();
        second.flow.local = Some("2001:db8::1".parse().unwrap());
        second.flow.listener = ListenerId(1);
        second.path = b"";
        let (record, octets) = packed(&[first, second]);
        assert_eq!(unpack(&octets, NOW).unwrap(), record);
        let (nobody, octets) = packed(&[]);
        assert_eq!(unpack(&octets, NOW).unwrap(), nobody);
    }

    #[test]
    fn a_refresh_says_what_changed() {
        let mut one = binding(b"sip:a@10.0.0.1:5062;ob");
        one.deadline = Deadline(5600);
        let (record, _) = packed(&[one]);
        let record = AorRecord::new(&record).unwrap();
        let mut octets = Vec::new();
        encode(Recorded::Refresh { record, before: 7 }, NOW, &listeners(), &mut octets);
        let change = Change::decode(&octets).unwrap();
        assert_eq!((change.aor, change.nonces), (&b"alice@example.com"[..], &[1, 0xff][..]));
        let What::Refresh { before: 7, which, numbers } = change.what else { panic!("{change:?}") };
        assert_eq!(which, Some(one.id()));
        assert_eq!((numbers.cseq, numbers.branch), (one.cseq, one.branch));
        assert_eq!(numbers.expires, 1_800_000_600);
        assert!(octets.len() <= 72, "{}", octets.len());
        // As version 1 of the journal had it.
        octets[0] = REFRESH;
        octets.drain(octets.len() - 24..octets.len() - 16);
        let change = Change::decode(&octets).unwrap();
        assert_eq!(change.what, What::Refresh { before: 7, which: None, numbers });
    }

    #[test]
    fn nothing_lasts_longer_than_it_was_granted() {
        let numbers =
            Numbers { expires: 1_800_000_600, updated: 1_800_000_000, cseq: 1, branch: 1 };
        assert_eq!(numbers.deadline(NOW).remaining(NOW), DeltaSeconds(600));
        let back = Now { unix: NOW.unix - 100_000, ..NOW };
        assert_eq!(numbers.deadline(back).remaining(back), DeltaSeconds(600));
        let later = Now { unix: NOW.unix + 600, ..NOW };
        assert!(numbers.deadline(later).is_past(later));
    }

    /// The clock was two days behind when the phone registered, and was set while the process ran.
    #[test]
    fn a_clock_that_was_set_makes_nothing_last_longer() {
        let days = 2 * 86_400;
        let behind = Now { unix: NOW.unix - days, ..NOW };
        let mut one = binding(b"sip:a@192.0.2.1");
        (one.deadline, one.updated) =
            (Deadline::after(behind, DeltaSeconds(600)), Moment::of(behind));
        for written in [behind, NOW, Now { unix: NOW.unix + days, ..NOW }] {
            let numbers = Numbers::of(&one, written);
            assert_eq!(numbers.expires - numbers.updated, 600);
            for unix in [behind.unix, behind.unix - days] {
                let read = Now { unix, ..NOW };
                assert!(numbers.deadline(read).remaining(read) <= DeltaSeconds(600));
            }
        }
    }

    proptest! {
        #[test]
        fn no_octets_are_too_much(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            if let Some(change) = Change::decode(&octets) {
                let _ = change.pack(change.aor, NOW, &listeners(), &mut out);
            }
        }

        #[test]
        fn a_state_that_was_cut_is_refused(cut in 1..80_usize) {
            let (_, octets) = packed(&[binding(b"sip:a@192.0.2.1")]);
            let cut = octets.len() - cut.min(octets.len() - 30);
            prop_assert_eq!(unpack(&octets[..cut], NOW), None);
        }
    }
}
