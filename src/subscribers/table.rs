//! From a name's hash to its account: open addressing over one flat array.

/// A table of positions by 32-bit hash. Names themselves stand elsewhere and are compared by the
/// caller, so that a slot takes eight octets.
#[derive(Clone, Debug, Default)]
pub(super) struct NameTable {
    /// The hash in the upper half, the position in the lower; the length is a power of two.
    slots: Vec<u64>,
    len: usize,
}

/// No account has this position.
const EMPTY: u64 = u64::MAX;

/// The first size, in slots.
const SMALLEST: usize = 16;

impl NameTable {
    /// The position under `hash` for which `is_it` holds.
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = index(hash) & mask;
        loop {
            let slot = *self.slots.get(at)?;
            if slot == EMPTY {
                return None;
            }
            let position = position(slot);
            if slot >> 32 == u64::from(hash) && is_it(position) {
                return Some(position);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a position that isn't there yet.
    pub(super) fn insert(&mut self, hash: u32, position: u32) {
        // Four fifths full, a miss costs a handful of neighbouring slots.
        if (self.len + 1) * 5 > self.slots.len() * 4 {
            let larger = vec![EMPTY; (self.slots.len() * 2).max(SMALLEST)];
            for slot in std::mem::replace(&mut self.slots, larger) {
                if slot != EMPTY {
                    self.place(slot);
                }
            }
        }
        self.place(u64::from(hash) << 32 | u64::from(position));
        self.len += 1;
    }

    fn place(&mut self, new: u64) {
        let mask = self.slots.len().saturating_sub(1);
        let mut at = index(fold_upper(new)) & mask;
        // Ends: the table is never full.
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == EMPTY {
                *slot = new;
                return;
            }
            at = (at + 1) & mask;
        }
    }
}

/// The 32 bits of a 64-bit hash that the table keeps.
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a hash is a hash")]
pub(super) fn fold(hash: u64) -> u32 {
    hash as u32
}

fn fold_upper(slot: u64) -> u32 {
    fold(slot >> 32)
}

fn position(slot: u64) -> usize {
    index(fold(slot))
}

/// A `usize` has at least 32 bits wherever this runs.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
