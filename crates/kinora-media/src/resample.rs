//! Resizing one plane of bytes with a Lanczos filter of three lobes, widened when it shrinks.
//!
//! Written here for video, whose frames are all of one size: the weights are kept from frame to
//! frame, rows are read where the decoder left them, and both directions run along rows, where the
//! processor takes many pixels at once. The sums are rounded alike on every processor.

use std::f64::consts::PI;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// Resizes planes, and keeps weights and scratch memory between them.
pub(crate) struct Resampler {
    arch: Arch,
    kernels: Vec<Kernel>,
    turned: Vec<u8>,
    sums: Vec<f32>,
    levels: Vec<u8>,
}

impl Default for Resampler {
    fn default() -> Self {
        Self {
            arch: Arch::new(),
            kernels: Vec::new(),
            turned: Vec::new(),
            sums: Vec::new(),
            levels: Vec::new(),
        }
    }
}

/// A plane of `[rows, columns]`, whose rows lie `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Plane<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) size: [usize; 2],
}

/// Kernels that are kept: those of luma and chroma in both directions, of two sizes of video.
const KERNELS: usize = 8;

impl Resampler {
    /// The part `[top, left, height, width]` of a plane, resized into `out` of `to`,
    /// `[height, width]`. What the part leaves out counts near its edges; past the plane's own edges
    /// there is nothing.
    pub(crate) fn run(
        &mut self,
        plane: Plane<'_>,
        [top, left, height, width]: [f64; 4],
        out: &mut [u8],
        to: [usize; 2],
    ) {
        let [rows, columns] = plane.size;
        let down = self.kernel(rows, top, height, to[0]);
        let across = self.kernel(columns, left, width, to[1]);
        let [down, across] = [down, across].map(|at| &self.kernels[at]);
        let (first, end) = across.reach();
        self.turned.resize((end - first) * to[0], 0);
        let [wide, high] = [end - first, to[0]];
        self.sums.resize(wide.max(high), 0.0);
        self.levels.resize(wide.max(high) * HELD, 0);
        // Each pass turns rows into columns, so that two passes end upright.
        self.arch.dispatch(Pass {
            bytes: plane.bytes,
            stride: plane.stride,
            columns: first..end,
            kernel: down,
            skipped: 0,
            out: &mut self.turned,
            sums: &mut self.sums[..wide],
            levels: &mut self.levels[..wide * HELD],
        });
        self.arch.dispatch(Pass {
            bytes: &self.turned,
            stride: to[0],
            columns: 0..to[0],
            kernel: across,
            skipped: first,
            out,
            sums: &mut self.sums[..high],
            levels: &mut self.levels[..high * HELD],
        });
    }

    /// The place of a kernel among those that are kept.
    fn kernel(&mut self, from: usize, start: f64, extent: f64, to: usize) -> usize {
        let shape = Shape {
            from,
            start,
            extent,
            to,
        };
        let found = self.kernels.iter().position(|kernel| kernel.shape == shape);
        found.unwrap_or_else(|| {
            // The oldest go first, and never one that was asked for just before.
            if self.kernels.len() == KERNELS {
                self.kernels.drain(..KERNELS / 2);
            }
            self.kernels.push(Kernel::new(shape));
            self.kernels.len() - 1
        })
    }
}

/// What a kernel is for: the part from `start` on of a line of `from` pixels, made `to` pixels long.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    from: usize,
    start: f64,
    extent: f64,
    to: usize,
}

/// For each pixel that is made, where the pixels it is made of begin, and their weights.
#[derive(Debug)]
struct Kernel {
    shape: Shape,
    taps: usize,
    first: Vec<usize>,
    /// `[to, taps]`.
    weights: Vec<f32>,
}

impl Kernel {
    fn new(shape: Shape) -> Self {
        let scale = shape.extent / shape.to as f64;
        let wide = scale.max(1.0);
        let taps = ((6.0 * wide).ceil() as usize + 1).min(shape.from);
        let mut kernel = Self {
            shape,
            taps,
            first: Vec::with_capacity(shape.to),
            weights: Vec::with_capacity(shape.to * taps),
        };
        for index in 0..shape.to {
            let center = shape.start + (index as f64 + 0.5) * scale;
            let first = (center - 3.0 * wide).floor().max(0.0) as usize;
            let first = first.min(shape.from - taps);
            let weights =
                (first..first + taps).map(|at| lanczos((at as f64 + 0.5 - center) / wide));
            let weights: Vec<f64> = weights.collect();
            let sum: f64 = weights.iter().sum();
            kernel.first.push(first);
            let weights = weights.iter().map(|weight| (weight / sum) as f32);
            kernel.weights.extend(weights);
        }
        kernel
    }

    /// The first pixel that counts, and the one behind the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.first.first().copied().unwrap_or(0);
        let last = self.first.last().copied().unwrap_or(0);
        (first, last + self.taps)
    }
}

fn lanczos(x: f64) -> f64 {
    if x.abs() >= 3.0 {
        return 0.0;
    }
    let sinc = |x: f64| {
        if x == 0.0 {
            1.0
        } else {
            (PI * x).sin() / (PI * x)
        }
    };
    sinc(x) * sinc(x / 3.0)
}

/// Pixels that are summed at once: as many as fit into a few registers.
const BLOCK: usize = 32;
/// Rows that are turned into columns at once: each pixel of a column lies in another line of the cache,
/// and all rows of a picture together reach more lines than it holds.
const HELD: usize = 16;

