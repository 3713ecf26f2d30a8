//! State folders that no process serves from: looked at, printed, tidied up.

use std::{io, sync::Arc};

use persist::{
    error::{StorageError, WriteError},
    journal::{self, Segment, SegmentId},
    snapshot::{self, General, Generations, Origin},
    storage::{Input, Output, Storage},
};

use super::{
    change::{Change, Found},
    convert::record_of_section,
    recovery::{Basis, Outlook, Progress, RestoreError, Restored, Saved},
    room,
    snapshotter::{Limit, Table, Taken, prune, write_together},
};
use crate::{
    flow::ListenerId,
    location::Location,
    time::{Clock, Now},
};

/// A state folder.
pub struct Folder {
    storage: Arc<dyn Storage>,
    /// The folder with the snapshots, where it is another one, and their name.
    snapshots: Arc<dyn Storage>,
    name: String,
}

/// One file, and what is wrong with it.
#[derive(Debug, Default)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its length in octets; zero if it can't be read.
    pub bytes: u64,
    /// When it was begun, in Unix seconds.
    pub begun: Option<u64>,
    /// Sections or changes.
    pub records: u64,
    /// Bindings, in a snapshot.
    pub bindings: Option<u64>,
    /// What is wrong with it, a sentence each.
    pub damage: Vec<String>,
    /// What is as a crash leaves it, and costs nothing that was acknowledged.
    pub notes: Vec<String>,
}

