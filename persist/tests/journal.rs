//! Segments from write to read: any records, any damage, any fault, real files.

use std::path::Path;
use std::sync::Arc;

use persist::error::{JournalError, ReadError};
use persist::journal::{
    FRAME_MAX, GAPS_MAX, Gap, HEAD_LEN, RECORD_MAX, Segment, SegmentId, Writer, read, set_aside,
};
use persist::storage::Storage;
use persist::storage::faulty::{Fault, FaultyStorage};
use persist::storage::file::FileStorage;
use persist::storage::memory::{MemoryStorage, Survival};
use proptest::prelude::*;

const BEGUN: u64 = 1_795_446_000;

/// Octets of a frame without its records, and of a record without its content.
const FRAME: u64 = 20;
const RECORD: u64 = 4;

type Records = Vec<Vec<u8>>;

fn id() -> SegmentId {
    SegmentId::new(7, 2).unwrap()
}

fn name() -> String {
    id().to_string()
}

/// Writes each batch as a frame.
fn write(storage: &dyn Storage, batches: &[Records]) -> Writer {
    let mut writer = Writer::create(storage, id(), BEGUN).unwrap();
    for batch in batches {
        for record in batch {
            writer.record(|out| out.extend_from_slice(record)).unwrap();
        }
        writer.write().unwrap();
    }
    writer
}

fn load(storage: &dyn Storage) -> Result<(Segment, Records), ReadError> {
    let mut records = Records::new();
    let segment = read(storage, id(), |record| records.push(record.octets.to_vec()))?;
    Ok((segment, records))
}

fn load_bytes(bytes: &[u8]) -> Result<(Segment, Records), ReadError> {
    let storage = MemoryStorage::new();
    storage.put(&name(), bytes);
    load(&storage)
}

/// Four frames of records that are unlike each other.
fn batches() -> Vec<Records> {
    let record = |n: u8| vec![b'a' + n; usize::from(n)];
    vec![vec![record(3), record(1)], vec![record(7)], vec![record(0), record(5)], vec![record(2)]]
}

fn bytes_of(batches: &[Records]) -> Vec<u8> {
    let storage = MemoryStorage::new();
    write(&storage, batches);
    storage.bytes(&name()).unwrap()
}

/// Where each frame of `batches` starts, and at last where they end.
fn bounds(batches: &[Records]) -> Vec<usize> {
    let mut bounds = vec![HEAD_LEN];
    for batch in batches {
        let records: usize = batch.iter().map(|record| 4 + record.len()).sum();
        bounds.push(bounds.last().unwrap() + 20 + records);
    }
    bounds
}

#[test]
fn what_is_written_is_read() {
    let storage = MemoryStorage::new();
    let mut writer = write(&storage, &batches());
    assert_eq!(writer.write().unwrap(), writer.length(), "an empty batch is no frame");
    let (segment, records) = load(&storage).unwrap();
    assert_eq!(records, batches().concat());
    assert_eq!((segment.frames, segment.records, segment.begun), (4, 6, Some(BEGUN)));
    assert_eq!((segment.torn, segment.hole_count, segment.unreadable), (None, 0, 0));
    let octets = 32 + 4 * FRAME + 6 * RECORD + 18;
    assert_eq!((segment.bytes, writer.length(), writer.records()), (octets, octets, 6));
}

/// What `fixtures/journal-v1` holds, for ever: [`batches`], of which the second is damaged, and the
/// beginning of a fifth.
#[test]
fn the_fixture_of_version_1_stays_readable() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1");
    let (segment, records) = load(&FileStorage::open(&folder).unwrap()).unwrap();
    let [first, _, third, fourth] = &batches()[..] else { panic!("four") };
    assert_eq!(records, [&first[..], third, fourth].concat());
    assert_eq!((segment.frames, segment.records, segment.begun), (3, 5, Some(BEGUN)));
    let (second, end) = (Gap { offset: 64, bytes: 31 }, Gap { offset: 154, bytes: 11 });
    assert_eq!((segment.holes, segment.torn), (vec![second], Some(end)));
}

