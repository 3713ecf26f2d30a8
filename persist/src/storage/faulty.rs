//! A storage that fails at a chosen step, for tests.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Input, Output, Storage, Syncer};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk flips the lowest bit of the first byte written or read, and says all is well.
    BitFlip,
    /// The process ends: half of a write is done, and no later step is.
    Crash,
    /// The device fails this step (EIO); the next ones work. If it was a sync, later syncs of the
    /// file succeed and do nothing, as Linux has it: what it could not write, it marks clean.
    Error,
    /// No room (ENOSPC), and half of a write is done; the next steps work.
    Full,
}

/// Another storage, with one fault. Clones share the count of steps.
#[derive(Clone)]
pub struct FaultyStorage(Arc<Shared>);

impl FaultyStorage {
    /// A storage that works until [`FaultyStorage::fail_at`].
    pub fn new(inner: impl Storage + 'static) -> Self {
        Self(Arc::new(Shared {
            inner: Box::new(inner),
            steps: AtomicU64::new(0),
            plan: RwLock::new(None),
            unreadable: RwLock::new(None),
        }))
    }

    /// Has the device fail each time that this file is to be read, until this is called again.
    pub fn refuse_reads_of(&self, name: Option<&str>) {
        let name = name.map(str::to_owned);
        *self.0.unreadable.write().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Counts from zero again, and lets `fault` happen at `step` (the first is 0).
    pub fn fail_at(&self, step: u64, fault: Fault) {
        *self.0.plan.write().unwrap_or_else(PoisonError::into_inner) = Some((step, fault));
        self.0.steps.store(0, Ordering::Relaxed);
    }

    /// How many steps were taken since the start or the last `fail_at`.
    pub fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }
}

impl Storage for FaultyStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.refuse()?;
        self.0.inner.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        self.0.refuse()?;
        let inner = self.0.inner.create(name)?;
        let lies = Arc::new(AtomicBool::new(false));
        Ok(Box::new(FaultyOutput { shared: Arc::clone(&self.0), lies, inner }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Input>> {
        self.0.refuse()?;
        let unreadable = self.0.unreadable.read().unwrap_or_else(PoisonError::into_inner);
        if unreadable.as_deref() == Some(name) {
            return Err(Fault::Error.error());
        }
        let inner = self.0.inner.open(name)?;
        Ok(Box::new(FaultyInput { shared: Arc::clone(&self.0), inner }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.refuse()?;
        self.0.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.refuse()?;
        self.0.inner.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.0.refuse()?;
        self.0.inner.sync_folder()
    }
}

struct Shared {
    inner: Box<dyn Storage>,
    unreadable: RwLock<Option<String>>,
    steps: AtomicU64,
    plan: RwLock<Option<(u64, Fault)>>,
}

impl Shared {
    /// Takes a step; says what befalls it, and whether this is the chosen step itself.
    fn step(&self) -> Option<(Fault, bool)> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let plan = *self.plan.read().unwrap_or_else(PoisonError::into_inner);
        let (at, fault) = plan?;
        (step == at || (step > at && fault == Fault::Crash)).then_some((fault, step == at))
    }

    /// A step that carries no bytes.
    fn refuse(&self) -> io::Result<()> {
        match self.step() {
            None | Some((Fault::BitFlip, _)) => Ok(()),
            Some((fault, _)) => Err(fault.error()),
        }
    }

    /// A step that syncs a file.
    fn sync(&self, lies: &AtomicBool, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.refuse().inspect_err(|_| lies.store(true, Ordering::Relaxed))?;
        if lies.load(Ordering::Relaxed) { Ok(()) } else { sync() }
    }

    /// A step that writes: how many of the bytes arrive, and what is answered.
    fn write(&self, bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.step() {
            None => write(bytes),
            Some((Fault::BitFlip, _)) => write(&flipped(bytes)),
            Some((fault @ (Fault::Crash | Fault::Full), true)) => {
                write(bytes.split_at(bytes.len() / 2).0)?;
                Err(fault.error())
            }
            Some((fault, _)) => Err(fault.error()),
        }
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => ErrorKind::StorageFull.into(),
            Self::Crash => io::Error::other("the process has ended"),
            Self::BitFlip | Self::Error => io::Error::other("input/output error"),
        }
    }
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    bytes
}

struct FaultyOutput {
    shared: Arc<Shared>,
    /// Whether a sync has failed, so that later ones succeed and do nothing.
    lies: Arc<AtomicBool>,
    inner: Box<dyn Output>,
}

impl Output for FaultyOutput {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shared.write(bytes, |part| self.inner.append(part))
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.shared.write(bytes, |part| self.inner.patch(offset, part))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.shared.sync(&self.lies, || self.inner.sync())
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        let (shared, lies) = (Arc::clone(&self.shared), Arc::clone(&self.lies));
        Box::new(FaultySyncer { shared, lies, inner: self.inner.syncer() })
    }
}

struct FaultySyncer {
    shared: Arc<Shared>,
    lies: Arc<AtomicBool>,
    inner: Box<dyn Syncer>,
}

impl Syncer for FaultySyncer {
    fn sync_data(&self) -> io::Result<()> {
        self.shared.sync(&self.lies, || self.inner.sync_data())
    }
}

struct FaultyInput {
    shared: Arc<Shared>,
    inner: Box<dyn Input>,
}

impl Input for FaultyInput {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let fault = self.shared.step();
        if let Some((fault @ (Fault::Crash | Fault::Error | Fault::Full), _)) = fault {
            return Err(fault.error());
        }
        let count = self.inner.read_at(offset, into)?;
        if fault.is_some() {
            into.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryStorage, Survival};
    use super::*;

    #[test]
    fn one_fault_then_all_is_well_but_a_crash_is_for_ever() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone());
        let mut file = storage.create("a").unwrap();
        storage.fail_at(0, Fault::Full);
        assert_eq!(file.append(b"abcd").unwrap_err().kind(), ErrorKind::StorageFull);
        file.append(b"ef").unwrap();
        assert_eq!(storage.steps(), 2);
        storage.fail_at(0, Fault::BitFlip);
        file.append(b"g").unwrap();
        assert_eq!(memory.bytes("a").unwrap(), b"abeff");
        storage.fail_at(0, Fault::Crash);
        assert!(file.append(b"xy").is_err());
        assert!(file.append(b"z").is_err());
        assert!(storage.list().is_err());
        assert_eq!(memory.bytes("a").unwrap(), b"abeffx");
    }

    #[test]
    fn a_sync_after_one_that_failed_is_a_lie() {
        let memory = MemoryStorage::new();
        let storage = FaultyStorage::new(memory.clone());
        let mut file = storage.create("a").unwrap();
        storage.sync_folder().unwrap();
        file.append(b"one").unwrap();
        storage.fail_at(0, Fault::Error);
        assert!(file.syncer().sync_data().is_err());
        file.sync().unwrap();
        file.syncer().sync_data().unwrap();
        assert_eq!(memory.crash(Survival::Nothing).bytes("a").unwrap(), b"");
    }
}
