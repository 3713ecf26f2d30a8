//! Any file as a segment of a journal: no record comes from a frame whose checksums are wrong. And
//! any records: they come back, but for the frames that were damaged.

use persist::{
    journal::{FRAME_MAX, HEAD_LEN, SegmentId, Writer, read},
    storage::memory::MemoryStorage,
};

use crate::crc32::crc32;

/// Octets of a frame before its records.
const FRAME_HEAD_LEN: usize = 20;

/// Checks `bytes` as a file, as a file with frames around its octets, and as records.
pub(crate) fn check(bytes: &[u8]) {
    read_file(bytes);
    let mut sealed = vec![0; HEAD_LEN];
    for content in bytes.split(|&b| b == 0xff) {
        seal(&mut sealed, content);
    }
    read_file(&sealed);
    write_damage_and_read(bytes);
}

fn id() -> SegmentId {
    SegmentId::new(3, 1).expect("they fit")
}

fn load(bytes: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
    let storage = MemoryStorage::new();
    storage.put(&id().to_string(), bytes);
    let mut records = Vec::new();
    let segment = read(&storage, id(), |r| records.push((r.offset, r.octets.to_vec()))).ok()?;
    assert_eq!(segment.records, records.len() as u64);
    assert_eq!(segment.bytes, bytes.len() as u64);
    let lost = segment.hole_bytes + segment.torn.map_or(0, |gap| gap.bytes);
    assert!(lost <= segment.bytes && segment.hole_count >= segment.holes.len() as u64);
    Some(records)
}

fn read_file(bytes: &[u8]) {
    for (offset, record) in load(bytes).unwrap_or_default() {
        let at = usize::try_from(offset).expect("within the file");
        let frame = &bytes[at..];
        let length = number(frame, 4);
        assert!(length <= FRAME_MAX && record.len() + 4 <= length);
        assert_eq!(number(frame, 12), head_crc(offset, &frame[4..12]) as usize);
        let records = &frame[FRAME_HEAD_LEN..FRAME_HEAD_LEN + length];
        assert_eq!(number(frame, 16), records_crc(word(number(frame, 12)), records) as usize);
        assert!(record.is_empty() || records.windows(record.len()).any(|part| part == record));
    }
}

/// A number that was read from four octets, or that counts what fuzzers make.
fn word(number: usize) -> u32 {
    u32::try_from(number).expect("at most 32 bits")
}

/// Puts a frame around `records`, whatever they are; their number is a guess.
fn seal(out: &mut Vec<u8>, records: &[u8]) {
    let count = 1 + word(records.len()) / 64;
    let numbers = [word(records.len()).to_le_bytes(), count.to_le_bytes()].concat();
    let head_crc = head_crc(out.len() as u64, &numbers);
    out.extend_from_slice(&[0xf5, 0xc0, 0xf6, 0xc1]);
    out.extend_from_slice(&numbers);
    out.extend_from_slice(&head_crc.to_le_bytes());
    out.extend_from_slice(&records_crc(head_crc, records).to_le_bytes());
    out.extend_from_slice(records);
}

/// Frames lie between the octets 0xff, their records between the zeros of `bytes`. The first two
/// octets say what is damaged.
fn write_damage_and_read(bytes: &[u8]) {
    let [low, high, flip, rest @ ..] = bytes else { return };
    let storage = MemoryStorage::new();
    let mut writer = Writer::create(&storage, id(), 0).expect("memory");
    let mut written = Vec::new();
    for frame in rest.split(|&b| b == 0xff) {
        let start = writer.length();
        let records: Vec<_> = frame.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
        for record in &records {
            writer.record(|out| out.extend_from_slice(record)).expect("short ones");
        }
        written.push((start..writer.write().expect("memory"), records));
    }
    let mut file = storage.bytes(&id().to_string()).expect("it was written");
    let at = usize::from(u16::from_le_bytes([*low, *high]));
    if let Some(octet) = file.get_mut(at) {
        *octet ^= flip;
    }
    let hit = if *flip == 0 { u64::MAX } else { at as u64 };
    let expected: Vec<_> = written
        .iter()
        .filter(|(place, _)| !place.contains(&hit))
        .flat_map(|(place, records)| records.iter().map(|r| (place.start, r.clone())))
        .collect();
    assert_eq!(load(&file).unwrap_or_default(), expected);
}

fn number(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].iter().rev().fold(0, |number, &b| number << 8 | usize::from(b))
}

fn head_crc(offset: u64, numbers: &[u8]) -> u32 {
    let (generation, writer) = (id().generation(), u32::from(id().writer()));
    let place = [1_u32.to_le_bytes(), generation.to_le_bytes(), writer.to_le_bytes()].concat();
    crc32(&[&place, &offset.to_le_bytes()[..], numbers].concat())
}

fn records_crc(head_crc: u32, records: &[u8]) -> u32 {
    crc32(&[&head_crc.to_le_bytes()[..], records].concat())
}
