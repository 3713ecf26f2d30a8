//! The real folder: the only file of this crate that touches the file system.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Input, Output, Storage, Syncer};

/// Bindings tell who is where: for the owner's eyes only.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder on disk.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    /// Open for syncing, and for the lock that ends with it.
    folder: File,
}

impl FileStorage {
    /// Opens the folder for writing, made with mode 0700 if it is missing (its parent is not).
    ///
    /// An existing folder keeps its mode: it may not be ours alone. The folder stays locked while
    /// the value lives; `ResourceBusy` says that another process has it, since two of them would
    /// take each other's temporaries for leftovers.
    pub fn create(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Ok(()) => sync_parent(path)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let storage = Self::open(path)?;
        match storage.folder.try_lock() {
            Ok(()) => Ok(storage),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                ErrorKind::ResourceBusy,
                format!("{} is in use by another process", path.display()),
            )),
            // Some network file systems can't lock a folder. That is no reason not to serve.
            Err(TryLockError::Error(_)) => Ok(storage),
        }
    }

    /// Opens an existing folder without a lock: to read what another program wrote.
    pub fn open(path: &Path) -> io::Result<Self> {
        let folder = File::open(path)?;
        if !folder.metadata()?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(Self { path: path.to_owned(), folder })
    }

    fn at(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a plain file name"));
        }
        Ok(self.path.join(name))
    }
}

impl Storage for FileStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) =
                (entry.file_type()?.is_file(), entry.file_name().into_string())
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        // `create_new` follows no symbolic link, so nobody can aim the write elsewhere. Not
        // `append`: with it, Linux would put a patch at the end as well.
        let file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(self.at(name)?)?;
        Ok(Box::new(FileOutput(Arc::new(file))))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Input>> {
        let file = File::open(self.at(name)?)?;
        let size = file.metadata()?.len();
        Ok(Box::new(FileInput { file, size }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from)?, self.at(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(name)?)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.folder.sync_all()
    }
}

struct FileOutput(Arc<File>);

impl Output for FileOutput {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.0).write_all(bytes)
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(FileSyncer(Arc::clone(&self.0)))
    }
}

struct FileSyncer(Arc<File>);

impl Syncer for FileSyncer {
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

struct FileInput {
    file: File,
    size: u64,
}

impl Input for FileInput {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        while !into.is_empty() {
            match self.file.read_at(into, offset) {
                Ok(0) => break,
                Ok(count) => {
                    total += count;
                    offset += count as u64;
                    into = into.split_at_mut(count).1;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }
}

/// Makes a new folder's own name durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent =
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_folder_and_its_files_are_for_the_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let storage = FileStorage::create(&path).unwrap();
        storage.create("a").unwrap().append(b"x").unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("a")), 0o600);
    }

    #[test]
    fn an_existing_folder_keeps_its_mode() {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        FileStorage::create(home.path()).unwrap();
        assert_eq!(mode(home.path()), 0o755);
    }

    #[test]
    fn one_process_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let first = FileStorage::create(home.path()).unwrap();
        let refused = FileStorage::create(home.path()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        FileStorage::open(home.path()).unwrap();
        drop(first);
        FileStorage::create(home.path()).unwrap();
    }

    #[test]
    fn append_patch_and_read() {
        let home = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(home.path()).unwrap();
        let mut file = storage.create("a").unwrap();
        file.append(b"hello ").unwrap();
        file.patch(0, b"J").unwrap();
        file.append(b"world").unwrap();
        file.sync().unwrap();
        storage.rename("a", "b").unwrap();
        storage.sync_folder().unwrap();
        let input = storage.open("b").unwrap();
        let mut read = [0; 32];
        assert_eq!((input.size(), input.read_at(0, &mut read).unwrap()), (11, 11));
        assert_eq!(&read[..11], b"Jello world");
        assert_eq!(storage.list().unwrap(), ["b"]);
        assert!(storage.open("a").is_err());
    }

    #[test]
    fn nothing_outside_the_folder_and_nothing_through_a_link() {
        let home = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(home.path()).unwrap();
        for name in ["", ".", "..", "../a", "/etc/passwd", "a/b"] {
            assert!(storage.create(name).is_err(), "{name}");
        }
        std::os::unix::fs::symlink("/nonexistent/target", home.path().join("link")).unwrap();
        assert!(storage.create("link").is_err());
        assert!(FileStorage::open(&home.path().join("link")).is_err());
    }
}
