//! Many MD5 digests at once, each in a lane of the CPU's vectors (RFC 1321).
//!
//! Every step of MD5 waits for the one before, so that one digest leaves most of a core idle. The
//! responses of a batch of requests don't depend on each other: their steps go through the core
//! side by side. What that wins, and what else was tried, is in decision 0004.

use md5::block_api::compress;

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

/// Blocks of the longest message: a response with a `cnonce` of 80 octets, where 32 are usual.
const MAX_BLOCKS: usize = 3;

/// Octets of the longest message: at least nine go for its end mark and its length.
pub const MAX_LEN: usize = 64 * MAX_BLOCKS - 9;

/// Lanes of one vector of 256 bits.
const LANES: usize = 8;

/// Vectors that are computed in turns: while one waits for the result of a step, the other goes on.
/// A third brings a tenth more, and leaves more lanes empty with the batches of a worker that is
/// not at its limit.
const VECTORS: usize = 2;

/// A digest.
pub type Digest = [u8; 16];

/// A message in whole blocks, with its end mark and its length in bits at the end of the last.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Padded([[u8; 64]; MAX_BLOCKS]);

/// Messages whose digests are computed together; the memory is kept from one batch to the next.
pub struct Batch {
    unit: Unit,
    messages: Vec<Padded>,
    /// How many blocks each message has: 1 to [`MAX_BLOCKS`].
    blocks: Vec<u8>,
    /// The messages' indices, those of fewer blocks first.
    order: Vec<usize>,
    digests: Vec<Digest>,
}

/// What the lanes are computed with.
#[derive(Clone, Copy)]
enum Unit {
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable,
}

impl Batch {
    /// An empty batch that holds `capacity` messages without allocating.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::on(Unit::of_this_cpu(), capacity)
    }

    /// The same without anything that only some CPUs have: what others are spared, for comparison.
    pub fn portable(capacity: usize) -> Self {
        Self::on(Unit::Portable, capacity)
    }

    fn on(unit: Unit, capacity: usize) -> Self {
        Self {
            unit,
            messages: Vec::with_capacity(capacity),
            blocks: Vec::with_capacity(capacity),
            order: Vec::with_capacity(capacity),
            digests: Vec::with_capacity(capacity),
        }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.blocks.clear();
        // No place of this batch may be answered from the one before.
        self.digests.clear();
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds the message that `parts` make up, and tells its index; `None` if it is longer than
    /// [`MAX_LEN`], and then nothing is added.
    ///
    /// Parts whose length the compiler knows, such as `&[u8; 32]`, are copied in half the time.
    #[inline]
    pub fn push(&mut self, parts: &[&[u8]]) -> Option<usize> {
        let index = self.messages.len();
        // Zeros first, of a length the compiler knows: cheaper than to fill what is left over.
        self.messages.push(Padded([[0; 64]; MAX_BLOCKS]));
        let blocks = self.messages.last_mut().and_then(|message| message.set(parts));
        match blocks {
            Some(blocks) => self.blocks.push(blocks),
            None => self.messages.truncate(index),
        }
        blocks.map(|_| index)
    }

    /// The digests that [`Batch::digests`] computed last, by index.
    pub fn computed(&self) -> &[Digest] {
        &self.digests
    }

    /// The digests of all messages, by index.
    pub fn digests(&mut self) -> &[Digest] {
        let Self { unit, messages, blocks, order, digests } = self;
        order.clear();
        for count in 1..=MAX_BLOCKS {
            let those = blocks.iter().enumerate().filter(|(_, b)| usize::from(**b) == count);
            order.extend(those.map(|(index, _)| index));
        }
        digests.clear();
        digests.resize(messages.len(), [0; 16]);
        for group in order.chunks(LANES * VECTORS) {
            if group.len() < unit.fewest() {
                for &index in group {
                    digests[index] = messages[index].digest(blocks[index]);
                }
            } else if group.len() <= LANES {
                unit.digest::<1>(messages, blocks, group, digests);
            } else {
                unit.digest::<VECTORS>(messages, blocks, group, digests);
            }
        }
        digests
    }
}

impl Unit {
    fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = avx2::Avx2::detect() {
            return Self::Avx2(avx2);
        }
        Self::Portable
    }

    /// The fewest messages that are done sooner in lanes than one by one.
    fn fewest(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 2,
            Self::Portable => 4,
        }
    }

    /// The digests of the messages of one `group` of indices, which is not empty.
    fn digest<const G: usize>(
        self,
        messages: &[Padded],
        blocks: &[u8],
        group: &[usize],
        digests: &mut [Digest],
    ) {
        let last = group[group.len() - 1];
        // Lanes that are left over repeat the last message.
        let index = |lane: usize| group.get(lane).copied().unwrap_or(last);
        let lanes = std::array::from_fn(|g| {
            std::array::from_fn(|lane| {
                let index = index(g * LANES + lane);
                Lane { message: &messages[index].0, blocks: usize::from(blocks[index]) }
            })
        });
        let found: [[Digest; LANES]; G] = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => avx2.digest(&lanes),
            Self::Portable => portable::digest(&lanes),
        };
        for (&index, digest) in group.iter().zip(found.as_flattened()) {
            digests[index] = *digest;
        }
    }
}

/// One message among those that are computed together.
#[derive(Clone, Copy)]
struct Lane<'a> {
    message: &'a [[u8; 64]; MAX_BLOCKS],
    /// How many blocks count.
    blocks: usize,
}

