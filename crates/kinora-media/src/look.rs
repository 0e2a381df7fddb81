//! A small picture to compare with others: what changed beyond motion, and a hash.

/// Luma and the two differences of colour of a small picture, and what is measured on them.
#[derive(Clone)]
pub(crate) struct Look {
    /// `[height, width]`.
    size: [usize; 2],
    /// Luma and two differences of colour, each `[height, width]`.
    planes: [Vec<u8>; 3],
    /// Mean luma, 0 to 1.
    pub(crate) brightness: f64,
    /// Standard deviation of luma, 0 to 1.
    pub(crate) contrast: f64,
    pub(crate) hash: u64,
}

/// The side of the blocks that are moved to fit.
const BLOCK: usize = 8;
/// How far they are moved, in pixels, an eighth of the usual short side.
const REACH: isize = 8;

impl Look {
    /// From RGB, `[H, W, 3]`.
    pub(crate) fn new(rgb: &[u8], size: [usize; 2]) -> Self {
        let mut planes = [0; 3].map(|_| Vec::with_capacity(rgb.len() / 3));
        for pixel in rgb.chunks_exact(3) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
            let luma = (77 * r + 150 * g + 29 * b + 128) >> 8;
            planes[0].push(luma as u8);
            // Half the differences, so that they fit.
            planes[1].push((128 + (b - luma) / 2) as u8);
            planes[2].push((128 + (r - luma) / 2) as u8);
        }
        let count = planes[0].len().max(1) as f64;
        let sum: u64 = planes[0].iter().map(|&y| u64::from(y)).sum();
        let squares: u64 = planes[0].iter().map(|&y| u64::from(y).pow(2)).sum();
        let mean = sum as f64 / count;
        Self {
            brightness: mean / 255.0,
            contrast: (squares as f64 / count - mean * mean).max(0.0).sqrt() / 255.0,
            hash: hash(&planes[0], size),
            size,
            planes,
        }
    }

    /// The mean absolute change of luma from another picture, 0 to 1.
    pub(crate) fn change(&self, other: &Self) -> f64 {
        let apart = apart(&self.planes[0], &other.planes[0]);
        f64::from(apart) / 255.0 / self.planes[0].len().max(1) as f64
    }

    /// How much of this picture is not to be found in another one near the same place, 0 to 1: the
    /// mean over blocks of what is left in luma and colour where the other's luma fits best.
    pub(crate) fn news(&self, other: &Self) -> f64 {
        let [height, width] = self.size;
        let mut sum = 0u64;
        for top in (0..height).step_by(BLOCK) {
            for left in (0..width).step_by(BLOCK) {
                let block = [BLOCK.min(height - top), BLOCK.min(width - left)];
                sum += u64::from(self.block_news(other, [top, left], block));
            }
        }
        // Luma, and the mean of the two differences of colour, which are halved.
        sum as f64 / 255.0 / (height * width).max(1) as f64
    }

    fn block_news(&self, other: &Self, at: [usize; 2], block: [usize; 2]) -> u32 {
        let mut best = (self.block_apart(other, 0, at, at, block), at);
        for dy in -REACH..=REACH {
            for dx in -REACH..=REACH {
                let (Some(y), Some(x)) =
                    (at[0].checked_add_signed(dy), at[1].checked_add_signed(dx))
                else {
                    continue;
                };
                if y + block[0] > self.size[0] || x + block[1] > self.size[1] {
                    continue;
                }
                if best.0 == 0 {
                    break;
                }
                let apart = self.block_apart(other, 0, at, [y, x], block);
                if apart < best.0 {
                    best = (apart, [y, x]);
                }
            }
        }
        let colour = [1, 2].map(|plane| self.block_apart(other, plane, at, best.1, block));
        best.0 + colour[0] + colour[1]
    }

    fn block_apart(
        &self,
        other: &Self,
        plane: usize,
        [top, left]: [usize; 2],
        [other_top, other_left]: [usize; 2],
        [height, width]: [usize; 2],
    ) -> u32 {
        let columns = self.size[1];
        let (own, other) = (&self.planes[plane], &other.planes[plane]);
        (0..height)
            .map(|row| {
                let own = &own[(top + row) * columns + left..][..width];
                let other = &other[(other_top + row) * columns + other_left..][..width];
                match (own.first_chunk::<BLOCK>(), other.first_chunk::<BLOCK>()) {
                    // Of a known length, which is several times as fast.
                    (Some(own), Some(other)) => apart(own, other),
                    _ => apart(own, other),
                }
            })
            .sum()
    }
}

