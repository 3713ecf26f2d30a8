//! Credentials that requests other than REGISTER were let through with: none is good twice.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::time::{DeltaSeconds, Now};

/// How many a part remembers; with more, the older half is forgotten early.
const MOST: usize = 1 << 14;

/// Parts with a lock each, so that workers seldom wait for each other, and never for long.
const PARTS: usize = 64;

/// What was used in the lifetime of a nonce, by a hash.
///
/// A REGISTER's nonce counts are kept with the bindings that it changes, and outlive the process. A
/// caller may have no bindings, and a call that is set up again after a restart is no great gain for
/// who has seen its credentials: it goes to the same callee.
#[derive(Debug)]
pub struct Spent {
    parts: Box<[Mutex<Used>]>,
}

impl Default for Spent {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }
}

#[derive(Debug, Default)]
struct Used {
    newer: HashSet<u64>,
    older: HashSet<u64>,
    turned: u64,
}

impl Spent {
    /// Takes note of credentials; `false` if they were used before.
    pub(super) fn spend(&self, now: Now, lifetime: DeltaSeconds, hash: u64) -> bool {
        let part = usize::try_from(hash % PARTS as u64).unwrap_or(0);
        let Some(part) = self.parts.get(part) else { return false };
        let mut used = part.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = now.millis >= used.turned + 1000 * u64::from(lifetime.0);
        if is_time || used.newer.len() >= MOST {
            used.older = std::mem::take(&mut used.newer);
            used.turned = now.millis;
        }
        !used.older.contains(&hash) && used.newer.insert(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_good_twice_while_its_nonce_lives() {
        let spent = Spent::default();
        let at = |second: u64| Now { millis: second * 1000, unix: second };
        let spend = |second, hash| spent.spend(at(second), DeltaSeconds(300), hash);
        let [one, two, three, four] = [1, 2, 3, 4].map(|n| n * PARTS as u64);
        assert!(spend(1000, one) && !spend(1001, one) && spend(1001, two));
        assert!(!spend(1299, two) && !spend(1301, two));
        assert!(spend(1301, three) && !spend(1600, three));
        // By then no nonce of that time is taken any more.
        assert!(spend(2000, four) && spend(2000, one));
    }
}
