//! What a change does to the bindings of an AoR, for whoever has to tell others.

use crate::{
    registrar::{AorRecord, Binding},
    time::Now,
};

/// How many bindings of an AoR a change adds, moves and ends.
///
/// Numbers that change, as deadlines do in a refresh, are no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that were not there.
    pub added: usize,
    /// Those that are somewhere else now: by another URI, or over another flow.
    pub moved: usize,
    /// Those that are gone before their time: by a phone, an operator, or for another one.
    pub removed: usize,
    /// Those whose time was up.
    pub ended: usize,
}

impl Difference {
    /// Between a record and what it becomes at `now`.
    ///
    /// One that has ended but was not swept yet, and is registered again, was there all the while,
    /// as nobody has been told otherwise.
    pub(super) fn between(
        old: Option<AorRecord<'_>>,
        new: Option<AorRecord<'_>>,
        now: Now,
    ) -> Self {
        let gone = || stored(old).filter(move |binding| !has_place_of(new, binding));
        let come = || stored(new).filter(move |binding| !has_place_of(old, binding));
        let mut difference = Self::default();
        for binding in gone() {
            if come().any(|other| is_same_phone(&other, &binding)) {
                difference.moved += 1;
            } else if binding.deadline.is_past(now) {
                difference.ended += 1;
            } else {
                difference.removed += 1;
            }
        }
        let is_added = |binding: &Binding<'_>| {
            !binding.deadline.is_past(now) && !gone().any(|other| is_same_phone(&other, binding))
        };
        difference.added = come().filter(is_added).count();
        difference
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether there are fewer bindings than before.
    pub fn is_fewer(self) -> bool {
        self.removed + self.ended > self.added
    }
}

fn stored<'r>(record: Option<AorRecord<'r>>) -> impl Iterator<Item = Binding<'r>> {
    record.into_iter().flat_map(|record| record.stored())
}

fn has_place_of(record: Option<AorRecord<'_>>, binding: &Binding<'_>) -> bool {
    stored(record).any(|other| {
        other.uri == binding.uri
            && other.flow.remote == binding.flow.remote
            && other.flow.listener == binding.flow.listener
    })
}

fn is_same_phone(one: &Binding<'_>, other: &Binding<'_>) -> bool {
    one.matches(other.uri, other.instance(), other.reg_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registrar::{RecordWriter, binding_for_tests},
        time::{Deadline, DeltaSeconds},
    };

    const NOW: Now = Now { millis: 100_000, unix: 1_800_000_000 };

    /// A record of these, each a URI, the last octet of where it came from and how long it lasts.
    fn record(bindings: &[(&str, u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, b"alice", b"").unwrap();
        for (uri, host, seconds) in bindings {
            let mut binding = binding_for_tests(uri.as_bytes());
            binding.flow.remote = ([192, 0, 2, *host], 5060).into();
            let before = Now { millis: NOW.millis - 60_000, unix: NOW.unix - 60 };
            binding.deadline = Deadline::after(before, DeltaSeconds(*seconds));
            writer.push(&binding).unwrap();
        }
        writer.finish();
        bytes
    }

    #[test]
    fn each_binding_counts_as_what_became_of_it() {
        let (a, a_moved, a_late) = (("sip:a@h", 1, 600), ("sip:a@h", 2, 600), ("sip:a@h", 1, 900));
        let (b, b_over) = (("sip:b@h", 1, 600), ("sip:b@h", 1, 30));
        for (old, new, expected) in [
            (&[][..], &[][..], [0, 0, 0, 0]),
            (&[], &[a], [1, 0, 0, 0]),
            (&[a], &[a], [0, 0, 0, 0]),
            // A refresh, and which is first.
            (&[a, b], &[b, a_late], [0, 0, 0, 0]),
            (&[a], &[a_moved], [0, 1, 0, 0]),
            (&[a, b], &[a_moved], [0, 1, 1, 0]),
            (&[a], &[b], [1, 0, 1, 0]),
            (&[a, b], &[a], [0, 0, 1, 0]),
            (&[a, b_over], &[a], [0, 0, 0, 1]),
            (&[b_over], &[], [0, 0, 0, 1]),
            (&[b_over], &[a], [1, 0, 0, 1]),
            // Not swept yet.
            (&[b_over], &[b], [0, 0, 0, 0]),
            // Over before it was there.
            (&[a], &[a, b_over], [0, 0, 0, 0]),
        ] {
            let [old_bytes, new_bytes] = [record(old), record(new)];
            let (one, other) = (AorRecord::new(&old_bytes), AorRecord::new(&new_bytes));
            let [added, moved, removed, ended] = expected;
            let expected = Difference { added, moved, removed, ended };
            assert_eq!(Difference::between(one, other, NOW), expected, "{old:?} {new:?}");
            assert_eq!(expected.is_fewer(), removed + ended > added);
        }
        let bytes = record(&[a]);
        let ended = Difference::between(AorRecord::new(&bytes), None, NOW);
        assert_eq!(ended, Difference { removed: 1, ..Difference::default() });
        assert!(Difference::between(None, None, NOW).is_none());
    }
}
