//! All that is known of one AoR, packed into one run of octets.

use std::ops::Range;

use super::{agent, binding::Binding};
use crate::time::Now;

/// Octets before the AoR.
const FIXED: usize = 18;
const SEQUENCE: usize = 0;
const SCHEDULED: usize = 8;
const LENGTH: usize = 12;
const AOR_LEN: usize = 14;
const NONCES_LEN: usize = 16;
const WRITER: usize = 17;

/// An AoR's record, read where it is stored.
///
/// ```text
/// 0  sequence u64   8 scheduled u32   12 length of it all u16   14 AoR length u16
/// 16 nonce counts length u8   17 journal writer u8   18 AoR, nonce counts, bindings
/// ```
///
/// Bindings stand in the order of their last refresh, the latest first. A record without bindings
/// is kept for a nonce's lifetime, so that a REGISTER captured before the removal can't be
/// replayed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AorRecord<'a> {
    bytes: &'a [u8],
    aor_len: usize,
    nonces_len: usize,
}

impl<'a> AorRecord<'a> {
    /// A record from octets that [`RecordWriter`] made.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, texts) = bytes.split_first_chunk::<FIXED>()?;
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
        let (aor_len, nonces_len) = (u16_at(AOR_LEN), usize::from(fixed[NONCES_LEN]));
        let is_whole = u16_at(LENGTH) == bytes.len() && texts.len() >= aor_len + nonces_len;
        is_whole.then_some(Self { bytes, aor_len, nonces_len })
    }

    /// The length of a record whose first 16 octets these two words are.
    pub(crate) fn len_of([_, second]: [u64; 2]) -> usize {
        let [_, _, _, _, low, high, ..] = second.to_le_bytes();
        usize::from(u16::from_le_bytes([low, high]))
    }

    /// All octets.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The AoR in its canonical form: `user`, or `user@domain`.
    pub fn aor(&self) -> &'a [u8] {
        &self.bytes[FIXED..FIXED + self.aor_len]
    }

    /// The nonce counts, packed.
    pub fn nonces(&self) -> &'a [u8] {
        &self.bytes[self.nonces_at()]
    }

    /// Orders the changes of this AoR; it never goes down.
    pub fn sequence(&self) -> u64 {
        u64::from_le_bytes(self.chunk(SEQUENCE))
    }

    /// The second for which the expiry wheel holds this AoR.
    pub fn scheduled(&self) -> u32 {
        u32::from_le_bytes(self.chunk(SCHEDULED))
    }

    /// Which writer of the journal has the record as it is; zero if none does.
    pub fn writer(&self) -> u8 {
        self.bytes[WRITER]
    }

    fn chunk<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut chunk = [0; N];
        chunk.copy_from_slice(&self.bytes[at..at + N]);
        chunk
    }

    /// How many bindings are stored, those past their deadline included.
    pub fn len(&self) -> usize {
        self.stored().count()
    }

    /// Whether no binding is stored.
    pub fn is_empty(&self) -> bool {
        self.packed_bindings().is_empty()
    }

    /// The bindings, packed.
    pub(super) fn packed_bindings(&self) -> &'a [u8] {
        &self.bytes[FIXED + self.aor_len + self.nonces_len..]
    }

    /// Where the nonce counts are among the octets.
    pub(crate) fn nonces_at(&self) -> Range<usize> {
        let at = FIXED + self.aor_len;
        at..at + self.nonces_len
    }

    /// All stored bindings, the latest refreshed first.
    pub fn stored(&self) -> impl Iterator<Item = Binding<'a>> + Clone + use<'a> {
        let mut rest = self.packed_bindings();
        std::iter::from_fn(move || {
            let (binding, tail) = Binding::decode(rest)?;
            rest = tail;
            Some(binding)
        })
    }

    /// The bindings that are in force: what is past its deadline is never served.
    pub fn bindings(&self, now: Now) -> impl Iterator<Item = Binding<'a>> + Clone + use<'a> {
        self.stored().filter(move |b| !b.deadline.is_past(now))
    }
}

