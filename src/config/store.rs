//! Configuration files on disk: replaced whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mode of files that hold passwords.
pub const PRIVATE: u32 = 0o600;

/// Writes a file that must not exist yet.
///
/// # Errors
/// It exists, or can't be written.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // What is cut short would be taken for what it should have been.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Gives a file that can't be used another name, `*.corrupt` (`*.corrupt.1`… where that is taken),
/// which is the result: it is never deleted.
///
/// # Errors
/// It can't be renamed.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let named = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(".corrupt");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    };
    let free = (0..).map(named).find(|aside| std::fs::symlink_metadata(aside).is_err());
    let aside = free.unwrap_or_else(|| named(0));
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

/// A file that is about to be replaced, and nobody else's to replace meanwhile.
#[derive(Debug)]
pub struct Replacement {
    /// The file, symbolic links followed, so that a link stays one.
    path: PathBuf,
    /// The lock on its folder; it goes with this value.
    _lock: File,
}

impl Replacement {
    /// Waits until no other process edits files of this folder. The file need not exist.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let folder = File::open(folder_of(&path))?;
        folder.lock()?;
        Ok(Self { path, _lock: folder })
    }

    /// The present content; a missing file is empty.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// Puts `content` in place of the file, with its mode and owner, once `check` has approved of
    /// the finished file beside it. A crash leaves the old file or the new one.
    ///
    /// # Errors
    /// The check's, or one of writing; the file is as it was.
    pub fn commit<E: From<io::Error>>(
        self,
        content: &[u8],
        check: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        // Hidden, so that no `[$include FOLDER]` takes it for a file of the configuration.
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let draft = self.path.with_file_name(format!(".{name}.new"));
        let done = self.write_draft(&draft, content).map_err(E::from).and_then(|()| {
            check(&draft)?;
            std::fs::rename(&draft, &self.path)?;
            File::open(folder_of(&self.path))?.sync_all()?;
            Ok(())
        });
        if done.is_err() {
            // Already renamed or never written: nothing to take away then.
            let _ = std::fs::remove_file(&draft);
        }
        done
    }

    fn write_draft(&self, draft: &Path, content: &[u8]) -> io::Result<()> {
        // One that a crash left behind; the lock says that nobody is writing it.
        match std::fs::remove_file(draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(draft)?;
        let old = std::fs::metadata(&self.path);
        // A first file belongs to whom its folder belongs to. Else the server, which runs as
        // another user than who edits, couldn't read it.
        let model = match &old {
            Ok(old) => old.clone(),
            Err(_) => std::fs::metadata(folder_of(&self.path))?,
        };
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (model.uid(), model.gid()) {
            std::os::unix::fs::fchown(&file, Some(model.uid()), Some(model.gid()))?;
        }
        if let Ok(old) = old {
            file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(content)?;
        file.sync_all()
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        for name in ["key.corrupt", "key.corrupt.1", "key.corrupt.2"] {
            std::fs::write(&file, name).unwrap();
            let aside = set_aside(&file).unwrap();
            assert_eq!(aside, folder.path().join(name));
            assert_eq!(std::fs::read_to_string(aside).unwrap(), name);
        }
        assert!(set_aside(&file).is_err());
    }

    #[test]
    fn a_replacement_keeps_mode_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        create(&file, b"old", 0o640).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let replacement = Replacement::begin(&link).unwrap();
        assert_eq!(replacement.read().unwrap(), b"old");
        replacement.commit(b"new", |_| Ok::<(), io::Error>(())).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(link.is_symlink());
    }

    #[test]
    fn what_the_check_refuses_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let replacement = Replacement::begin(&file).unwrap();
        let refused = replacement.commit(b"new", |draft| {
            assert_eq!(std::fs::read(draft)?, b"new");
            assert_eq!(std::fs::metadata(draft)?.mode() & 0o777, PRIVATE);
            Err(io::Error::other("no"))
        });
        assert_eq!(refused.unwrap_err().to_string(), "no");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_created_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        create(&file, b"x", PRIVATE).unwrap();
        assert_eq!(create(&file, b"y", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
}
