//! The lanes in arrays, which the compiler makes vectors of whatever the CPU has: 128 bits of
//! `x86_64` and of `aarch64`.

use super::{Digest, INITIAL, LANES, Lane, ROUNDS, most_blocks};

/// What one lane of each vector holds.
type Words<const G: usize> = [u32; G];

/// What all lanes hold.
type Vectors<const G: usize> = [[u32; LANES]; G];

/// The digests of all lanes.
pub(super) fn digest<const G: usize>(lanes: &[[Lane<'_>; LANES]; G]) -> [[Digest; LANES]; G] {
    let mut digests = [[[0; 16]; LANES]; G];
    let mut state = INITIAL.map(|word| [[word; LANES]; G]);
    let mut words = [[[0; LANES]; G]; 16];
    for block in 0..most_blocks(lanes) {
        for (g, lanes) in lanes.iter().enumerate() {
            for (n, lane) in lanes.iter().enumerate() {
                for (word, octets) in words.iter_mut().zip(lane.message[block].as_chunks().0) {
                    word[g][n] = u32::from_le_bytes(*octets);
                }
            }
        }
        compress(&mut state, &words);
        for (g, lanes) in lanes.iter().enumerate() {
            for (n, _) in lanes.iter().enumerate().filter(|(_, lane)| lane.blocks == block + 1) {
                for (octets, word) in digests[g][n].as_chunks_mut().0.iter_mut().zip(&state) {
                    *octets = word[g][n].to_le_bytes();
                }
            }
        }
    }
    digests
}

/// RFC 1321 §3.4 in all lanes.
///
/// The loop over the lanes is the outer one, and its body has no branch: so it becomes vectors
/// whatever the number of lanes is, which a loop in each step does only by luck.
fn compress<const G: usize>(state: &mut [Vectors<G>; 4], words: &[Vectors<G>; 16]) {
    for n in 0..LANES {
        let before =
            [lane(&state[0], n), lane(&state[1], n), lane(&state[2], n), lane(&state[3], n)];
        let mut after = before;
        round::<G, 0>(&mut after, words, n);
        round::<G, 1>(&mut after, words, n);
        round::<G, 2>(&mut after, words, n);
        round::<G, 3>(&mut after, words, n);
        for i in 0..4 {
            for g in 0..G {
                state[i][g][n] = before[i][g].wrapping_add(after[i][g]);
            }
        }
    }
}

#[inline(always)]
fn lane<const G: usize>(vectors: &Vectors<G>, n: usize) -> Words<G> {
    let mut words = [0; G];
    for (word, vector) in words.iter_mut().zip(vectors) {
        *word = vector[n];
    }
    words
}

#[inline(always)]
fn round<const G: usize, const R: usize>(
    state: &mut [Words<G>; 4],
    words: &[Vectors<G>; 16],
    n: usize,
) {
    turn::<G, R, 0>(state, words, n);
    turn::<G, R, 4>(state, words, n);
    turn::<G, R, 8>(state, words, n);
    turn::<G, R, 12>(state, words, n);
}

/// Four steps from step `I` on. Not a loop: words, shifts and sines have to be known here.
#[inline(always)]
fn turn<const G: usize, const R: usize, const I: usize>(
    [a, b, c, d]: &mut [Words<G>; 4],
    words: &[Vectors<G>; 16],
    n: usize,
) {
    let word = |i| lane(&words[ROUNDS[R].word(i)], n);
    step::<G, R>(a, b, c, d, word(I), I);
    step::<G, R>(d, a, b, c, word(I + 1), I + 1);
    step::<G, R>(c, d, a, b, word(I + 2), I + 2);
    step::<G, R>(b, c, d, a, word(I + 3), I + 3);
}

#[inline(always)]
fn step<const G: usize, const R: usize>(
    a: &mut Words<G>,
    b: &Words<G>,
    c: &Words<G>,
    d: &Words<G>,
    word: Words<G>,
    i: usize,
) {
    let (sine, shift) = (ROUNDS[R].sines[i], ROUNDS[R].shifts[i % 4]);
    for g in 0..G {
        let (b, c, d) = (b[g], c[g], d[g]);
        let sum = a[g].wrapping_add(word[g].wrapping_add(sine));
        let sum = match R {
            0 => sum.wrapping_add(d ^ (b & (c ^ d))),
            1 => sum.wrapping_add(c & !d).wrapping_add(b & d),
            2 => sum.wrapping_add(b ^ c ^ d),
            _ => sum.wrapping_add(c ^ (b | !d)),
        };
        a[g] = b.wrapping_add(sum.rotate_left(shift));
    }
}
