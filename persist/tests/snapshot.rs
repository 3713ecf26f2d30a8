//! Snapshots from write to read: any bytes, any damage, older generations, real files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use persist::error::{ReadError, WriteError};
use persist::snapshot::{self, Checking, General, Generations, Origin, Summary, read};
use persist::storage::Storage;
use persist::storage::file::FileStorage;
use persist::storage::memory::MemoryStorage;
use proptest::prelude::*;

const NAME: &str = "regfile.snapshot";
const GENERAL: General =
    General { sequence: 42, written: 1_795_446_000, journal: None, writers: 0 };

type Pairs = Vec<(String, Vec<u8>)>;
type Sections = Vec<(Vec<u8>, Pairs)>;

fn write(storage: Arc<dyn Storage>, keep: usize, sections: &Sections) -> Summary {
    write_with(storage, keep, GENERAL, sections)
}

fn write_with(
    storage: Arc<dyn Storage>,
    keep: usize,
    general: General,
    sections: &Sections,
) -> Summary {
    let mut generations = Generations::new(storage, NAME, keep);
    let mut writer = generations.begin(general).unwrap();
    for (name, pairs) in sections {
        writer.section(name, 2, pairs.iter().map(|(k, v)| (k, v))).unwrap();
    }
    let bytes = writer.bytes();
    let summary = writer.finish().unwrap();
    // A blank line and the checksum's.
    assert_eq!(summary.bytes, bytes + 18);
    summary
}

fn load(storage: &dyn Storage, name: &str) -> Result<(Summary, Sections), ReadError> {
    let mut sections = Sections::new();
    let summary = read(storage, name, |section| {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let pairs = section.pairs().map(|(k, v)| (text(k), v.into_owned())).collect();
        sections.push((section.name().into_owned(), pairs));
    })?;
    Ok((summary, sections))
}

fn section(name: &str, pairs: &[(&str, &str)]) -> (Vec<u8>, Pairs) {
    let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
    (name.as_bytes().to_vec(), pairs)
}

/// What `fixtures/v1/regfile.snapshot` holds, for ever.
fn fixture() -> Sections {
    vec![
        section(
            "100@example.com",
            &[
                ("driver", "sip"),
                ("data", "sip/sip:100@192.0.2.7:5060;transport=udp;x=1"),
                ("expires", "1795446319"),
                ("contact.1", "\"Desk\" <sip:100@192.0.2.7:5060;transport=udp;x=1>;q=0.5"),
                ("expires.1", "1795446319"),
                ("contact.2", "<sip:100@198.51.100.9>;+sip.instance=\"<urn:uuid:0>\""),
                ("expires.2", "1795446100"),
            ],
        ),
        section("general", &[("driver", "sip"), ("empty", ""), ("slash", "a\\")]),
        section(" %]$;\n\u{e9}", &[("lines", " one\r\ntwo\0%"), ("latin", "\u{e9}%41")]),
    ]
}

#[test]
fn what_is_written_is_text_that_people_and_yate_can_read() {
    let memory = MemoryStorage::new();
    write(Arc::new(memory.clone()), 2, &fixture());
    let text = String::from_utf8(memory.bytes(NAME).unwrap()).unwrap();
    let head = "[general]\nversion=1\nsequence=42\nwritten=1795446000\nsections=3                   \n\
        bindings=6                   \n\n[100@example.com]\ndriver=sip\n\
        data=sip/sip:100@192.0.2.7:5060;transport=udp;x=1\nexpires=1795446319\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\n\n[%67eneral]\ndriver=sip\nempty=\nslash=a\\ \n\n"), "{text}");
    assert!(
        text.contains("\n[%20%25%5D%24%3B%0A\u{e9}]\nlines%=%20one%0D%0Atwo%00%25\n"),
        "{text}"
    );
    let (body, last) = text.split_at(text.len() - 17);
    assert!(body.ends_with("\n\n"));
    assert_eq!(last, format!("; crc32={:08x}\n", crc32fast::hash(body.as_bytes())));
}

#[test]
fn the_fixture_of_version_1_stays_loadable() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let (summary, sections) = load(&FileStorage::open(&folder).unwrap(), NAME).unwrap();
    assert_eq!(summary.origin, Origin::Bindery { version: 1, general: GENERAL });
    assert_eq!((summary.sections, summary.bindings, summary.dropped), (3, 6, 0));
    assert_eq!(sections, fixture());
}

#[test]
fn the_fixture_of_version_2_stays_loadable() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v2");
    let (summary, sections) = load(&FileStorage::open(&folder).unwrap(), NAME).unwrap();
    let general = General { journal: Some(17), ..GENERAL };
    assert_eq!(summary.origin, Origin::Bindery { version: 2, general });
    assert_eq!((summary.sections, summary.bindings, summary.dropped), (3, 6, 0));
    assert_eq!(sections, fixture());

    let memory = MemoryStorage::new();
    assert_eq!(write_with(Arc::new(memory.clone()), 2, general, &fixture()), summary);
    assert_eq!(memory.bytes(NAME).unwrap(), std::fs::read(folder.join(NAME)).unwrap());
}

