//! Short names that are told apart in any case, without comparing them octet by octet.

/// A name of 1 to 16 octets as two words, its letters in lower case.
///
/// A name of letters, digits and hyphens shares its words with no other of its length that is
/// visible ASCII, but for case. Up to 7 octets fit into one word; of more, the first eight and the
/// last eight may overlap.
#[inline]
pub(crate) const fn words(name: &[u8]) -> (u64, u64) {
    /// The bit that tells a lower-case letter from an upper-case one; digits and hyphens have it.
    const LOWER: u64 = u64::from_le_bytes([0x20; 8]);
    let (first, last) = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            (Some(&[a, b, c, d]), Some(&[e, f, g, h])) => {
                (u64::from_le_bytes([a, b, c, d, e, f, g, h]), 0)
            }
            _ => match *name {
                [a] => (u64::from_le_bytes([a, 0, 0, 0, 0, 0, 0, 0]), 0),
                [a, b] => (u64::from_le_bytes([a, b, 0, 0, 0, 0, 0, 0]), 0),
                [a, b, c] => (u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]), 0),
                _ => (0, 0),
            },
        },
    };
    (first | LOWER, last | LOWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_counts_but_not_its_case() {
        for len in 1..=16 {
            let name = vec![b'k'; len];
            assert_eq!(words(&name), words(name.to_ascii_uppercase().as_slice()));
            for at in 0..len {
                for other in *b"-._jl0" {
                    let mut changed = name.clone();
                    changed[at] = other;
                    assert_ne!(words(&name), words(&changed));
                }
            }
        }
    }

    #[test]
    fn octets_of_names_meet_nothing_visible_but_their_other_case() {
        for a in (0..128).filter(|b: &u8| b.is_ascii_alphanumeric() || *b == b'-') {
            for b in b'!'..=b'~' {
                assert_eq!(words(&[a]) == words(&[b]), a.eq_ignore_ascii_case(&b), "{a} {b}");
            }
        }
    }
}
