//! Keyed random numbers: every value is a pure function of what it is for, so that results do not
//! depend on how many ranks drew them, or in which order.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
//! SC 2011); the tests hold its published known answers.

use std::f64::consts::TAU;
use std::ops::Range;

/// A random stream: element `i` of it is the same number on every rank, mesh and machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    // The upper half of the counter; the lower half counts elements.
    base: [u32; 2],
}

impl Stream {
    /// The stream of one purpose (`"weights/blocks.0.attn.query"`, `"noise"`, `"order"` ...) under a seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let key = mix(seed ^ fnv1a(purpose.as_bytes()));
        Self {
            key: split(key),
            base: [0, 0],
        }
    }

    /// The stream of one item of this one: a step, a sample, an epoch. May be chained.
    pub fn at(self, index: u64) -> Self {
        let base = join(self.base).wrapping_add(0x9E37_79B9_7F4A_7C15);
        Self {
            key: self.key,
            base: split(mix(base ^ mix(index.wrapping_add(1)))),
        }
    }

    /// Four random words, numbers `4 i .. 4 i + 4` of the stream.
    fn words(self, i: u64) -> [u32; 4] {
        let [lo, hi] = split(i);
        philox([lo, hi, self.base[0], self.base[1]], self.key)
    }

    /// Element `i` as 32 random bits.
    pub fn bits(self, i: u64) -> u32 {
        self.words(i / 4)[(i % 4) as usize]
    }

    /// Element `i`, uniform in [0, 1), with 53 random bits (words `2 i` and `2 i + 1`).
    pub fn uniform(self, i: u64) -> f64 {
        let words = self.words(i / 2);
        let at = (i % 2) as usize * 2;
        unit(words[at], words[at + 1])
    }

    /// Element `i`, an integer uniform in `0..n`. The bias is below `n / 2^53`.
    pub fn below(self, i: u64, n: u64) -> u64 {
        assert!(n > 0, "below: an empty range has no element to draw");
        ((self.uniform(i) * n as f64) as u64).min(n - 1)
    }

    /// Element `i`, standard normal.
    pub fn normal(self, i: u64) -> f64 {
        let [a, b] = pair(self.words(i / 2));
        if i.is_multiple_of(2) { a } else { b }
    }

    /// The elements of a range, standard normal.
    pub fn normals(self, range: Range<u64>) -> Vec<f64> {
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        let mut i = range.start;
        while i < range.end {
            let [a, b] = pair(self.words(i / 2));
            if i.is_multiple_of(2) {
                out.push(a);
                i += 1;
                if i == range.end {
                    break;
                }
            }
            out.push(b);
            i += 1;
        }
        out
    }

    /// A permutation of `0..n`.
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

/// Box and Muller's two normals out of four words.
fn pair(words: [u32; 4]) -> [f64; 2] {
    // 1 - u lies in (0, 1], so the logarithm is finite.
    let radius = (-2.0 * (1.0 - unit(words[0], words[1])).ln()).sqrt();
    let angle = TAU * unit(words[2], words[3]);
    [radius * angle.cos(), radius * angle.sin()]
}

fn unit(lo: u32, hi: u32) -> f64 {
    ((u64::from(hi) << 32 | u64::from(lo)) >> 11) as f64 / (1u64 << 53) as f64
}

fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn join(x: [u32; 2]) -> u64 {
    u64::from(x[1]) << 32 | u64::from(x[0])
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The 64-bit Fowler-Noll-Vo hash, variant 1a.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    })
}

/// Philox4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [
                key[0].wrapping_add(0x9E37_79B9),
                key[1].wrapping_add(0xBB67_AE85),
            ];
        }
        let [lo0, hi0] = split(u64::from(counter[0]) * 0xD251_1F53);
        let [lo1, hi1] = split(u64::from(counter[2]) * 0xCD9E_8D57);
        counter = [
            hi1 ^ counter[1] ^ key[0],
            lo1,
            hi0 ^ counter[3] ^ key[1],
            lo0,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vectors of Random123's kat_vectors file for philox4x32 10.
    #[test]
    fn philox_gives_its_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox(
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0]
            ),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_range_of_normals_is_its_elements_wherever_it_starts() {
        let stream = Stream::new(7, "noise").at(3).at(11);
        for start in 0..5 {
            for end in start..9 {
                let one_by_one: Vec<f64> = (start..end).map(|i| stream.normal(i)).collect();
                assert_eq!(stream.normals(start..end), one_by_one);
            }
        }
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let draws = Stream::new(1, "test").normals(0..100_000);
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let streams = [
            Stream::new(0, "a"),
            Stream::new(1, "a"),
            Stream::new(0, "b"),
            Stream::new(0, "a").at(0),
            Stream::new(0, "a").at(1),
            Stream::new(0, "a").at(0).at(1),
            Stream::new(0, "a").at(1).at(0),
        ];
        for (i, a) in streams.iter().enumerate() {
            for b in &streams[i + 1..] {
                assert_ne!(a.words(0), b.words(0), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_permutation_holds_each_index_once() {
        for n in [0, 1, 2, 7, 100] {
            let mut order = Stream::new(5, "order").permutation(n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}
