//! A snapshot's name and its older generations: `NAME`, `NAME.1`, `NAME.2`…, newest first.

use std::sync::Arc;

use super::reader::general_of;
use super::{Checking, General, Verified, Writer};
use crate::error::{ReadError, StorageError};
use crate::storage::{self, FOLDER, Storage};

/// A snapshot's generations in one folder.
///
/// Methods that change them take `&mut self`: two writers at once would share a temporary.
pub struct Generations {
    storage: Arc<dyn Storage>,
    name: String,
    keep: usize,
}

/// What [`Generations::newest`] found.
pub struct Newest {
    /// The newest usable generation, checked but not yet read; `None` if there is none.
    pub snapshot: Option<Verified>,
    /// Newer files that can't be used, in the order they were tried.
    pub set_aside: Vec<SetAside>,
}

/// A file that can't be used.
#[derive(Debug)]
pub struct SetAside {
    /// The name it had.
    pub name: String,
    /// The name it has, or why it could not be renamed.
    pub renamed: Result<String, StorageError>,
    /// What is wrong with it.
    pub error: ReadError,
}

impl Generations {
    /// The generations of `name`, of which a new snapshot leaves `keep` older ones.
    pub fn new(storage: Arc<dyn Storage>, name: &str, keep: usize) -> Self {
        Self { storage, name: name.to_owned(), keep }
    }

    /// Starts a snapshot. A temporary left by a process that was killed is removed.
    pub fn begin(&mut self, general: General) -> Result<Writer<'_>, StorageError> {
        let temporary = format!("{}.tmp", self.name);
        if self.list()?.contains(&temporary) {
            self.storage.remove(&temporary).map_err(StorageError::of("remove", &temporary))?;
        }
        let file =
            self.storage.create(&temporary).map_err(StorageError::of("create", &temporary))?;
        Writer::new(self, temporary, file, general)
    }

    /// Finds the newest usable generation, and renames newer ones that are damaged or unreadable
    /// to `*.corrupt` (`*.corrupt.1`… where that is taken); nothing is deleted.
    ///
    /// An error means that nothing can be decided and nothing was moved: the folder or a file
    /// can't be opened, or a file is of a newer format version, from which going back to an older
    /// generation would quietly lose what the newer program stored.
    pub fn newest(&mut self) -> Result<Newest, ReadError> {
        self.newest_checked_by(Checking::run)
    }

    /// Does the same; `check` may call [`Checking::run`] from several threads for each file, and
    /// look at how far it is. What it leaves is done after it.
    pub fn newest_checked_by(
        &mut self,
        mut check: impl FnMut(&Checking),
    ) -> Result<Newest, ReadError> {
        let mut set_aside = Vec::new();
        for name in self.names()? {
            let checked = Checking::open(self.storage.as_ref(), &name).and_then(|checking| {
                check(&checking);
                checking.finish()
            });
            let error = match checked {
                Ok(snapshot) => return Ok(Newest { snapshot: Some(snapshot), set_aside }),
                // A sector that can't be read is damage like any other.
                Err(ReadError::Storage(error)) if error.action == "read" => error.into(),
                Err(error @ ReadError::Damaged { .. }) => error,
                Err(error) => return Err(error),
            };
            let renamed = storage::set_aside(self.storage.as_ref(), &name);
            set_aside.push(SetAside { name, renamed, error });
        }
        Ok(Newest { snapshot: None, set_aside })
    }

    /// The generation of the journal before which segments are needed no more: by none of the
    /// snapshots that are kept, so that an older one with its segments can stand in for each newer
    /// one. Zero while there are fewer snapshots than are to be kept: until then the oldest state
    /// to go back to is that of nobody registered.
    ///
    /// Only heads are read. An error means that nothing can be pruned this time.
    pub fn journal_needed(&self) -> Result<u32, ReadError> {
        let names = self.list()?;
        let mut needed = u32::MAX;
        for number in 0..=self.keep {
            let name = self.at(number);
            if !names.contains(&name) {
                return Ok(0);
            }
            let general = general_of(self.storage.as_ref(), &name)?;
            needed = needed.min(general.and_then(|general| general.journal).unwrap_or(0));
        }
        Ok(needed)
    }

    /// Does the same for the newest snapshot alone: what only older ones need may go if there is no
    /// other way to make room for the next.
    ///
    /// # Errors
    /// The snapshot's head can't be read: nothing can be said.
    pub fn journal_needed_by_newest(&self) -> Result<u32, ReadError> {
        if !self.list()?.contains(&self.name) {
            return Ok(0);
        }
        let general = general_of(self.storage.as_ref(), &self.name)?;
        Ok(general.and_then(|general| general.journal).unwrap_or(0))
    }

    /// Removes generations beyond `keep`, which a new snapshot does only when it is there. The
    /// result is how many went.
    pub fn drop_surplus(&self) -> usize {
        let names = self.list().unwrap_or_default();
        let surplus = names.iter().filter(|name| self.number(name).is_some_and(|n| n > self.keep));
        surplus.filter(|name| self.storage.remove(name).is_ok()).count()
    }

    /// What the generations say of themselves, without a look at what follows their heads; Yate's,
    /// and those whose head can't be read, are left out.
    pub fn heads(&self) -> Result<Vec<General>, StorageError> {
        let general = |name: String| general_of(self.storage.as_ref(), &name).ok()?;
        Ok(self.names()?.into_iter().filter_map(general).collect())
    }

    /// The names of all generations that are there, the newest first.
    pub fn names(&self) -> Result<Vec<String>, StorageError> {
        let names = self.list()?;
        let mut numbers: Vec<usize> = names.iter().filter_map(|name| self.number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| self.at(number)).collect())
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Moves the older generations on by one, as far as the first free place, and gives the
    /// temporary the name. Each step is one rename, so any of them may be the last.
    pub(super) fn publish(&self, temporary: &str) -> Result<(), StorageError> {
        let names = self.list()?;
        let free = (0..self.keep).find(|&n| !names.contains(&self.at(n))).unwrap_or(self.keep);
        for number in (0..free).rev() {
            self.rename(&self.at(number), &self.at(number + 1))?;
        }
        self.rename(temporary, &self.name)
    }

    /// Makes a publication durable, then removes generations beyond `keep`.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        self.sync_folder()?;
        // They are there only if `keep` was larger once. The snapshot stands whether or not they
        // go, and the next one tries again.
        self.drop_surplus();
        Ok(())
    }

    /// The name of a generation; 0 is the newest.
    fn at(&self, number: usize) -> String {
        if number == 0 { self.name.clone() } else { format!("{}.{number}", self.name) }
    }

    fn number(&self, name: &str) -> Option<usize> {
        let rest = name.strip_prefix(&self.name)?;
        let number = if rest.is_empty() { 0 } else { rest.strip_prefix('.')?.parse().ok()? };
        (self.at(number) == name).then_some(number)
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.storage.list().map_err(StorageError::of("list", FOLDER))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.storage.rename(from, to).map_err(StorageError::of("rename", from))
    }

    fn sync_folder(&self) -> Result<(), StorageError> {
        self.storage.sync_folder().map_err(StorageError::of("sync", FOLDER))
    }
}