/// Why a folder can't be compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// It can't be read.
    #[error("{0}")]
    Restore(#[from] RestoreError),
    /// The new snapshot can't be written.
    #[error("the new snapshot can't be written: {0}")]
    Write(#[from] WriteError),
    /// It can't be listed.
    #[error("{0}")]
    Storage(#[from] StorageError),
}

/// What is in a folder, in memory.
pub struct Contents {
    /// The bindings.
    pub location: Location,
    /// The names of listeners, by number.
    pub listeners: Vec<Box<str>>,
    /// What was restored, and what was not.
    pub restored: Restored,
    outlook: Outlook,
}

impl Contents {
    /// The name of a listener.
    pub fn listener(&self, id: ListenerId) -> Option<&str> {
        self.listeners.get(usize::from(id.0)).map(|name| &**name).filter(|name| !name.is_empty())
    }
}

impl Folder {
    /// The folder `storage`, with the snapshots called `name` in `snapshots`.
    pub fn new(storage: Arc<dyn Storage>, snapshots: Arc<dyn Storage>, name: &str) -> Self {
        Self { storage, snapshots, name: name.to_owned() }
    }

    /// Reads every file that a start would, and those that it would only if newer ones were
    /// damaged; nothing is renamed.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn verify(&self, now: Now) -> Result<Vec<File>, StorageError> {
        let generations = Generations::new(Arc::clone(&self.snapshots), &self.name, 0);
        let (mut files, mut general) = (Vec::new(), None);
        for name in generations.names()? {
            let (file, found) = self.verify_snapshot(&name, now);
            if file.damage.is_empty() {
                general = general.or(found);
            }
            files.push(file);
        }
        let mut read = Vec::new();
        for id in journal::segments(&*self.storage)? {
            let (file, segment) = self.verify_segment(id, now);
            files.push(file);
            read.extend(segment);
        }
        // As a start looks at them: from the newest snapshot on that can be used.
        let snapshot = general.map(|general| (general.journal.unwrap_or(0), general.writers));
        for journal::Missing { id, is_empty } in journal::missing(&read, snapshot) {
            let name = id.to_string();
            let what = match is_empty {
                true => "it is empty, and others of its generation are not: changes were lost",
                false => "it is missing: changes may be lost",
            };
            match files.iter_mut().find(|file| file.name == name) {
                Some(file) => file.damage.push(what.to_owned()),
                None => {
                    files.push(File { name, damage: vec![what.to_owned()], ..File::default() });
                }
            }
        }
        Ok(files)
    }

    fn verify_snapshot(&self, name: &str, now: Now) -> (File, Option<General>) {
        let bytes = self.snapshots.open(name).map_or(0, |file| file.size());
        let mut file = File { name: name.to_owned(), bytes, ..File::default() };
        let mut newest = None;
        let (mut packed, found, mut unreadable) = (Vec::new(), Found::default(), 0_u64);
        let read = snapshot::verify(&*self.snapshots, name).and_then(|verified| {
            verified.read(|section| {
                let name = section.name();
                let read = record_of_section(&name, &section, now, &found, &mut packed);
                unreadable += u64::from(read.is_err());
            })
        });
        match read {
            Ok(summary) => {
                file.bytes = summary.bytes;
                (file.records, file.bindings) = (summary.sections, Some(summary.bindings));
                match summary.origin {
                    Origin::Bindery { general, .. } => {
                        (file.begun, newest) = (Some(general.written), Some(general));
                    }
                    Origin::Yate => file.notes.push("saved by Yate".to_owned()),
                }
                if summary.dropped > 0 {
                    file.damage.push(format!("{} sections are cut short", summary.dropped));
                }
            }
            Err(error) => file.damage.push(error.to_string()),
        }
        if unreadable > 0 {
            file.damage.push(format!("{unreadable} sections can't be used"));
        }
        (file, newest)
    }

    fn verify_segment(&self, id: SegmentId, now: Now) -> (File, Option<Segment>) {
        let name = id.to_string();
        let bytes = self.storage.open(&name).map_or(0, |file| file.size());
        let mut file = File { name, bytes, ..File::default() };
        let (mut packed, found, mut unreadable) = (Vec::new(), Found::default(), 0_u64);
        let read = journal::read(&*self.storage, id, |record| {
            let change = Change::decode(record.octets);
            let is_read = change.is_some_and(|change| {
                change.is_refresh() || change.pack(change.aor, now, &found, &mut packed).is_some()
            });
            unreadable += u64::from(!is_read);
        });
        match &read {
            Ok(segment) => {
                (file.bytes, file.records) = (segment.bytes, segment.records);
                file.begun = segment.begun;
                if let Some(torn) = segment.torn {
                    let journal::Gap { offset, bytes } = torn;
                    file.notes
                        .push(format!("its end was not written: {bytes} octets from {offset}"));
                }
                for journal::Gap { offset, bytes } in &segment.holes {
                    file.damage.push(format!("a hole of {bytes} octets at {offset}"));
                }
            }
            Err(error) => file.damage.push(error.to_string()),
        }
        if unreadable > 0 {
            file.damage.push(format!("{unreadable} changes can't be used"));
        }
        (file, read.ok())
    }

    /// Reads all that a start would, without a look at accounts; nothing is renamed.
    ///
    /// # Errors
    /// As at a start.
    pub fn contents(&self, now: Now, threads: usize) -> Result<Contents, RestoreError> {
        let untouched = |storage: &Arc<dyn Storage>| {
            Arc::new(ReadOnly(Arc::clone(storage))) as Arc<dyn Storage>
        };
        self.read(&untouched(&self.storage), untouched(&self.snapshots), now, threads)
    }

    fn read(
        &self,
        journals: &Arc<dyn Storage>,
        snapshots: Arc<dyn Storage>,
        now: Now,
        threads: usize,
    ) -> Result<Contents, RestoreError> {
        let mut saved = Saved {
            // Nothing is written, so none go.
            snapshots: Generations::new(snapshots, &self.name, 0),
            journals: &**journals,
        };
        let outlook = saved.outlook()?;
        // Nobody aims at this one's shards.
        let location = Location::new([0; 16], 0);
        let found = Found::default();
        let basis = Basis { rules: None, listeners: &found, now, threads };
        let restored = saved.restore(&location, outlook.generation, basis, &Progress::default())?;
        Ok(Contents { location, listeners: found.names(), restored, outlook })
    }

    /// Writes what a start would restore as a new snapshot, and removes the segments of the journal
    /// that neither it nor any of the `keep` older ones that stay needs; none where anything is
    /// damaged, so that what is left of it can still be looked at. The last number is how many
    /// segments stay.
    ///
    /// On a disk that is full, what only older snapshots need goes first.
    ///
    /// # Errors
    /// Then everything is as it was, but for damaged files, which are renamed.
    pub fn compact(
        &self,
        clock: &(impl Clock + Sync),
        threads: usize,
        keep: usize,
    ) -> Result<(Restored, Taken, usize), CompactError> {
        let now = clock.now();
        let contents = self.read(&self.storage, Arc::clone(&self.snapshots), now, threads)?;
        let Contents { location, listeners, restored, outlook } = contents;
        let sequence = outlook.sequence.max(location.sequence());
        let general =
            General { sequence, written: now.unix, journal: Some(outlook.generation), writers: 0 };
        let mut generations = Generations::new(Arc::clone(&self.snapshots), &self.name, keep);
        let table = Table { location: &location, listeners: &listeners, clock };
        let limit = Limit::none(now);
        let mut taken = write_together(&mut generations, general, &table, threads, limit);
        let is_whole = restored.damaged + restored.unreadable == 0;
        if is_whole && room::is_full(&taken) && room::make_room(&generations, &*self.storage) {
            taken = write_together(&mut generations, general, &table, threads, limit);
        }
        let taken = taken.map_err(WriteError::from)?;
        if is_whole {
            prune(&generations, &*self.storage);
        }
        Ok((restored, taken, journal::segments(&*self.storage)?.len()))
    }
}

/// A folder in which nothing is changed.
struct ReadOnly(Arc<dyn Storage>);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for ReadOnly {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn Output>> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Input>> {
        self.0.open(name)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_folder(&self) -> io::Result<()> {
        refused()
    }
}
