//! Reads one segment: every frame whose checksum is right, and where there is none.
//!
//! Memory is bounded by one buffer. The file is read once, from its beginning to its end.

use memchr::memmem;

use super::SegmentId;
use super::layout::{FRAME_HEAD_LEN, FRAME_MAX, FrameHead, HEAD_LEN, Head, MAGIC, MARKER, Records};
use super::layout::{LENGTH_LEN, VERSION};
use crate::error::{ReadError, StorageError};
use crate::storage::{Input, Storage};

/// Bytes held at a time: the largest frame, and as much again so that reads are large.
const BUFFER: usize = 2 * (FRAME_HEAD_LEN + FRAME_MAX);

/// Bytes given up together where the medium can't be read: a sector of most disks.
const BLOCK: usize = 4096;

/// Holes that are listed; more are only counted.
pub const GAPS_MAX: usize = 64;

/// Bytes that can't be read before the rest of the segment is given up: a medium that fails
/// everywhere takes seconds for each attempt.
pub const UNREADABLE_MAX: u64 = 1 << 20;

/// A record and where its frame starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What was recorded.
    pub octets: &'a [u8],
    /// Where its frame starts in the segment, in bytes from 0; for messages.
    pub offset: u64,
}

/// Bytes of a segment that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where they start in the segment, in bytes from 0.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What was found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which one.
    pub id: SegmentId,
    /// When it was begun, in Unix seconds; `None` if its head can't be read.
    pub begun: Option<u64>,
    /// How many segments its generation has, as its head says; zero if that does not.
    pub writers: u16,
    /// Length of the file.
    pub bytes: u64,
    /// Frames that are whole.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// The end of the file, if it is no frame: what was being written when the process or the
    /// machine ended. A file that ends within its head has nothing else.
    pub torn: Option<Gap>,
    /// Damage with whole frames after it, the first [`GAPS_MAX`] of it: records were lost, unless
    /// a power cut took what was not synced.
    pub holes: Vec<Gap>,
    /// How many holes there are.
    pub hole_count: u64,
    /// Bytes in all holes.
    pub hole_bytes: u64,
    /// Bytes that the medium did not give back. They are part of `torn` or of a hole.
    pub unreadable: u64,
}

