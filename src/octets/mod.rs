//! Reading short texts many octets at a time: what parsing a message mostly is.
//!
//! Names, tokens and URIs are 3 to 40 octets long. [`Class::run`] and [`find`] take 16 of them per
//! step where the compiler may use SSSE3 (`.cargo/config.toml`), and one by one elsewhere; both ways
//! are in every build of the tests.

#[cfg(all(target_arch = "x86_64", target_feature = "ssse3"))]
mod ssse3;

/// A set of octets: any of ASCII, and all beyond ASCII or none.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    set: [bool; 256],
    /// For each low nibble the ASCII octets of the set, a bit for each high nibble.
    #[cfg_attr(not(target_feature = "ssse3"), expect(dead_code, reason = "SSSE3's"))]
    rows: [u8; 16],
}

impl Class {
    /// Letters, digits, and `more`.
    pub(crate) const fn alphanumeric_and(more: &[u8]) -> Self {
        let mut class = Self { set: [false; 256], rows: [0; 16] };
        let mut byte = 0_u8;
        while byte < 128 {
            if byte.is_ascii_alphanumeric() {
                class = class.with(byte);
            }
            byte += 1;
        }
        let mut at = 0;
        while at < more.len() {
            class = class.with(more[at]);
            at += 1;
        }
        class
    }

    /// The octets in `few`, which are ASCII.
    pub(crate) const fn only(few: &[u8]) -> Self {
        let mut class = Self { set: [false; 256], rows: [0; 16] };
        let mut at = 0;
        while at < few.len() {
            class = class.with(few[at]);
            at += 1;
        }
        class
    }

    /// These, without the ASCII control characters.
    pub(crate) const fn and_no_control(mut self) -> Self {
        let mut byte = 0;
        while byte < 32 {
            self = self.without(byte);
            byte += 1;
        }
        self.without(127)
    }

    const fn without(mut self, byte: u8) -> Self {
        self.set[byte as usize] = false;
        self.rows[(byte & 15) as usize] &= !(1 << (byte >> 4));
        self
    }

    /// All octets but the ASCII ones in `few`.
    pub(crate) const fn all_but(few: &[u8]) -> Self {
        let mut class = Self { set: [true; 256], rows: [u8::MAX; 16] };
        let mut at = 0;
        while at < few.len() {
            class = class.without(few[at]);
            at += 1;
        }
        class
    }

    /// These, and whatever is not ASCII.
    pub(crate) const fn and_beyond_ascii(mut self) -> Self {
        let mut byte = 128;
        while byte < 256 {
            self.set[byte] = true;
            byte += 1;
        }
        self
    }

    /// These, and `byte`, which is ASCII.
    pub(crate) const fn with(mut self, byte: u8) -> Self {
        assert!(byte.is_ascii(), "beyond ASCII it is all or none");
        self.set[byte as usize] = true;
        self.rows[(byte & 15) as usize] |= 1 << (byte >> 4);
        self
    }

    /// Whether `byte` is in the set.
    #[inline]
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.set[byte as usize]
    }

    /// How many octets at the start of `bytes` are of this class.
    #[inline]
    pub(crate) fn run(&self, bytes: &[u8]) -> usize {
        #[cfg(all(target_arch = "x86_64", target_feature = "ssse3"))]
        #[expect(
            unsafe_code,
            reason = "the compiler asks for it, though it has SSSE3 everywhere"
        )]
        // SAFETY: this is compiled only where the whole program may use SSSE3.
        return unsafe { ssse3::run(&self.rows, self.set[128], bytes) };
        #[cfg(not(all(target_arch = "x86_64", target_feature = "ssse3")))]
        self.run_one_by_one(bytes)
    }

    /// Whether `bytes` is not empty and made of this class only.
    #[inline]
    pub(crate) fn spells(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && self.run(bytes) == bytes.len()
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "what there is without SSSE3, and the oracle"))]
    fn run_one_by_one(&self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|&&b| self.has(b)).count()
    }
}

/// Where `byte` stands first in `bytes`.
///
/// For the short texts of a message: `memchr` takes longer to begin than these take to end.
#[inline]
pub(crate) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    #[cfg(all(target_arch = "x86_64", target_feature = "ssse3"))]
    #[expect(unsafe_code, reason = "the compiler asks for it, though it has SSSE3 everywhere")]
    // SAFETY: this is compiled only where the whole program may use SSSE3.
    return unsafe { ssse3::find(byte, bytes) };
    #[cfg(not(all(target_arch = "x86_64", target_feature = "ssse3")))]
    bytes.iter().position(|&b| b == byte)
}

/// A name of 1 to 16 octets as two words, its letters in lower case: two names of one length are
/// told apart in any case, without comparing them octet by octet.
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
        _ => (short_word(name), 0),
    };
    (first | LOWER, last | LOWER)
}

/// Up to 8 octets, each of which counts, as one word; of 4 and more, the first four and the last
/// four, which may overlap.
#[inline]
const fn short_word(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32
        }
        _ => match *bytes {
            [] => 0,
            [a] => a as u64,
            [a, b] => u16::from_le_bytes([a, b]) as u64,
            [a, b, ref rest @ ..] => {
                u16::from_le_bytes([a, b]) as u64 | (rest[rest.len() - 1] as u64) << 16
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: Class = Class::alphanumeric_and(b"-.!%*_+`'~");
    const LOOSE: Class = TOKEN.and_beyond_ascii();
    const PLAIN: Class = Class::all_but(b",\"<");

    #[test]
    fn classes_have_what_they_name() {
        for byte in 0..=u8::MAX {
            let is_token = byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
            assert_eq!(TOKEN.has(byte), is_token);
            assert_eq!(LOOSE.has(byte), is_token || !byte.is_ascii());
            assert_eq!(PLAIN.has(byte), !b",\"<".contains(&byte));
        }
    }

    #[test]
    fn every_octet_ends_a_run_or_does_not() {
        for class in [TOKEN, LOOSE, PLAIN] {
            for len in 0..50_usize {
                for byte in 0..=u8::MAX {
                    for at in [0, 1, len / 2, len.saturating_sub(1)] {
                        let mut text = vec![b'a'; len];
                        if let Some(octet) = text.get_mut(at) {
                            *octet = byte;
                        }
                        assert_eq!(class.run(&text), class.run_one_by_one(&text), "{text:?}");
                        let found = text.iter().position(|&b| b == byte);
                        assert_eq!(find(byte, &text), found, "{byte} in {text:?}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_alike(text: Vec<u8>, byte: u8) {
            for class in [TOKEN, LOOSE, PLAIN] {
                prop_assert_eq!(class.run(&text), class.run_one_by_one(&text));
            }
            prop_assert_eq!(find(byte, &text), text.iter().position(|&b| b == byte));
        }
    }

    #[test]
    fn every_octet_of_a_name_counts_but_not_its_case() {
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