#[test]
fn a_journal_is_needed_by_the_oldest_that_is_kept() {
    let memory = MemoryStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let generations = || Generations::new(Arc::clone(&storage), NAME, 2);
    let take = |journal| {
        write_with(Arc::clone(&storage), 2, General { journal, ..GENERAL }, &fixture());
        generations().journal_needed().unwrap()
    };
    assert_eq!(generations().journal_needed().unwrap(), 0, "nothing to go back to");
    assert_eq!([take(Some(4)), take(Some(5)), take(Some(9))], [0, 0, 4]);
    assert_eq!([take(Some(10)), take(None), take(Some(12))], [5, 0, 0]);
    assert_eq!([take(Some(14)), take(Some(15))], [0, 12]);
    // One that can't be read may have needed anything.
    memory.put("regfile.snapshot.1", b"[general]\nversion=2\n");
    assert!(generations().journal_needed().is_err());
    memory.put("regfile.snapshot.1", b"[100]\ndata=sip/sip:1@192.0.2.1\n");
    assert_eq!(generations().journal_needed().unwrap(), 0, "Yate's");
}

#[test]
fn threads_share_a_large_file() {
    const THREADS: u64 = 3;
    let memory = MemoryStorage::new();
    // One section is larger than what a thread takes at a time.
    let value = |n: usize| vec![b'x'; if n == 9 { 17 << 20 } else { 512 << 10 }];
    let sections: Sections =
        (0..30).map(|n| (n.to_string().into_bytes(), vec![("v".to_owned(), value(n))])).collect();
    let written = write(Arc::new(memory.clone()), 2, &sections);
    let checking = Checking::open(&memory, NAME).unwrap();
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(|| checking.run()))));
    assert_eq!(checking.bytes(), written.bytes);
    assert_eq!(checking.done(), written.bytes - 17, "all but the last line");
    let parts = checking.finish().unwrap().parts();
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                parts.run(|section| {
                    let value = section.pairs().next().unwrap().1.len();
                    seen.lock().unwrap().push((section.name().into_owned(), value));
                });
            });
        }
    });
    assert_eq!(parts.done(), written.bytes - 17);
    assert_eq!(parts.finish().unwrap(), written);
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    let mut expected: Vec<_> =
        sections.iter().map(|(name, pairs)| (name.clone(), pairs[0].1.len())).collect();
    expected.sort();
    assert_eq!(seen, expected);

    let mut bytes = memory.bytes(NAME).unwrap();
    bytes[20 << 20] ^= 1;
    memory.put(NAME, &bytes);
    let checking = Checking::open(&memory, NAME).unwrap();
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(|| checking.run()))));
    assert!(matches!(checking.finish(), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_part_that_nobody_has_read_is_missed() {
    let memory = MemoryStorage::new();
    write(Arc::new(memory.clone()), 2, &fixture());
    let parts = Checking::open(&memory, NAME).unwrap().finish().unwrap().parts();
    assert!(matches!(parts.finish(), Err(ReadError::Damaged { .. })));
}

#[test]
fn yates_saved_file_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/yate");
    let (summary, sections) = load(&FileStorage::open(&folder).unwrap(), "regusers.conf").unwrap();
    assert_eq!(summary.origin, Origin::Yate);
    assert_eq!((summary.sections, summary.bindings, summary.dropped), (3, 3, 0));
    assert_eq!(sections[0].0, b"100");
    assert_eq!(sections[0].1[1].1, b"sip/sip:100@127.0.0.1:15999;transport=udp;x=1");
    assert_eq!(sections[1].1[2], ("expires".to_owned(), b"1795446401".to_vec()));
    assert_eq!(sections[2].0, "zo\u{eb}@example.org".as_bytes());
    assert_eq!(sections[2].1[1].1, b"sip/sip:zo%C3%AB@[2001:db8::1]:5061;a=b\\");
}

#[test]
fn a_snapshot_of_nobody_is_a_snapshot() {
    let memory = MemoryStorage::new();
    let written = write(Arc::new(memory.clone()), 2, &vec![]);
    assert_eq!(load(&memory, NAME).unwrap(), (written, vec![]));
}

#[test]
fn truncated_anywhere_it_is_refused() {
    let memory = MemoryStorage::new();
    write(Arc::new(memory.clone()), 2, &fixture());
    let whole = memory.bytes(NAME).unwrap();
    for length in 0..whole.len() {
        memory.put("cut", &whole[..length]);
        let error = load(&memory, "cut").unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{length}: {error}");
        let mut zeros = whole.clone();
        zeros[length..].fill(0);
        memory.put("cut", &zeros);
        assert!(load(&memory, "cut").is_err(), "zeros from {length}");
    }
    memory.put("cut", &[&whole[..], b"\n"].concat());
    assert!(load(&memory, "cut").is_err());
}

#[test]
fn no_flipped_bit_goes_unseen() {
    let memory = MemoryStorage::new();
    write(Arc::new(memory.clone()), 2, &fixture());
    let whole = memory.bytes(NAME).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        memory.put("flipped", &flipped);
        let error = load(&memory, "flipped").unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{bit}: {error}");
    }
}

