//! User-Agents, kept once each: a fleet of phones calls itself by a few names.
//!
//! A packed binding holds a number in the place of the text. The numbers are of this process only,
//! and never leave it. Places are not freed, so a name has to be worth one: it gets it when a user
//! brings it and the last one who did was another. One account, whatever names it makes up, fills
//! nothing; two that help each other can, and so can anybody where nobody has to authenticate. A name
//! without a place stays with its binding: nothing but memory is lost, some twenty octets for each
//! binding that there is. Refreshes don't come here: their binding stays packed as it is.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Names that are kept: more than an operator has models and firmwares, and 128 KiB at most, as
/// none is longer than 64 octets.
pub const PLACES: usize = 2048;

/// Octets of the longest name that is kept.
const LONGEST: usize = 64;

/// Places that are tried for a name.
const TRIES: usize = 8;

/// Names that wait for a second user, 16 KiB; one more replaces another.
const WAITING: usize = 2048;

static AGENTS: [OnceLock<Box<[u8]>>; PLACES] = [const { OnceLock::new() }; PLACES];

/// Hashes of a name without a place and of the user who brought it last.
static BROUGHT: [AtomicU64; WAITING] = [const { AtomicU64::new(0) }; WAITING];

/// The number of a name that `aor` brings. It gets one if there is room and `aor` is not the only
/// one to bring it.
pub(super) fn number_of(agent: &[u8], aor: &[u8]) -> Option<u16> {
    find(agent, |hash| is_shared(hash, aor))
}

/// The number of a name, if it has one.
pub(super) fn known(agent: &[u8]) -> Option<u16> {
    find(agent, |_| false)
}

fn find(agent: &[u8], deserves_place: impl FnOnce(u32) -> bool) -> Option<u16> {
    if !(1..=LONGEST).contains(&agent.len()) {
        return None;
    }
    // FNV-1a: who brings names that meet finds no place for them, and harms nobody else.
    let hash = fnv(agent);
    let first = usize::try_from(hash ^ hash >> 16).unwrap_or_default();
    let tried = (0..TRIES).map(|step| first.wrapping_add(step) % PLACES);
    let is_it = |at: &usize| AGENTS[*at].get().is_none_or(|name| **name == *agent);
    let at = tried.clone().find(is_it)?;
    if AGENTS[at].get().is_none() {
        if !deserves_place(hash) {
            return None;
        }
        // Another thread may have given it to another name meanwhile; then the next time will do.
        if **AGENTS[at].get_or_init(|| agent.into()) != *agent {
            return None;
        }
    }
    u16::try_from(at).ok()
}

/// Whether another user than that of `aor` brought the name with this hash before.
fn is_shared(hash: u32, aor: &[u8]) -> bool {
    // One account may have the same user in several domains.
    let user = memchr::memrchr(b'@', aor).and_then(|at| aor.get(..at)).unwrap_or(aor);
    let entry = u64::from(hash) << 32 | u64::from(fnv(user));
    let place = usize::try_from(hash).unwrap_or_default() % WAITING;
    let before = BROUGHT[place].swap(entry, Relaxed);
    before >> 32 == entry >> 32 && before != entry
}

fn fnv(octets: &[u8]) -> u32 {
    let step = |hash: u32, &octet: &u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    octets.iter().fold(0x811c_9dc5, step)
}

/// The name with this number.
pub(super) fn name_of(number: u16) -> Option<&'static [u8]> {
    AGENTS.get(usize::from(number))?.get().map(|name| &**name)
}

/// How many of the [`PLACES`] are taken.
pub fn places_taken() -> usize {
    AGENTS.iter().filter(|place| place.get().is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a name that two users bring.
    fn number(agent: &[u8]) -> Option<u16> {
        number_of(agent, b"alice");
        number_of(agent, b"bob")
    }

    #[test]
    fn a_name_keeps_its_number() {
        let (a, b) = (number(b"A Phone/1.0").unwrap(), number(b"A Phone/2.0").unwrap());
        assert_ne!(a, b);
        assert_eq!(number_of(b"A Phone/1.0", b"carol"), Some(a));
        assert_eq!(known(b"A Phone/1.0"), Some(a));
        assert_eq!(
            (name_of(a), name_of(b)),
            (Some(&b"A Phone/1.0"[..]), Some(&b"A Phone/2.0"[..]))
        );
    }

    #[test]
    fn a_name_of_one_user_gets_no_place() {
        let agent = b"One of a kind/1.0";
        for aor in [&b"alice"[..], b"alice@example.com", b"alice@example.net", b"alice"] {
            assert_eq!((number_of(agent, aor), known(agent)), (None, None));
        }
        let number = number_of(agent, b"bob@example.com");
        assert!(number.is_some());
        assert_eq!(number_of(agent, b"alice"), number);
        assert!((1..=PLACES).contains(&places_taken()));
    }

    #[test]
    fn what_is_not_worth_a_place_gets_none() {
        assert_eq!(number(b""), None);
        assert_eq!(number(&[b'x'; LONGEST + 1]), None);
        assert_eq!(name_of(u16::MAX), None);
    }
}