/// `fixtures/journal-v2` holds the same, and its head says how many writers there were: that it is
/// not known.
#[test]
fn the_fixture_of_version_2_is_what_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v2");
    let (segment, records) = load(&FileStorage::open(&folder).unwrap()).unwrap();
    let [first, _, third, fourth] = &batches()[..] else { panic!("four") };
    assert_eq!(records, [&first[..], third, fourth].concat());
    assert_eq!((segment.frames, segment.begun, segment.writers), (3, Some(BEGUN), 0));

    let mut written = bytes_of(&batches());
    written[90] ^= 0x20;
    written.extend_from_slice(&bytes_of(&batches())[32..43]);
    assert_eq!(std::fs::read(folder.join(name())).unwrap(), written);
}

/// What can't be begun leaves nothing behind, wherever it fails.
#[test]
fn a_generation_is_begun_whole_or_not_at_all() {
    let steps = 1 + 2 * 3 + 3;
    for at in 0..steps {
        let disk = MemoryStorage::new();
        let faulty = FaultyStorage::new(disk.clone());
        faulty.fail_at(at, Fault::Full);
        match Writer::create_all(&faulty, 7, 3, BEGUN) {
            Ok(writers) => assert_eq!((writers.len(), disk.list().unwrap().len()), (3, 3)),
            Err(_) => assert_eq!(disk.list().unwrap(), [""; 0], "{at}"),
        }
    }
    let disk = MemoryStorage::new();
    let faulty = FaultyStorage::new(disk.clone());
    Writer::create_all(&faulty, 7, 3, BEGUN).unwrap();
    for writer in 0..3 {
        let id = SegmentId::new(7, writer).unwrap();
        assert_eq!(read(&disk, id, |_| ()).unwrap().writers, 3);
    }
    // Each file is made, written and synced; the folder is synced once.
    assert_eq!(faulty.steps(), 3 * 3 + 1);
}

#[test]
fn a_flipped_octet_costs_one_frame_and_invents_nothing() {
    let (batches, whole) = (batches(), bytes_of(&batches()));
    let bounds = bounds(&batches);
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let (segment, records) = load_bytes(&bytes).unwrap();
            let hit = bounds.windows(2).position(|frame| (frame[0]..frame[1]).contains(&at));
            let expected: Vec<_> = (0..).zip(&batches).filter(|(n, _)| hit != Some(*n)).collect();
            let expected: Records =
                expected.iter().flat_map(|(_, batch)| (*batch).clone()).collect();
            assert_eq!(records, expected, "{at}");
            assert_eq!(segment.begun.is_none(), at < HEAD_LEN);
            let is_last = at >= bounds[3];
            assert_eq!(
                (segment.torn.is_some(), segment.hole_count),
                (is_last, u64::from(!is_last))
            );
            let gap = segment.torn.or_else(|| segment.holes.first().copied()).unwrap();
            let start = hit.map_or(0, |n| bounds[n]);
            let end = hit.map_or(HEAD_LEN, |n| bounds[n + 1]);
            assert_eq!((gap.offset, gap.bytes), (start as u64, (end - start) as u64), "{at}");
        }
    }
}

#[test]
fn cut_anywhere_the_frames_before_are_there() {
    let (batches, whole) = (batches(), bytes_of(&batches()));
    let bounds = bounds(&batches);
    for length in 0..=whole.len() {
        let frames = bounds.iter().filter(|&&end| end <= length).count().saturating_sub(1);
        let expected = batches[..frames].concat();
        let (segment, records) = load_bytes(&whole[..length]).unwrap();
        assert_eq!((&records, segment.hole_count), (&expected, 0), "{length}");
        let torn = length - if length < HEAD_LEN { 0 } else { bounds[frames] };
        assert_eq!(segment.torn.map_or(0, |gap| gap.bytes), torn as u64, "{length}");

        let mut zeros = whole.clone();
        zeros[length..].fill(0);
        match load_bytes(&zeros) {
            Ok((segment, records)) => {
                assert_eq!((&records, segment.hole_count), (&expected, 0), "{length}");
            }
            // Frames come after the head is durable: a file of zeros is damage.
            Err(error) => assert!(length < HEAD_LEN, "{length}: {error}"),
        }
    }
}

