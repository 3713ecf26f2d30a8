//! Sixteen octets per step.

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8,
    _mm_setzero_si128, _mm_shuffle_epi8, _mm_srli_epi16,
};

use super::short_word;

/// Octets of a step.
const STEP: usize = 16;

/// How many octets at the start of `bytes` are in a class: the ASCII ones of `rows`, and with
/// `beyond` all that aren't ASCII.
#[inline]
#[target_feature(enable = "ssse3")]
pub(super) fn run(rows: &[u8; 16], beyond: bool, bytes: &[u8]) -> usize {
    /// The bit of each high nibble in `rows`; there is none beyond ASCII.
    const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0];
    let (rows, bits) = (load(rows), load(&BITS));
    let nibble = _mm_set1_epi8(15);
    count(bytes, |octets| {
        let low = _mm_shuffle_epi8(rows, _mm_and_si128(octets, nibble));
        let high = _mm_shuffle_epi8(bits, _mm_and_si128(_mm_srli_epi16::<4>(octets), nibble));
        let strange = _mm_cmpeq_epi8(_mm_and_si128(low, high), _mm_setzero_si128());
        let strange = mask(strange);
        if beyond { strange & !mask(octets) } else { strange }
    })
}

/// Where `byte` stands first in `bytes`.
#[inline]
#[target_feature(enable = "ssse3")]
pub(super) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let wanted = _mm_set1_epi8(byte.cast_signed());
    let at = count(bytes, |octets| mask(_mm_cmpeq_epi8(octets, wanted)));
    (at < bytes.len()).then_some(at)
}

/// How many octets stand before the first that `stops` sets the bit of.
#[inline]
#[target_feature(enable = "ssse3")]
fn count(bytes: &[u8], stops: impl Fn(__m128i) -> u32) -> usize {
    let (mut at, mut rest) = (0, bytes);
    while let Some((step, after)) = rest.split_first_chunk::<STEP>() {
        let stops = stops(load(step));
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        (at, rest) = (at + STEP, after);
    }
    let stops = stops(load_short(rest)) | 1 << rest.len();
    at + stops.trailing_zeros() as usize
}

/// One bit for each octet's highest.
#[inline]
#[target_feature(enable = "ssse3")]
fn mask(octets: __m128i) -> u32 {
    _mm_movemask_epi8(octets).cast_unsigned()
}

#[inline]
#[target_feature(enable = "ssse3")]
fn load(octets: &[u8; STEP]) -> __m128i {
    // The compiler makes one load of them.
    let half = |half: Option<&[u8; 8]>| half.map_or(0, |half| i64::from_le_bytes(*half));
    _mm_set_epi64x(half(octets.last_chunk()), half(octets.first_chunk()))
}

/// Fewer octets than a step, and zeros after them.
#[inline]
#[target_feature(enable = "ssse3")]
fn load_short(octets: &[u8]) -> __m128i {
    let (low, high) = match (octets.first_chunk::<8>(), octets.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            // What both have moves out of the upper half: of exactly eight octets, everything.
            let last = u64::from_le_bytes(*last) >> 8 >> (8 * (STEP - 1 - octets.len()));
            (u64::from_le_bytes(*first), last)
        }
        _ => (in_order(octets), 0),
    };
    _mm_set_epi64x(high.cast_signed(), low.cast_signed())
}

/// Fewer than eight octets in their order, the first in the lowest.
#[inline]
fn in_order(octets: &[u8]) -> u64 {
    match octets.len() {
        5..8 => {
            // The last four overlap the first four: they move up to where they stand.
            let word = short_word(octets);
            let (first, last) = (word & u64::from(u32::MAX), word >> 32);
            first | last << (8 * (octets.len() - 4))
        }
        4 => short_word(octets) & u64::from(u32::MAX),
        _ => short_word(octets),
    }
}
