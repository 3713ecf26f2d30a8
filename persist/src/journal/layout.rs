//! The octets of a segment's head and of a frame's. `FORMAT.md` is their specification.
//!
//! All numbers are little-endian.

use crc32fast::Hasher;

use super::SegmentId;

/// The format version that is written, and the newest that is read.
pub const VERSION: u32 = 2;

/// All that are read.
const VERSIONS: [u32; 2] = [VERSION, 1];

/// Octets of a segment's head.
pub const HEAD_LEN: usize = HEAD_CRC + 4;

/// A frame's records, with their lengths, have at most this many octets: what a reader has to hold
/// at a time.
pub const FRAME_MAX: usize = 1 << 20;

/// A record has at most this many octets: what fits into a frame.
pub const RECORD_MAX: usize = FRAME_MAX - LENGTH_LEN;

/// How a segment begins.
pub(super) const MAGIC: [u8; 8] = *b"BINDJRNL";

const HEAD_VERSION: usize = MAGIC.len();
const HEAD_GENERATION: usize = HEAD_VERSION + 4;
const HEAD_WRITER: usize = HEAD_GENERATION + 4;
const HEAD_WRITERS: usize = HEAD_WRITER + 2;
const HEAD_BEGUN: usize = HEAD_WRITERS + 2;
const HEAD_CRC: usize = HEAD_BEGUN + 8;

/// How a frame begins. None of the four occurs in UTF-8, nor are they what a disk leaves behind.
pub(super) const MARKER: [u8; 4] = [0xf5, 0xc0, 0xf6, 0xc1];

const FRAME_LENGTH: usize = MARKER.len();
const FRAME_COUNT: usize = FRAME_LENGTH + 4;
const FRAME_HEAD_CRC: usize = FRAME_COUNT + 4;
const FRAME_CRC: usize = FRAME_HEAD_CRC + 4;

/// Octets of a frame before its records.
pub(super) const FRAME_HEAD_LEN: usize = FRAME_CRC + 4;

/// Octets of a record's length before it.
pub(super) const LENGTH_LEN: usize = 4;

/// What a segment's head says, if its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) generation: u32,
    pub(super) writer: u16,
    /// How many segments its generation has; zero if that is not said, as in version 1.
    pub(super) writers: u16,
    /// When the segment was begun, in Unix seconds.
    pub(super) begun: u64,
}