/// The most blocks of any lane. The others go through as many; their digests are taken earlier.
fn most_blocks<const G: usize>(lanes: &[[Lane<'_>; LANES]; G]) -> usize {
    lanes.as_flattened().iter().map(|lane| lane.blocks).max().unwrap_or(0)
}

impl Padded {
    /// Writes the message, and tells how many blocks it has; all octets are zero before.
    #[inline]
    fn set(&mut self, parts: &[&[u8]]) -> Option<u8> {
        let octets = self.0.as_flattened_mut();
        let mut len = 0;
        for part in parts {
            let end = part.len().checked_add(len)?;
            octets.get_mut(len..end)?.copy_from_slice(part);
            len = end;
        }
        *octets.get_mut(len).filter(|_| len <= MAX_LEN)? = 0x80;
        let blocks = len / 64 + 1 + usize::from(len % 64 >= 56);
        let bits = u64::try_from(8 * len).ok()?;
        *self.0.get_mut(blocks - 1)?.last_chunk_mut()? = bits.to_le_bytes();
        u8::try_from(blocks).ok()
    }

    /// The digest of this message alone.
    fn digest(&self, blocks: u8) -> Digest {
        let mut state = INITIAL;
        compress(&mut state, &self.0[..usize::from(blocks)]);
        let mut digest = [0; 16];
        for (octets, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
            *octets = word.to_le_bytes();
        }
        digest
    }
}

/// RFC 1321 §3.3.
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// A round of MD5, RFC 1321 §3.4.
struct Round {
    /// By how much each step rotates, in turns of four.
    shifts: [u32; 4],
    /// What each step adds: the first bits of sines.
    sines: [u32; 16],
    /// Step `i` takes word `words.0 * i + words.1` of the block, modulo 16.
    words: (usize, usize),
}

impl Round {
    const fn word(&self, step: usize) -> usize {
        (self.words.0 * step + self.words.1) % 16
    }
}

#[rustfmt::skip]
const ROUNDS: [Round; 4] = [
    Round {
        shifts: [7, 12, 17, 22],
        sines: [
            0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee,
            0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
            0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be,
            0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
        ],
        words: (1, 0),
    },
    Round {
        shifts: [5, 9, 14, 20],
        sines: [
            0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa,
            0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
            0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed,
            0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
        ],
        words: (5, 1),
    },
    Round {
        shifts: [4, 11, 16, 23],
        sines: [
            0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c,
            0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
            0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05,
            0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
        ],
        words: (3, 5),
    },
    Round {
        shifts: [6, 10, 15, 21],
        sines: [
            0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039,
            0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
            0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1,
            0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
        ],
        words: (7, 0),
    },
];

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};
    use proptest::prelude::*;

    use super::*;

    /// What this CPU uses, and what it would use without its vectors.
    fn both() -> [Batch; 2] {
        [Batch::with_capacity(0), Batch::portable(0)]
    }

    fn oracle(message: &[u8]) -> Digest {
        Md5::digest(message).into()
    }

    fn check<M: AsRef<[u8]>>(batch: &mut Batch, messages: &[M]) {
        batch.clear();
        for (index, message) in messages.iter().enumerate() {
            assert_eq!(batch.push(&[message.as_ref()]), Some(index));
        }
        let expected: Vec<Digest> = messages.iter().map(|m| oracle(m.as_ref())).collect();
        assert_eq!(batch.digests(), expected);
    }

    #[test]
    fn the_test_suite_of_rfc_1321_a_5() {
        let suite = [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                "d174ab98d277d9f5a5611c2c9f419d9f",
            ),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ];
        for mut batch in both() {
            for (message, _) in suite {
                batch.push(&[message.as_bytes()]);
            }
            for (digest, (_, expected)) in batch.digests().iter().zip(suite) {
                assert_eq!(crate::hex::to_hex(digest), expected);
            }
        }
    }

    #[test]
    fn every_length() {
        let octets: Vec<u8> = (0..=u8::MAX).collect();
        for mut batch in both() {
            let all: Vec<&[u8]> = (0..=MAX_LEN).map(|len| &octets[..len]).collect();
            check(&mut batch, &all);
            for message in all {
                check(&mut batch, &[message]);
                check(&mut batch, &[message, message, b""]);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_taken() {
        for mut batch in both() {
            assert_eq!(batch.push(&[&[1; MAX_LEN], b"1"]), None);
            assert_eq!(batch.push(&[&[1; 1000]]), None);
            assert!(batch.is_empty() && batch.digests().is_empty());
            assert_eq!(batch.push(&[&[1; MAX_LEN - 1], &[1]]), Some(0));
            assert_eq!(batch.push(&[&[1; MAX_LEN], &[1; 192]]), None);
            assert_eq!(batch.len(), 1);
            assert_eq!(batch.digests(), [oracle(&[1; MAX_LEN])]);
        }
    }

    #[test]
    fn parts_are_joined() {
        for mut batch in both() {
            batch.push(&[b"a", b"", b"b", b"c"]);
            assert_eq!(batch.digests(), [oracle(b"abc")]);
        }
    }

    proptest! {
        #[test]
        fn mixed_batches(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=MAX_LEN), 0..40),
            then in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=MAX_LEN), 0..40),
        ) {
            for mut batch in both() {
                check(&mut batch, &messages);
                check(&mut batch, &then);
            }
        }
    }
}