#[test]
fn older_generations_are_kept_as_many_as_wanted() {
    let memory = MemoryStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let one = |n: usize| vec![section(&n.to_string(), &[])];
    let at = |name: &str| load(&memory, name).map(|(_, s)| s[0].0.clone()).ok();
    for n in 1..=5 {
        write(Arc::clone(&storage), 3, &one(n));
    }
    let mut names = memory.list().unwrap();
    names.sort();
    let older = ["regfile.snapshot.1", "regfile.snapshot.2", "regfile.snapshot.3"];
    assert_eq!(names, [&[NAME], &older[..]].concat());
    assert_eq!(at(NAME).unwrap(), b"5");
    assert_eq!(older.map(|name| at(name).unwrap()), [b"4", b"3", b"2"]);

    // Fewer from here on; a file that is no generation stays.
    memory.put("regfile.snapshot.9x", b"");
    memory.put("regfile.snapshot.01", b"");
    write(Arc::clone(&storage), 1, &one(6));
    assert_eq!(at(older[0]).unwrap(), b"5");
    assert_eq!(memory.list().unwrap().len(), 4);
    write(storage, 0, &one(7));
    assert_eq!((at(NAME).unwrap(), at(older[0])), (b"7".to_vec(), None));
}

#[test]
fn a_dropped_writer_changes_nothing() {
    let memory = MemoryStorage::new();
    write(Arc::new(memory.clone()), 2, &fixture());
    let before = memory.bytes(NAME);
    memory.put("regfile.snapshot.tmp", b"left by a killed process");
    let mut generations = Generations::new(Arc::new(memory.clone()), NAME, 2);
    let mut writer = generations.begin(GENERAL).unwrap();
    writer.section(b"a", 1, [("k", "v")]).unwrap();
    drop(writer);
    assert_eq!(memory.bytes(NAME), before);
    assert_eq!(memory.list().unwrap(), [NAME]);
}

#[test]
fn a_key_that_is_none_is_refused_and_the_rest_stands() {
    let memory = MemoryStorage::new();
    let mut generations = Generations::new(Arc::new(memory.clone()), NAME, 2);
    let mut writer = generations.begin(GENERAL).unwrap();
    writer.section(b"a", 1, [("k", "v")]).unwrap();
    for key in ["", "a=b", "a%", ";a", "[a", " a", "a\nb", "\u{e9}"] {
        let refused = writer.section(b"bad", 1, [("k", "v"), (key, "v")]);
        assert!(matches!(refused, Err(WriteError::Key(_))), "{key}");
    }
    writer.section(b"b", 1, [("contact.1", "v")]).unwrap();
    assert_eq!(writer.finish().unwrap().bindings, 2);
    let names: Vec<_> = load(&memory, NAME).unwrap().1.into_iter().map(|s| s.0).collect();
    assert_eq!(names, [b"a", b"b"]);
}

#[test]
fn damaged_files_are_set_aside_and_an_older_one_is_used() {
    let memory = MemoryStorage::new();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    for n in 1..=3 {
        write(Arc::clone(&storage), 2, &vec![section(&n.to_string(), &[])]);
    }
    memory.put(NAME, b"");
    memory.put("regfile.snapshot.1", b"[general]\nversion=1\n");
    memory.put("regfile.snapshot.corrupt", b"of last year");
    let mut generations = Generations::new(storage, NAME, 2);
    let found = generations.newest().unwrap();
    let aside: Vec<_> =
        found.set_aside.iter().map(|s| (s.name.as_str(), s.renamed.as_deref().unwrap())).collect();
    assert_eq!(
        aside,
        [
            (NAME, "regfile.snapshot.corrupt.1"),
            ("regfile.snapshot.1", "regfile.snapshot.1.corrupt")
        ]
    );
    assert_eq!(found.snapshot.as_ref().unwrap().name(), "regfile.snapshot.2");
    assert_eq!(memory.bytes("regfile.snapshot.corrupt.1").unwrap(), b"");
    assert_eq!(memory.bytes("regfile.snapshot.corrupt").unwrap(), b"of last year");
    let again = generations.newest().unwrap();
    assert!(again.set_aside.is_empty() && again.snapshot.is_some());
}

