//! Sets of H(A1) one after the other in a flat array, without room for those not known.

use crate::auth::digest::Ha1Set;

/// Which hashes of a set are kept. They stand in the order MD5, SHA-256, SHA-512-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    md5: bool,
    sha256: bool,
    sha512_256: bool,
}

impl Present {
    /// Those known in `set`.
    pub(super) fn of(set: &Ha1Set) -> Self {
        Self {
            md5: set.md5.is_some(),
            sha256: set.sha256.is_some(),
            sha512_256: set.sha512_256.is_some(),
        }
    }

    /// How many octets they take.
    pub(super) fn packed_len(self) -> usize {
        16 * usize::from(self.md5)
            + 32 * usize::from(self.sha256)
            + 32 * usize::from(self.sha512_256)
    }

    /// The set at the start of `packed`.
    pub(super) fn unpack(self, mut packed: &[u8]) -> Ha1Set {
        Ha1Set {
            md5: take(self.md5, &mut packed),
            sha256: take(self.sha256, &mut packed),
            sha512_256: take(self.sha512_256, &mut packed),
        }
    }
}

/// Appends what is known in `set`.
pub(super) fn pack(set: &Ha1Set, out: &mut Vec<u8>) {
    out.extend(set.md5.iter().flatten());
    out.extend(set.sha256.iter().flatten());
    out.extend(set.sha512_256.iter().flatten());
}

fn take<const N: usize>(present: bool, packed: &mut &[u8]) -> Option<[u8; N]> {
    if !present {
        return None;
    }
    let (hash, rest) = packed.split_first_chunk::<N>()?;
    *packed = rest;
    Some(*hash)
}