#[inline(always)]
fn apart(a: &[u8], b: &[u8]) -> u32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| u32::from(a.abs_diff(*b)))
        .sum()
}

/// Whether each of 8x8 places is darker than the place to its right.
fn hash(luma: &[u8], [height, width]: [usize; 2]) -> u64 {
    let mut hash = 0;
    for row in 0..8 {
        let rows = span(row, 8, height);
        let means: [f64; 9] = std::array::from_fn(|column| {
            let columns = span(column, 9, width);
            let lines = rows.clone().map(|y| &luma[y * width..][columns.clone()]);
            let sum: u32 = lines.flatten().map(|&y| u32::from(y)).sum();
            f64::from(sum) / (rows.len() * columns.len()) as f64
        });
        for pair in means.windows(2) {
            // What is as good as flat has no noise in its hash.
            hash = hash << 1 | u64::from(pair[1] > pair[0] + FLAT);
        }
    }
    hash
}

/// Levels of 255 by which two places must differ.
const FLAT: f64 = 1.0;

/// The `index`th of `parts` parts of a length, at least one pixel.
fn span(index: usize, parts: usize, length: usize) -> std::ops::Range<usize> {
    let start = (index * length / parts).min(length - 1);
    let end = ((index + 1) * length / parts).max(start + 1);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of smooth random shapes.
    fn noise(seed: u64, [height, width]: [usize; 2], moved: usize) -> Look {
        let level = |y: usize, x: usize| {
            let (y, x) = (y as f64 / 9.0, (x + moved) as f64 / 9.0);
            let s = seed as f64;
            128.0
                + 60.0 * (x * 1.3 + s).sin() * (y + 2.0 * s).cos()
                + 50.0 * (x * 0.7 - y + s).cos()
        };
        let rgb: Vec<u8> = (0..height * width)
            .flat_map(|at| [level(at / width, at % width) as u8; 3])
            .collect();
        Look::new(&rgb, [height, width])
    }

    #[test]
    fn what_moves_is_no_news_and_another_picture_is() {
        let size = [64, 96];
        let first = noise(1, size, 0);
        assert_eq!((first.news(&first), first.change(&first)), (0.0, 0.0));
        let moved = noise(1, size, 6);
        assert!(moved.change(&first) > 0.05, "{}", moved.change(&first));
        assert!(moved.news(&first) < 0.01, "{}", moved.news(&first));
        let other = noise(4, size, 0);
        assert!(other.news(&first) > 0.04, "{}", other.news(&first));
    }

    #[test]
    fn brightness_and_contrast() {
        let flat = Look::new(&[51; 3 * 16 * 16], [16, 16]);
        assert!((flat.brightness - 0.2).abs() < 1e-9 && flat.contrast < 1e-9);
        assert_eq!(flat.hash, 0);
        let halves: Vec<u8> = (0..256).flat_map(|at| [(at % 2) as u8 * 255; 3]).collect();
        let halves = Look::new(&halves, [16, 16]);
        assert!((halves.brightness - 0.5).abs() < 1e-9 && (halves.contrast - 0.5).abs() < 1e-9);
    }

    #[test]
    fn every_size_has_a_hash() {
        for size in [[1, 1], [1, 9], [7, 3], [8, 9], [65, 100]] {
            let rising: Vec<u8> = (0..size[0] * size[1])
                .flat_map(|at| [(at % size[1] * 255 / size[1]) as u8; 3])
                .collect();
            let look = Look::new(&rising, size);
            assert!(
                size[1] < 9 || look.hash == u64::MAX,
                "{size:?}: {:x}",
                look.hash
            );
        }
    }
}