#[test]
fn nothing_there_is_not_an_error_and_a_newer_version_is() {
    let memory = MemoryStorage::new();
    let mut generations = Generations::new(Arc::new(memory.clone()), NAME, 2);
    let found = generations.newest().unwrap();
    assert!(found.snapshot.is_none() && found.set_aside.is_empty());
    let mut newer = b"[general]\nversion=7\n\n".to_vec();
    newer.extend_from_slice(format!("; crc32={:08x}\n", crc32fast::hash(&newer)).as_bytes());
    memory.put(NAME, &newer);
    write(Arc::new(memory.clone()), 1, &fixture());
    memory.put(NAME, &newer);
    assert!(matches!(generations.newest(), Err(ReadError::Newer { found: 7, .. })));
    assert_eq!(memory.bytes(NAME).unwrap(), newer);
}

#[test]
fn real_files_are_for_the_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::create(&path).unwrap());
    std::fs::write(path.join("regfile.snapshot.tmp"), "left behind").unwrap();
    let written = write(Arc::clone(&storage), 1, &fixture());
    write(Arc::clone(&storage), 1, &fixture());
    write(Arc::clone(&storage), 1, &fixture());
    let mut names = storage.list().unwrap();
    names.sort();
    assert_eq!(names, [NAME, "regfile.snapshot.1"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for name in names {
        assert_eq!(mode(&path.join(&name)), 0o600);
        assert_eq!(load(storage.as_ref(), &name).unwrap(), (written, fixture()));
    }
    assert_eq!(written.bytes, std::fs::metadata(path.join(NAME)).unwrap().len());
}

fn any_sections() -> impl Strategy<Value = Sections> {
    let tricky = prop::collection::vec(
        prop::sample::select(b"a %$;[]=\\\r\n\t\0\x7f\x0b\xc3\xa9\xff.g".to_vec()),
        0..12,
    );
    let bytes = prop_oneof![tricky, any::<Vec<u8>>(), Just(b"general".to_vec())];
    let pairs = prop::collection::vec(("[A-Za-z0-9._-]{1,12}", bytes.clone()), 0..8);
    prop::collection::vec((bytes, pairs), 0..8)
}

proptest! {
    /// Made elsewhere, and given to the writer in pieces among those that it makes itself.
    #[test]
    fn sections_made_elsewhere_are_read_in_the_order_they_were_given(
        sections in any_sections(),
        elsewhere in prop::collection::vec(any::<bool>(), 8),
    ) {
        let memory = MemoryStorage::new();
        let whole = write(Arc::new(memory.clone()), 0, &sections);
        let mut generations = Generations::new(Arc::new(memory.clone()), NAME, 0);
        let mut writer = generations.begin(GENERAL).unwrap();
        let mut made = snapshot::Sections::default();
        for ((name, pairs), elsewhere) in sections.iter().zip(elsewhere) {
            let pairs = pairs.iter().map(|(key, value)| (key, value));
            if elsewhere {
                made.section(name, 2, pairs).unwrap();
            } else {
                writer.append(&mut made).unwrap();
                writer.section(name, 2, pairs).unwrap();
            }
        }
        writer.append(&mut made).unwrap();
        prop_assert_eq!(writer.finish().unwrap(), whole);
        prop_assert_eq!(load(&memory, NAME).unwrap(), (whole, sections));
    }

    /// Whoever knows the keys reads the values as they are, or nothing.
    #[test]
    fn plain_lines_are_the_pairs_that_need_no_escape(sections in any_sections()) {
        let memory = MemoryStorage::new();
        let named = |(name, pairs): (Vec<u8>, Pairs)| {
            (name, pairs.into_iter().map(|(_, value)| ("key".to_owned(), value)).collect())
        };
        write(Arc::new(memory.clone()), 0, &sections.into_iter().map(named).collect());
        read(&memory, NAME, |section| {
            let mut plain = section.plain();
            assert_eq!(plain.take(b"kex="), None);
            for (_, value) in section.pairs() {
                let is_plain = !value.iter().any(|b| *b < 0x20 || *b == 0x7f)
                    && value.last() != Some(&b'\\')
                    && value.first() != Some(&b' ')
                    && value.last() != Some(&b' ');
                assert_eq!(plain.take(b"key="), is_plain.then_some(&*value));
                if !is_plain {
                    return;
                }
            }
            assert!(plain.is_done());
        })
        .unwrap();
    }

    #[test]
    fn whatever_is_written_is_read(sections in any_sections()) {
        let memory = MemoryStorage::new();
        let written = write(Arc::new(memory.clone()), 2, &sections);
        let (summary, found) = load(&memory, NAME).unwrap();
        prop_assert_eq!(summary, written);
        prop_assert_eq!(found, sections);
    }
}
