//! Reading the newest snapshot at the start.

use std::sync::Arc;

use persist::{
    error::ReadError,
    snapshot::{Generations, Origin},
    storage::Storage,
};

use super::convert::record_into;
use crate::{
    location::{Cause, Location},
    registrar::AorRecord,
    time::Now,
    worker::Rules,
};

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bindings that are in force again, with the time they had left.
    pub bindings: u64,
    /// Bindings that ended while nobody was here.
    pub expired: u64,
    /// Bindings of AoRs that no longer have an account.
    pub orphaned: u64,
    /// Sections that could not be read; the log says which.
    pub unreadable: u64,
}

/// Why nothing can be restored, and why the program must not go on as if there were nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot, or the folder.
    #[error("the saved registrations can't be read: {0}")]
    Read(#[from] ReadError),
}

/// Fills `location` from the newest snapshot called `name` that is whole.
///
/// Files that can't be used are renamed and reported, never deleted.
///
/// # Errors
/// When the folder can't be read, or the snapshot is of a later version of this program.
pub fn restore(
    storage: Arc<dyn Storage>,
    name: &str,
    location: &Location,
    rules: &Rules,
    listeners: &[Box<str>],
    now: Now,
) -> Result<Restored, RestoreError> {
    let newest = Generations::new(storage, name, 0).newest()?;
    for aside in &newest.set_aside {
        match &aside.renamed {
            Ok(renamed) => {
                tracing::error!(file = aside.name, renamed, error = %aside.error, "set a damaged snapshot aside");
            }
            Err(error) => {
                tracing::error!(file = aside.name, %error, damage = %aside.error, "a damaged snapshot can't be set aside");
            }
        }
    }
    let mut restored = Restored::default();
    let Some(snapshot) = newest.snapshot else { return Ok(restored) };
    let file = snapshot.name().to_owned();
    if let Origin::Bindery { general, .. } = snapshot.summary().origin {
        location.raise_sequences(general.sequence);
    }
    let mut packed = Vec::new();
    snapshot.read(|section| {
        let name = section.name();
        let owned: Vec<_> = section.pairs().collect();
        let pairs = owned.iter().map(|(key, value)| (*key, value.as_ref()));
        let aor = rules.aor_of_section(&name);
        match record_into(&aor, pairs, now, listeners, &mut packed) {
            Ok(unpacked) => {
                restored.expired += unpacked.expired;
                let record =
                    AorRecord::new(&packed).filter(|r| !r.is_empty() || !r.nonces().is_empty());
                let Some(record) = record else { return };
                if !rules.has_account(record.aor()) {
                    restored.orphaned += unpacked.bindings;
                    return;
                }
                let stored = location
                    .update(&aor, now, Cause::Restored, |entry| entry.commit(record.as_bytes()));
                // A lowered `max_bindings` turns the rest away, like any other REGISTER.
                match stored {
                    Ok(()) => restored.bindings += unpacked.bindings,
                    Err(_) => restored.unreadable += 1,
                }
            }
            Err(what) => {
                restored.unreadable += 1;
                tracing::warn!(
                    file,
                    byte = section.offset(),
                    aor = %name.escape_ascii(),
                    what,
                    "left a saved registration out"
                );
            }
        }
    })?;
    Ok(restored)
}