/// Sums rows by the weights of a kernel. Row `y` of the sums becomes column `y` of `out`,
/// `[columns, to]`.
struct Pass<'a> {
    bytes: &'a [u8],
    stride: usize,
    columns: Range<usize>,
    kernel: &'a Kernel,
    /// The kernel's row that is the first one here.
    skipped: usize,
    out: &'a mut [u8],
    /// One row of sums, and the bytes that `HELD` rows of them become.
    sums: &'a mut [f32],
    levels: &'a mut [u8],
}

impl WithSimd for Pass<'_> {
    type Output = ();

    // Inlined into what is compiled for each kind of processor.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let to = self.kernel.shape.to;
        let taps = self.kernel.taps;
        let width = self.columns.len();
        let blocks = width / BLOCK * BLOCK;
        for y in 0..to {
            let weights = &self.kernel.weights[y * taps..][..taps];
            let start = (self.kernel.first[y] - self.skipped) * self.stride + self.columns.start;
            let rows = &self.bytes[start..];
            for x in (0..blocks).step_by(BLOCK) {
                let mut sums = [0f32; BLOCK];
                let mut at = x;
                for &weight in weights {
                    let row: &[u8; BLOCK] = rows[at..].first_chunk().expect("a block of a row");
                    for lane in 0..BLOCK {
                        sums[lane] += weight * f32::from(row[lane]);
                    }
                    at += self.stride;
                }
                self.sums[x..x + BLOCK].copy_from_slice(&sums);
            }
            for x in blocks..width {
                let mut sum = 0f32;
                for (row, &weight) in weights.iter().enumerate() {
                    sum += weight * f32::from(rows[row * self.stride + x]);
                }
                self.sums[x] = sum;
            }
            let held = y % HELD;
            let levels = &mut self.levels[held * width..][..width];
            for (level, &sum) in levels.iter_mut().zip(&*self.sums) {
                *level = to_level(sum);
            }
            if held + 1 == HELD || y + 1 == to {
                let top = y - held;
                for x in 0..width {
                    let place = &mut self.out[x * to + top..][..=held];
                    for (row, level) in place.iter_mut().enumerate() {
                        *level = self.levels[row * width + x];
                    }
                }
            }
        }
    }
}

/// A sum, cut to what a byte holds and rounded.
#[inline(always)]
#[expect(clippy::manual_clamp, reason = "clamp keeps what is no number")]
fn to_level(sum: f32) -> u8 {
    // From 2^23 on, the last bits of a float count ones. Casts would check for more, pixel by pixel.
    (sum.max(0.0).min(255.0) + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use fast_image_resize::images::{TypedImage, TypedImageRef};
    use fast_image_resize::pixels::U8;
    use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

    use super::*;

    #[test]
    fn it_is_what_fast_image_resize_gives() {
        let size = [90usize, 131];
        let bytes: Vec<u8> = (0..90 * 131)
            .map(|i| (i * 7919 % 256) as u8 / 2 + (i % 131) as u8 / 2 + (i / 131) as u8 / 3)
            .collect();
        let plane = Plane {
            bytes: &bytes,
            stride: 131,
            size,
        };
        let mut ours = Resampler::default();
        for to in [[90, 131], [45, 60], [13, 17], [200, 40], [33, 300], [1, 1]] {
            for cut in [[0.0, 0.0, 90.0, 131.0], [3.5, 20.25, 80.0, 100.0]] {
                let mut found = vec![0; to[0] * to[1]];
                ours.run(plane, cut, &mut found, to);
                let mut wanted = vec![0; to[0] * to[1]];
                let source = TypedImageRef::<U8>::from_buffer(131, 90, &bytes).unwrap();
                let [height, width] = to.map(|side| side as u32);
                let mut target = TypedImage::<U8>::from_buffer(width, height, &mut wanted).unwrap();
                let options = ResizeOptions::new()
                    .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
                    .crop(cut[1], cut[0], cut[3], cut[2]);
                Resizer::new()
                    .resize_typed(&source, &mut target, &options)
                    .unwrap();
                for (at, (&a, &b)) in found.iter().zip(&wanted).enumerate() {
                    assert!(
                        a.abs_diff(b) <= 2,
                        "{to:?} of {cut:?}, byte {at}: {a} and {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn flat_planes_stay_flat_and_checkerboards_turn_gray() {
        let mut resampler = Resampler::default();
        fn plane(bytes: &[u8]) -> Plane<'_> {
            Plane {
                bytes,
                stride: 224,
                size: [224, 224],
            }
        }
        for value in [0u8, 1, 127, 254, 255] {
            let bytes = vec![value; 224 * 224];
            let mut out = vec![0; 37 * 300];
            resampler.run(plane(&bytes), [0.0, 0.0, 224.0, 224.0], &mut out, [37, 300]);
            assert!(out.iter().all(|&level| level == value), "{value}");
        }
        let bytes: Vec<u8> = (0..224 * 224)
            .map(|i| if (i / 224 + i % 224) % 2 == 0 { 255 } else { 0 })
            .collect();
        let mut out = vec![0; 32 * 32];
        resampler.run(plane(&bytes), [0.0, 0.0, 224.0, 224.0], &mut out, [32, 32]);
        for &level in &out {
            assert!(level.abs_diff(127) <= 3, "{level}");
        }
    }

    #[test]
    fn a_tiny_plane_is_enlarged() {
        let plane = Plane {
            bytes: &[10, 0, 0, 20],
            stride: 3,
            size: [2, 1],
        };
        let mut out = [0; 40];
        Resampler::default().run(plane, [0.0, 0.25, 2.0, 1.0], &mut out, [10, 4]);
        assert!(
            out.iter().all(|&level| (7..=23).contains(&level)),
            "{out:?}"
        );
    }
}