impl Head {
    pub(super) fn new(id: SegmentId, writers: u16, begun: u64) -> Self {
        let (generation, writer) = (id.generation(), id.writer());
        Self { version: VERSION, generation, writer, writers, begun }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.writer.to_le_bytes());
        out.extend_from_slice(&self.writers.to_le_bytes());
        out.extend_from_slice(&self.begun.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` unless `bytes` begin with a head whose checksum is right.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..HEAD_CRC)?;
        let right =
            covered.starts_with(&MAGIC) && u32_at(bytes, HEAD_CRC)? == crc32fast::hash(covered);
        right.then_some(Self {
            version: u32_at(bytes, HEAD_VERSION)?,
            generation: u32_at(bytes, HEAD_GENERATION)?,
            writer: u16_at(bytes, HEAD_WRITER)?,
            writers: u16_at(bytes, HEAD_WRITERS)?,
            begun: u64::from_le_bytes(*bytes.get(HEAD_BEGUN..)?.first_chunk()?),
        })
    }

    pub(super) fn is_of(&self, id: SegmentId) -> bool {
        self.generation == id.generation() && self.writer == id.writer()
    }
}

/// A frame's head whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Octets of the records with their lengths.
    pub(super) length: usize,
    /// How many records.
    pub(super) count: u32,
    crc: u32,
    /// The checksum of this head, with which that of the records begins.
    head_crc: u32,
}

impl FrameHead {
    /// Fills in the head of `frame`, which has room for it before its records, and which begins at
    /// `offset` of the segment.
    pub(super) fn seal(id: SegmentId, offset: u64, count: u32, frame: &mut [u8]) {
        let length = frame.len().saturating_sub(FRAME_HEAD_LEN);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let Some((head, records)) = frame.split_first_chunk_mut::<FRAME_HEAD_LEN>() else { return };
        let head_crc = head_checksum(VERSION, id, offset, length, count);
        let crc = records_checksum(head_crc, records);
        let fields = [u32::from_le_bytes(MARKER), length, count, head_crc, crc];
        for (place, field) in head.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
    }

    /// `None` unless `bytes` begin with the head of a frame that was written to this very place, in
    /// any format version that is read.
    ///
    /// So a frame that an earlier file left on the medium isn't believed, nor one within another's
    /// record; and what follows need not be read to refuse a place.
    pub(super) fn parse(id: SegmentId, offset: u64, bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(&MARKER) {
            return None;
        }
        let (length, count) = (u32_at(bytes, FRAME_LENGTH)?, u32_at(bytes, FRAME_COUNT)?);
        let head_crc = u32_at(bytes, FRAME_HEAD_CRC)?;
        let crc = u32_at(bytes, FRAME_CRC)?;
        let is_it = |version: &u32| head_crc == head_checksum(*version, id, offset, length, count);
        if !VERSIONS.iter().any(is_it) {
            return None;
        }
        let length = usize::try_from(length).ok().filter(|&length| length <= FRAME_MAX)?;
        Some(Self { length, count, crc, head_crc })
    }

    /// Whether `records` are those that were written: checksum, lengths and number.
    pub(super) fn is_of(&self, records: &[u8]) -> bool {
        if records.len() != self.length || records_checksum(self.head_crc, records) != self.crc {
            return false;
        }
        let mut rest = Records(records);
        let count = rest.by_ref().fold(0_u32, |count, _| count.saturating_add(1));
        rest.0.is_empty() && count == self.count
    }
}

/// The records of a frame, each after its length.
pub(super) struct Records<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (record, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(record)
    }
}

/// The version and the segment go in as well as the place: a frame counts only where it belongs,
/// even if the segment's head can't be read.
fn head_checksum(version: u32, id: SegmentId, offset: u64, length: u32, count: u32) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&version.to_le_bytes());
    crc.update(&id.generation().to_le_bytes());
    crc.update(&u32::from(id.writer()).to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(&length.to_le_bytes());
    crc.update(&count.to_le_bytes());
    crc.finalize()
}

fn records_checksum(head_crc: u32, records: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&head_crc.to_le_bytes());
    crc.update(records);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|octets| u32::from_le_bytes(*octets))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|octets| u16::from_le_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SegmentId {
        SegmentId::new(7, 1).unwrap()
    }

    #[test]
    fn a_head_has_these_octets() {
        let bytes = Head::new(id(), 3, 0x0102).encode();
        assert_eq!(bytes[..12], *b"BINDJRNL\x02\0\0\0");
        assert_eq!(bytes[12..28], [7, 0, 0, 0, 1, 0, 3, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), HEAD_LEN);
        assert_eq!(Head::parse(&bytes), Some(Head::new(id(), 3, 0x0102)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::parse(&flipped), None, "{bit}");
        }
    }

    #[test]
    fn a_frame_counts_only_in_its_place() {
        let mut frame = vec![0; FRAME_HEAD_LEN];
        frame.extend_from_slice(b"\x02\0\0\0ab\x00\0\0\0");
        FrameHead::seal(id(), 32, 2, &mut frame);
        assert_eq!(frame[..12], [0xf5, 0xc0, 0xf6, 0xc1, 10, 0, 0, 0, 2, 0, 0, 0]);
        let head = FrameHead::parse(id(), 32, &frame).unwrap();
        assert!(head.is_of(&frame[FRAME_HEAD_LEN..]));
        assert_eq!(Records(&frame[FRAME_HEAD_LEN..]).collect::<Vec<_>>(), [&b"ab"[..], b""]);
        assert_eq!(FrameHead::parse(id(), 33, &frame), None);
        for (generation, writer) in [(8, 1), (7, 2)] {
            let other = SegmentId::new(generation, writer).unwrap();
            assert_eq!(FrameHead::parse(other, 32, &frame), None);
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_no_frame() {
        for (count, records) in [(1, &b"\x03\0\0\0ab"[..]), (2, b"\x02\0\0\0ab"), (1, b"\0\0\0")] {
            let mut frame = vec![0; FRAME_HEAD_LEN];
            frame.extend_from_slice(records);
            FrameHead::seal(id(), 32, count, &mut frame);
            let head = FrameHead::parse(id(), 32, &frame).unwrap();
            assert!(!head.is_of(&frame[FRAME_HEAD_LEN..]), "{count} {records:?}");
        }
    }
}