/// Reads a segment and gives every record of every whole frame to `visitor`, in their order.
///
/// A record is given only after the checksum of its whole frame. Whatever lies between is passed
/// over and reported. Records of one writer are to be taken in order of its generations; those of
/// different writers in any order.
///
/// # Errors
/// With [`ReadError::Damaged`] nothing was given: the file is longer than a head and there is
/// nothing in it that belongs to this segment ([`super::set_aside`] is for those). With
/// [`ReadError::Newer`] neither: it is to be kept as it is. [`ReadError::Storage`]: it can't be
/// opened.
pub fn read(
    storage: &dyn Storage,
    id: SegmentId,
    mut visitor: impl FnMut(Record<'_>),
) -> Result<Segment, ReadError> {
    let name = id.to_string();
    let input = storage.open(&name).map_err(StorageError::of("open", &name))?;
    let mut window = Window::new(input);
    let mut segment = Segment::empty(id, window.end);
    let start = window.at(0, HEAD_LEN);
    let head = Head::parse(start);
    let first = start.get(..MAGIC.len()).unwrap_or_default().escape_ascii().to_string();
    let damaged = |expected: &str, found: String| ReadError::Damaged {
        name: name.clone(),
        byte: 0,
        expected: expected.to_owned(),
        found,
    };
    let mut offset = 0;
    if let Some(head) = head {
        if head.version > VERSION {
            return Err(ReadError::Newer { name, found: head.version, known: VERSION });
        }
        if !head.is_of(id) {
            let Head { generation, writer, .. } = head;
            let found = format!("that of generation {generation}, writer {writer}");
            return Err(damaged("the head of this segment", found));
        }
        (segment.begun, segment.writers) = (Some(head.begun), head.writers);
        offset = HEAD_LEN as u64;
    }
    let mut gap = None;
    while offset < window.end {
        if let Some(frame) = window.frame(id, offset) {
            segment.hole(gap.take(), offset);
            for octets in Records(frame) {
                segment.records += 1;
                visitor(Record { octets, offset });
            }
            segment.frames += 1;
            offset += (FRAME_HEAD_LEN + frame.len()) as u64;
        } else {
            gap.get_or_insert(offset);
            offset = window.next_marker(offset + 1);
        }
    }
    // What can't be read any more counts as well.
    let gap = gap.or_else(|| (offset < segment.bytes).then_some(offset));
    segment.torn = gap.map(|offset| Gap { offset, bytes: segment.bytes - offset });
    segment.unreadable = window.unreadable;
    if head.is_none() && segment.frames == 0 && segment.bytes > HEAD_LEN as u64 {
        return Err(damaged("a head or a frame of this segment", format!("`{first}`, and none")));
    }
    Ok(segment)
}

impl Segment {
    fn empty(id: SegmentId, bytes: u64) -> Self {
        Self {
            id,
            begun: None,
            writers: 0,
            bytes,
            frames: 0,
            records: 0,
            torn: None,
            holes: Vec::new(),
            hole_count: 0,
            hole_bytes: 0,
            unreadable: 0,
        }
    }

    /// Notes a gap that was found to end at `end`.
    fn hole(&mut self, gap: Option<u64>, end: u64) {
        let Some(offset) = gap else { return };
        let bytes = end - offset;
        self.hole_count += 1;
        self.hole_bytes += bytes;
        if self.holes.len() < GAPS_MAX {
            self.holes.push(Gap { offset, bytes });
        }
    }
}

/// A part of the file that only moves forward.
struct Window {
    input: Box<dyn Input>,
    /// Where the file ends, or where it is given up.
    end: u64,
    /// `buffer[..held]` are the file's bytes from `start`.
    buffer: Vec<u8>,
    start: u64,
    held: usize,
    unreadable: u64,
}

impl Window {
    fn new(input: Box<dyn Input>) -> Self {
        let end = input.size();
        let room = usize::try_from(end).unwrap_or(usize::MAX).min(BUFFER);
        Self { input, end, buffer: vec![0; room], start: 0, held: 0, unreadable: 0 }
    }

    /// The records of the frame at `offset`, if there is a whole one.
    fn frame(&mut self, id: SegmentId, offset: u64) -> Option<&[u8]> {
        let head = FrameHead::parse(id, offset, self.at(offset, FRAME_HEAD_LEN))?;
        // Records have lengths, so more of them than this can't be in it: not worth reading.
        let least = LENGTH_LEN.saturating_mul(usize::try_from(head.count).ok()?);
        if least > head.length {
            return None;
        }
        let (_, records) =
            self.at(offset, FRAME_HEAD_LEN + head.length).split_at_checked(FRAME_HEAD_LEN)?;
        head.is_of(records).then_some(records)
    }

    /// Where the next frame may start, from `from` on; the end if nowhere.
    fn next_marker(&mut self, mut from: u64) -> u64 {
        loop {
            let wanted = self.at(from, MARKER.len()).len();
            if wanted < MARKER.len() {
                return self.end;
            }
            let skipped = usize::try_from(from - self.start).unwrap_or(usize::MAX);
            let bytes = self.buffer.get(skipped..self.held).unwrap_or_default();
            if let Some(at) = memmem::find(bytes, &MARKER) {
                return from + at as u64;
            }
            // A marker may begin in the last bytes that are held.
            from += (bytes.len() - MARKER.len() + 1) as u64;
        }
    }

    /// `length` bytes from `offset`, which is not before that of an earlier call; fewer at the
    /// end. At most [`BUFFER`] fit.
    fn at(&mut self, offset: u64, length: usize) -> &[u8] {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = length.min(left);
        let ahead = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        if self.held < ahead.saturating_add(wanted) {
            let kept = self.held.saturating_sub(ahead);
            self.buffer.copy_within(self.held - kept..self.held, 0);
            (self.start, self.held) = (offset, kept);
            self.fill();
            return self.buffer.get(..wanted.min(self.held)).unwrap_or_default();
        }
        self.buffer.get(ahead..ahead + wanted).unwrap_or_default()
    }

    /// Reads as much as there is room for.
    fn fill(&mut self) {
        let at = self.start + self.held as u64;
        let room = self.buffer.len() - self.held;
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let (_, into) = self.buffer.split_at_mut(self.held);
        let (into, _) = into.split_at_mut(room.min(left));
        match self.input.read_at(at, into) {
            Ok(count) => {
                if count < into.len() {
                    // Somebody has cut it short meanwhile.
                    self.end = at + count as u64;
                }
                self.held += count;
            }
            Err(_) => self.fill_by_blocks(at, room.min(left)),
        }
    }

    /// Reads what can be read, with zeros for what can't: no frame has a checksum over those.
    fn fill_by_blocks(&mut self, mut at: u64, mut length: usize) {
        while length > 0 {
            let misaligned = usize::try_from(at % BLOCK as u64).unwrap_or(0);
            let size = length.min(BLOCK - misaligned);
            let Some(block) = self.buffer.get_mut(self.held..self.held + size) else { return };
            if self.input.read_at(at, block).is_ok_and(|count| count == size) {
                self.held += size;
            } else {
                block.fill(0);
                self.held += size;
                self.unreadable += size as u64;
                if self.unreadable > UNREADABLE_MAX {
                    self.end = at + size as u64;
                    return;
                }
            }
            at += size as u64;
            length -= size;
        }
    }
}
