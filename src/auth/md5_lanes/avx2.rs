//! The lanes in AVX2's vectors of 256 bits.
//!
//! Written with the CPU's own instructions, since the compiler finds only half of them in loops
//! over arrays (decision 0004). All but one of their wrappers are safe: this file needs `unsafe`
//! only where code that may run anywhere calls code that may not.

use std::arch::x86_64::{
    __m256i, _mm_extract_epi64, _mm256_add_epi32 as add, _mm256_and_si256 as and,
    _mm256_andnot_si256 as not_and, _mm256_castsi256_si128, _mm256_or_si256 as or,
    _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setr_epi64x, _mm256_setzero_si256,
    _mm256_sllv_epi32, _mm256_srlv_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256 as xor,
};

use super::{Digest, INITIAL, LANES, Lane, ROUNDS, most_blocks};

/// Shows that this CPU has AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// The digests of all lanes.
    pub(super) fn digest<const G: usize>(
        self,
        lanes: &[[Lane<'_>; LANES]; G],
    ) -> [[Digest; LANES]; G] {
        #[expect(unsafe_code, reason = "instructions that not every CPU has")]
        // SAFETY: the CPU must have AVX2, and only `detect` makes an `Avx2`, if it has.
        unsafe {
            digest(lanes)
        }
    }
}

/// The same of every lane, for each of the vectors that are computed in turns.
type Words<const G: usize> = [__m256i; G];

#[target_feature(enable = "avx2")]
fn digest<const G: usize>(lanes: &[[Lane<'_>; LANES]; G]) -> [[Digest; LANES]; G] {
    let mut digests = [[[0; 16]; LANES]; G];
    let [a, b, c, d] = INITIAL;
    let mut state = [[splat(a); G], [splat(b); G], [splat(c); G], [splat(d); G]];
    for block in 0..most_blocks(lanes) {
        compress(&mut state, &words(lanes, block));
        let [a, b, c, d] = &state;
        for g in 0..G {
            // The other columns are not looked at.
            let rows = transpose([a[g], b[g], c[g], d[g], a[g], b[g], c[g], d[g]]);
            for ((lane, digest), row) in lanes[g].iter().zip(&mut digests[g]).zip(rows) {
                if lane.blocks == block + 1 {
                    *digest = low_half(row);
                }
            }
        }
    }
    digests
}

/// Word by word what the lanes hold in one block.
#[inline]
#[target_feature(enable = "avx2")]
fn words<const G: usize>(lanes: &[[Lane<'_>; LANES]; G], block: usize) -> [Words<G>; 16] {
    let mut words = [[_mm256_setzero_si256(); G]; 16];
    for (g, lanes) in lanes.iter().enumerate() {
        for half in 0..2 {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (row, lane) in rows.iter_mut().zip(lanes) {
                *row = load(&lane.message[block].as_chunks().0[half]);
            }
            for (column, word) in transpose(rows).into_iter().zip(&mut words[8 * half..]) {
                word[g] = column;
            }
        }
    }
    words
}

/// RFC 1321 §3.4 in all lanes. Once in the program for each `G`: it fills a quarter of a core's
/// instruction cache.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn compress<const G: usize>(state: &mut [Words<G>; 4], words: &[Words<G>; 16]) {
    let before = *state;
    round::<G, 0>(state, words);
    round::<G, 1>(state, words);
    round::<G, 2>(state, words);
    round::<G, 3>(state, words);
    for (sum, before) in state.iter_mut().zip(before) {
        for (sum, before) in sum.iter_mut().zip(before) {
            *sum = add(*sum, before);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn round<const G: usize, const R: usize>(state: &mut [Words<G>; 4], words: &[Words<G>; 16]) {
    turn::<G, R, 0>(state, words);
    turn::<G, R, 4>(state, words);
    turn::<G, R, 8>(state, words);
    turn::<G, R, 12>(state, words);
}

/// Four steps from step `I` on. Not a loop: words, shifts and sines have to be known here.
#[inline]
#[target_feature(enable = "avx2")]
fn turn<const G: usize, const R: usize, const I: usize>(
    [a, b, c, d]: &mut [Words<G>; 4],
    words: &[Words<G>; 16],
) {
    step::<G, R>(a, b, c, d, words, I);
    step::<G, R>(d, a, b, c, words, I + 1);
    step::<G, R>(c, d, a, b, words, I + 2);
    step::<G, R>(b, c, d, a, words, I + 3);
}

#[inline]
#[target_feature(enable = "avx2")]
fn step<const G: usize, const R: usize>(
    a: &mut Words<G>,
    b: &Words<G>,
    c: &Words<G>,
    d: &Words<G>,
    words: &[Words<G>; 16],
    i: usize,
) {
    let round = &ROUNDS[R];
    let (sine, shift) = (splat(round.sines[i]), round.shifts[i % 4]);
    for g in 0..G {
        let (b, c, d) = (b[g], c[g], d[g]);
        let sum = add(a[g], add(words[round.word(i)][g], sine));
        let sum = match R {
            0 => add(sum, xor(d, and(b, xor(c, d)))),
            // The two halves share no bit, and all but one addition can be done before b is known.
            1 => add(add(sum, not_and(d, c)), and(b, d)),
            2 => add(sum, xor(b, xor(c, d))),
            _ => add(sum, xor(c, or(b, xor(d, splat(u32::MAX))))),
        };
        a[g] = add(b, rotate_left(sum, shift));
    }
}

/// With a shift that is known, this compiles to two shifts by it.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate_left(words: __m256i, shift: u32) -> __m256i {
    let high = _mm256_sllv_epi32(words, splat(shift));
    let low = _mm256_srlv_epi32(words, splat(32 - shift));
    or(high, low)
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(octets: &[u8; 32]) -> __m256i {
    let (quarters, _) = octets.as_chunks();
    _mm256_setr_epi64x(
        i64::from_le_bytes(quarters[0]),
        i64::from_le_bytes(quarters[1]),
        i64::from_le_bytes(quarters[2]),
        i64::from_le_bytes(quarters[3]),
    )
}

/// The first 16 octets.
#[inline]
#[target_feature(enable = "avx2")]
fn low_half(row: __m256i) -> Digest {
    let row = _mm256_castsi256_si128(row);
    let (low, high) = (_mm_extract_epi64::<0>(row), _mm_extract_epi64::<1>(row));
    (u128::from(high.cast_unsigned()) << 64 | u128::from(low.cast_unsigned())).to_le_bytes()
}

/// Rows of eight words into columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // Each step doubles how many words of a column stand together; the last joins the halves.
    let [a, b, c, d, e, f, g, h] = rows;
    let [a, b] = [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)];
    let [c, d] = [_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d)];
    let [e, f] = [_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f)];
    let [g, h] = [_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h)];
    let [a, c] = [_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c)];
    let [b, d] = [_mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)];
    let [e, g] = [_mm256_unpacklo_epi64(e, g), _mm256_unpackhi_epi64(e, g)];
    let [f, h] = [_mm256_unpacklo_epi64(f, h), _mm256_unpackhi_epi64(f, h)];
    [
        _mm256_permute2x128_si256::<0x20>(a, e),
        _mm256_permute2x128_si256::<0x20>(c, g),
        _mm256_permute2x128_si256::<0x20>(b, f),
        _mm256_permute2x128_si256::<0x20>(d, h),
        _mm256_permute2x128_si256::<0x31>(a, e),
        _mm256_permute2x128_si256::<0x31>(c, g),
        _mm256_permute2x128_si256::<0x31>(b, f),
        _mm256_permute2x128_si256::<0x31>(d, h),
    ]
}
