//! User-Agents, kept once each: a fleet of phones calls itself by a few names.
//!
//! A packed binding holds a number in the place of the text. The numbers are of this process only,
//! and never leave it. Who is not authenticated stores no binding, so strangers don't get here; a
//! name that finds no place stays with its binding, and nothing but memory is lost.

use std::sync::OnceLock;

/// Names that are kept: more than an operator has models and firmwares, and 128 KiB at most, as
/// none is longer than [`LONGEST`].
const PLACES: usize = 2048;

/// Octets of the longest name that is kept.
const LONGEST: usize = 64;

/// Places that are tried for a name.
const TRIES: usize = 8;

static AGENTS: [OnceLock<Box<[u8]>>; PLACES] = [const { OnceLock::new() }; PLACES];

/// The number of a name, which it gets if there is room.
pub(super) fn number_of(agent: &[u8]) -> Option<u16> {
    if !(1..=LONGEST).contains(&agent.len()) {
        return None;
    }
    // FNV-1a: who brings names that meet finds no place for them, and harms nobody else.
    let hash = agent
        .iter()
        .fold(0x811c_9dc5_u32, |hash, &octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let first = usize::try_from(hash ^ hash >> 16).unwrap_or_default();
    let tried = (0..TRIES).map(|step| first.wrapping_add(step) % PLACES);
    let mut free = tried.filter(|&at| **AGENTS[at].get_or_init(|| agent.into()) == *agent);
    u16::try_from(free.next()?).ok()
}

/// The name with this number.
pub(super) fn name_of(number: u16) -> Option<&'static [u8]> {
    AGENTS.get(usize::from(number))?.get().map(|name| &**name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let (a, b) = (number_of(b"A Phone/1.0").unwrap(), number_of(b"A Phone/2.0").unwrap());
        assert_ne!(a, b);
        assert_eq!(number_of(b"A Phone/1.0"), Some(a));
        assert_eq!(
            (name_of(a), name_of(b)),
            (Some(&b"A Phone/1.0"[..]), Some(&b"A Phone/2.0"[..]))
        );
    }

    #[test]
    fn what_is_not_worth_a_place_gets_none() {
        assert_eq!(number_of(b""), None);
        assert_eq!(number_of(&[b'x'; LONGEST + 1]), None);
        assert_eq!(name_of(u16::MAX), None);
    }
}