/// Writes a record into a buffer that is used again and again.
#[derive(Debug)]
pub struct RecordWriter<'b> {
    out: &'b mut Vec<u8>,
}

impl<'b> RecordWriter<'b> {
    /// Starts a record of `aor` in `out`, which is cleared. `None` if a text is too long.
    pub fn new(out: &'b mut Vec<u8>, aor: &[u8], nonces: &[u8]) -> Option<Self> {
        out.clear();
        out.resize(FIXED, 0);
        out[AOR_LEN..][..2].copy_from_slice(&u16::try_from(aor.len()).ok()?.to_le_bytes());
        out[NONCES_LEN] = u8::try_from(nonces.len()).ok()?;
        out.extend_from_slice(aor);
        out.extend_from_slice(nonces);
        u16::try_from(out.len()).ok()?;
        Some(Self { out })
    }

    /// Appends a binding. `None` if it has a text that is too long, or they all are together.
    pub fn push(&mut self, binding: &Binding<'_>) -> Option<()> {
        let before = self.out.len();
        let aor_len = usize::from(u16::from_le_bytes([self.out[AOR_LEN], self.out[AOR_LEN + 1]]));
        let agent = agent::number_of(binding.agent, &self.out[FIXED..FIXED + aor_len]);
        binding.encode_with(agent, self.out)?;
        let fits = u16::try_from(self.out.len()).is_ok();
        if !fits {
            self.out.truncate(before);
        }
        fits.then_some(())
    }

    /// Ends the record: the octets are in the buffer that it was started in.
    pub fn finish(self) {
        // Whatever made it too long was refused.
        if let Ok(length) = u16::try_from(self.out.len()) {
            self.out[LENGTH..][..2].copy_from_slice(&length.to_le_bytes());
        }
    }
}

/// Sets the sequence of a packed record.
pub(crate) fn set_sequence(bytes: &mut [u8], sequence: u64) {
    if let Some(field) = bytes.get_mut(SEQUENCE..SEQUENCE + 8) {
        field.copy_from_slice(&sequence.to_le_bytes());
    }
}

/// Sets which writer of the journal has a packed record as it is.
pub(crate) fn set_writer(bytes: &mut [u8], writer: u8) {
    if let Some(field) = bytes.get_mut(WRITER) {
        *field = writer;
    }
}

/// Sets the second for which the expiry wheel holds a packed record.
pub(crate) fn set_scheduled(bytes: &mut [u8], second: u32) {
    if let Some(field) = bytes.get_mut(SCHEDULED..SCHEDULED + 4) {
        field.copy_from_slice(&second.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::binding::tests::binding, *};

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, b"alice@example.com", b"nonces").unwrap();
        writer.push(&binding(b"sip:a@192.0.2.1")).unwrap();
        writer.push(&binding(b"sip:a@192.0.2.2")).unwrap();
        writer.finish();
        set_sequence(&mut bytes, 1 << 40);
        set_scheduled(&mut bytes, 77);
        set_writer(&mut bytes, 3);

        let record = AorRecord::new(&bytes).unwrap();
        assert_eq!(record.aor(), b"alice@example.com");
        assert_eq!(record.nonces(), b"nonces");
        assert_eq!((record.sequence(), record.scheduled(), record.len()), (1 << 40, 77, 2));
        assert_eq!(record.writer(), 3);
        let uris: Vec<_> = record.stored().map(|b| b.uri).collect();
        assert_eq!(uris, [b"sip:a@192.0.2.1", b"sip:a@192.0.2.2"]);
    }

    #[test]
    fn what_is_past_its_deadline_is_not_served() {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes, b"a", b"").unwrap();
        writer.push(&binding(b"sip:a@192.0.2.1")).unwrap();
        writer.finish();
        let record = AorRecord::new(&bytes).unwrap();
        assert_eq!(record.bindings(Now { millis: 3_599_999, unix: 0 }).count(), 1);
        assert_eq!(record.bindings(Now { millis: 3_600_000, unix: 0 }).count(), 0);
    }
}
