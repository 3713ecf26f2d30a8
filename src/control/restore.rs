//! What was saved, read while workers serve already.

use std::sync::Arc;

use persist::{snapshot::Generations, storage::Storage};

use super::node::Node;
use crate::{
    durability::{Basis, RestoreError, Restored, Saved},
    time::Clock,
};

/// Reads what was saved into the location service of a node that has started.
pub(super) struct Restorer {
    pub(super) node: Arc<Node>,
    pub(super) saved: Generations,
    pub(super) journals: Arc<dyn Storage>,
    /// The first generation of this process's own journal.
    pub(super) generation: u32,
    pub(super) names: Arc<[Box<str>]>,
}

impl Restorer {
    /// Reads all of it, joins it with what came meanwhile, and says so.
    ///
    /// # Errors
    /// Why it can't be read: nobody may go on as if there were nothing.
    pub(super) fn run(self) -> Result<(), RestoreError> {
        let Self { node, saved, journals, generation, names } = self;
        let started = node.clock.now();
        let rules = node.rules.load_full();
        let basis = Basis {
            rules: Some(&rules),
            listeners: &names,
            now: started,
            threads: usize::from(node.running.general.workers),
        };
        let mut saved = Saved { snapshots: saved, journals: &*journals };
        let mut restored = saved.restore(&node.location, generation, basis, &node.restoring)?;
        let now = node.clock.now();
        let early = node.change(|journal| node.location.end_loading(now, journal));
        // Of those whoever follows the changes is told. Or it was reloaded meanwhile, and accounts may
        // have gone since.
        if node.location.is_followed() || !Arc::ptr_eq(&rules, &node.rules.load_full()) {
            let removed = node.remove_orphans();
            restored.orphaned += removed;
            restored.bindings = restored.bindings.saturating_sub(removed);
        }
        let millis = node.clock.now().millis - started.millis;
        let restored = Restored { early, millis, ..restored };
        let _ = node.restored.set(restored);
        let Restored { bindings, expired, orphaned, changes, unreadable, damaged, .. } = restored;
        if bindings + expired + orphaned + changes + unreadable + damaged + early > 0 {
            tracing::info!(
                bindings,
                expired,
                orphaned,
                changes,
                unreadable,
                damaged,
                early,
                millis,
                "restored registrations"
            );
        }
        if changes > 0 {
            // So that the next start has less to read.
            node.ask_for_snapshot();
        }
        Ok(())
    }
}