#[test]
fn a_file_without_records_is_no_damage() {
    for bytes in [&b""[..], b"BINDJRNL", b"\0\0\0\0", &[0; HEAD_LEN]] {
        let (segment, records) = load_bytes(bytes).unwrap();
        assert_eq!((segment.records, records.len(), segment.begun), (0, 0, None));
        assert_eq!(segment.torn.map_or(0, |gap| gap.bytes), bytes.len() as u64);
    }
}

#[test]
fn what_belongs_to_another_segment_is_refused_and_can_be_set_aside() {
    let storage = MemoryStorage::new();
    let other = SegmentId::new(7, 3).unwrap();
    storage.put(&other.to_string(), &bytes_of(&batches()));
    let error = read(&storage, other, |_| panic!("a record")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "journal-00000007-003.log: at byte 0: expected the head of this segment, \
         found that of generation 7, writer 2"
    );
    assert_eq!(set_aside(&storage, other).unwrap(), "journal-00000007-003.log.corrupt");
    // The same without a head that says so: no frame is believed.
    let mut bytes = bytes_of(&batches());
    bytes[20] ^= 1;
    storage.put(&other.to_string(), &bytes);
    let error = read(&storage, other, |_| panic!("a record")).unwrap_err();
    assert!(error.to_string().ends_with("found `BINDJRNL`, and none"), "{error}");
    storage.put(&name(), &[b'x'; 100]);
    assert!(matches!(load(&storage), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_newer_version_is_refused() {
    let mut bytes = bytes_of(&batches());
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(load_bytes(&bytes), Err(ReadError::Newer { found: 3, known: 2, .. })));
}

#[test]
fn a_frame_at_another_place_is_not_believed() {
    let (whole, bounds) = (bytes_of(&batches()), bounds(&batches()));
    // The second frame again, where the third was.
    let again = [&whole[..bounds[2]], &whole[bounds[1]..bounds[2]], &whole[bounds[2]..]].concat();
    let (segment, records) = load_bytes(&again).unwrap();
    assert_eq!(records, batches()[..2].concat());
    assert!(segment.torn.is_some());
}

#[test]
fn large_batches_are_several_frames_and_bounds_are_kept() {
    let storage = MemoryStorage::new();
    let mut writer = Writer::create(&storage, id(), BEGUN).unwrap();
    let large = vec![b'x'; RECORD_MAX];
    let refused = writer.record(|out| out.resize(RECORD_MAX + 1, 0));
    assert!(matches!(refused, Err(JournalError::TooLong { .. })));
    assert_eq!(writer.pending(), 0);
    let mut taken = 0;
    while writer.record(|out| out.extend_from_slice(&large)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 7, "PENDING_MAX");
    let full = writer.record(|out| out.extend_from_slice(&large));
    assert!(matches!(full, Err(JournalError::Full)));
    writer.record(|out| out.extend_from_slice(b"small")).unwrap();
    writer.write().unwrap();
    assert_eq!((writer.frames(), writer.pending()), (8, 0));
    let (segment, records) = load(&storage).unwrap();
    assert_eq!((segment.frames, records.len(), segment.torn), (8, 8, None));
    assert!(records[..7].iter().all(|record| *record == large));
    assert_eq!(records[7], b"small");
}

#[test]
fn markers_everywhere_take_no_longer() {
    let mut bytes = bytes_of(&batches());
    let whole = bytes.len();
    while bytes.len() < 4 * FRAME_MAX {
        bytes.extend_from_slice(&[0xf5, 0xc0, 0xf6, 0xc1, 0, 0, 0x0f, 0]);
    }
    let (segment, records) = load_bytes(&bytes).unwrap();
    assert_eq!(records, batches().concat());
    assert_eq!(segment.torn.unwrap().offset, whole as u64);
}

#[test]
fn holes_are_counted_beyond_those_that_are_listed() {
    let batches: Vec<Records> = (0..300_u16).map(|n| vec![n.to_le_bytes().to_vec()]).collect();
    let (mut bytes, bounds) = (bytes_of(&batches), bounds(&batches));
    for n in (0..299).step_by(2) {
        bytes[bounds[n] + 21] ^= 1;
    }
    let (segment, records) = load_bytes(&bytes).unwrap();
    assert_eq!((segment.hole_count, segment.holes.len(), records.len()), (150, GAPS_MAX, 150));
    assert_eq!(segment.hole_bytes, 150 * (FRAME + RECORD + 2));
}

#[test]
fn a_sector_that_cannot_be_read_costs_what_lies_in_it() {
    let batches: Vec<Records> = (0..30_u8).map(|n| vec![vec![n; 1000]]).collect();
    let memory = MemoryStorage::new();
    memory.put(&name(), &bytes_of(&batches));
    let faulty = FaultyStorage::new(memory);
    // The first step opens; one failure is overcome by smaller reads.
    faulty.fail_at(1, Fault::Error);
    assert_eq!(load(&faulty).unwrap().1.len(), 30);
    // From there on nothing can be read.
    faulty.fail_at(1, Fault::Crash);
    assert!(matches!(load(&faulty), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_write_that_fails_ends_the_segment() {
    for fault in [Fault::Error, Fault::Full, Fault::Crash] {
        let memory = MemoryStorage::new();
        let faulty = FaultyStorage::new(memory.clone());
        let mut writer = write(&faulty, &batches());
        let handle = writer.handle();
        faulty.fail_at(0, fault);
        writer.record(|out| out.extend_from_slice(b"lost")).unwrap();
        assert!(matches!(writer.write(), Err(JournalError::Storage(_))));
        assert!(writer.is_failed() && writer.pending() == 0);
        assert!(matches!(writer.record(|_| ()), Err(JournalError::Poisoned)));
        assert!(matches!(writer.write(), Err(JournalError::Poisoned)));
        let (segment, records) = load(&memory).unwrap();
        assert_eq!(records, batches().concat());
        assert_eq!(segment.torn.is_some(), fault != Fault::Error);
        // What was written before can still be made durable, while there is a disk.
        assert_eq!(handle.sync().is_ok(), fault != Fault::Crash);
    }
}

#[test]
fn a_sync_that_fails_is_never_tried_again() {
    let memory = MemoryStorage::new();
    let faulty = FaultyStorage::new(memory.clone());
    let mut writer = write(&faulty, &batches());
    let handle = writer.handle();
    let durable = handle.sync().unwrap();
    assert_eq!(durable, writer.length());
    writer.record(|out| out.extend_from_slice(b"doubtful")).unwrap();
    writer.write().unwrap();
    faulty.fail_at(0, Fault::Error);
    assert!(matches!(handle.sync(), Err(JournalError::Storage(_))));
    assert_eq!((handle.synced(), faulty.steps()), (durable, 1));
    // The disk would say yes to another.
    assert!(matches!(handle.sync(), Err(JournalError::Poisoned)));
    assert!(matches!(writer.record(|_| ()), Err(JournalError::Poisoned)));
    assert!(matches!(writer.write(), Err(JournalError::Poisoned)));
    assert_eq!(faulty.steps(), 1);
    let (_, records) = load(&memory.crash(Survival::Nothing)).unwrap();
    assert_eq!(records, batches().concat());
}

#[test]
fn a_segment_is_durable_before_its_first_frame() {
    let memory = MemoryStorage::new();
    let mut writer = Writer::create(&memory, id(), BEGUN).unwrap();
    assert_eq!(load(&memory.crash(Survival::Nothing)).unwrap().0.begun, Some(BEGUN));
    assert_eq!(writer.handle().synced(), HEAD_LEN as u64);
    writer.record(|out| out.push(b'a')).unwrap();
    let length = writer.write().unwrap();
    assert!(writer.handle().synced() < length && writer.handle().written() == length);
    assert_eq!(load(&memory.crash(Survival::All)).unwrap().0.records, 1);
    assert_eq!(load(&memory.crash(Survival::Nothing)).unwrap().0.records, 0);
    assert_eq!(writer.handle().sync().unwrap(), length);
    assert_eq!(load(&memory.crash(Survival::Nothing)).unwrap().0.records, 1);
    assert!(Writer::create(&memory, id(), BEGUN).is_err(), "never over another");
}

#[test]
fn a_crash_while_a_segment_is_begun_costs_nothing() {
    for step in 0..4 {
        let memory = MemoryStorage::new();
        let faulty = FaultyStorage::new(memory.clone());
        faulty.fail_at(step, Fault::Crash);
        assert!(Writer::create(&faulty, id(), BEGUN).is_err(), "{step}");
        for survival in
            [Survival::All, Survival::Nothing].into_iter().chain((0..40).map(Survival::Some))
        {
            match load(&memory.crash(survival)) {
                Ok((segment, _)) => assert_eq!(segment.records, 0),
                Err(error) => assert!(matches!(error, ReadError::Storage(_)), "{error}"),
            }
        }
    }
}

#[test]
fn a_rotation_takes_along_what_is_not_written() {
    let storage = MemoryStorage::new();
    let mut writer = write(&storage, &batches());
    writer.record(|out| out.extend_from_slice(b"between")).unwrap();
    let next = SegmentId::new(8, 2).unwrap();
    let before = writer.replace(Writer::create(&storage, next, BEGUN).unwrap());
    assert_eq!((before.id(), before.pending()), (id(), 0));
    writer.write().unwrap();
    assert_eq!(load(&storage).unwrap().1, batches().concat());
    let mut records = Records::new();
    read(&storage, next, |record| records.push(record.octets.to_vec())).unwrap();
    assert_eq!(records, [b"between"]);
    // The one before is made durable by whoever has its handle.
    assert_eq!(before.handle().sync().unwrap(), before.length());
}

#[test]
fn one_thread_writes_while_another_syncs() {
    const BATCHES: u32 = 300;
    let home = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::create(home.path()).unwrap());
    let mut writer = Writer::create(storage.as_ref(), id(), BEGUN).unwrap();
    let handle = writer.handle();
    let last = std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            for n in 0..BATCHES {
                writer.record(|out| out.extend_from_slice(&n.to_le_bytes())).unwrap();
                writer.write().unwrap();
            }
            writer.length()
        });
        let mut durable = 0;
        while !writing.is_finished() {
            let written = handle.written();
            let now = handle.sync().unwrap();
            assert!(now >= durable && now >= written);
            durable = now;
        }
        writing.join().unwrap()
    });
    assert_eq!(handle.sync().unwrap(), last);
    let (segment, records) = load(storage.as_ref()).unwrap();
    assert_eq!((segment.frames, segment.torn), (BATCHES.into(), None));
    assert!(records.iter().zip(0..BATCHES).all(|(record, n)| *record == n.to_le_bytes()));
}

proptest! {
    #[test]
    fn damage_costs_the_frames_it_touches_and_no_other(
        batches in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4), 1..12),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<Vec<u8>>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let whole = bytes_of(&batches);
        let mut bytes = whole.clone();
        for (at, with) in &damage {
            let at = HEAD_LEN + at.index(bytes.len() - HEAD_LEN);
            bytes.iter_mut().skip(at).zip(with).for_each(|(byte, new)| *byte = *new);
        }
        if is_cut {
            bytes.truncate(HEAD_LEN + cut.index(bytes.len() - HEAD_LEN));
        }
        let expected: Records = bounds(&batches)
            .windows(2)
            .zip(&batches)
            .filter(|(frame, _)| bytes.get(frame[0]..frame[1]) == Some(&whole[frame[0]..frame[1]]))
            .flat_map(|(_, batch)| batch.clone())
            .collect();
        let (segment, records) = load_bytes(&bytes).unwrap();
        prop_assert_eq!(records, expected);
        let frames = whole.len() as u64 - HEAD_LEN as u64;
        prop_assert!(segment.hole_bytes + segment.torn.map_or(0, |gap| gap.bytes) <= frames);
    }
}
