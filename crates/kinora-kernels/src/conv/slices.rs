//! Convolutions on slices in host memory.

use super::Window;
use super::video::Video;
use crate::host::{Flat, tensor};
use crate::matrix::{Into, Matrix, multiply};
use crate::real::Real;
use burn::tensor::Tensor;
use rayon::prelude::*;

// Outputs of a block: enough that the weights, which every block reads, are read seldom, and few enough
// that the products stay in a core's own cache. It is the same for any number of threads, and so are the
// bits of the result.
const BLOCK: usize = 256;

// From so many outputs on, it pays to lay the matrix of each element of the window out by itself.
const PACKED: usize = 1024;

/// The forward pass.
pub(super) fn forward<T: Real>(
    earlier: Option<Tensor<5>>,
    x: Tensor<5>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    window: &Window,
) -> Tensor<5> {
    let [b, frames, rows, cols, channels] = x.dims();
    let to = bias.dims()[0];
    let earlier_frames = earlier.as_ref().map_or(0, |earlier| earlier.dims()[1]);
    let earlier = earlier.map(Flat::<T>::of);
    let (x, weight, bias) = (Flat::<T>::of(x), Flat::<T>::of(weight), Flat::<T>::of(bias));
    let video = Video {
        data: &x,
        frames,
        earlier: earlier.as_deref().unwrap_or(&[]),
        earlier_frames,
        rows,
        cols,
        channels,
        enlarge: window.enlarge,
        apart: [1; 3],
    };
    let outputs = b * window.out.iter().product::<usize>();
    let packed = (outputs >= PACKED).then(|| packed(&weight, window.taps(), to));
    let taps = Taps {
        data: packed.as_deref().unwrap_or(&weight),
        packed: packed.is_some(),
        kernel: window.kernel,
        from: channels,
        to,
        adjoint: false,
    };
    let out = correlate(&video, b, &taps, Some(&bias), window);
    let [t, h, w] = window.out;
    tensor(out, [b, t, h, w, to])
}

/// The matrices of the elements of a window.
#[derive(Clone, Copy)]
pub(super) struct Taps<'a, T> {
    /// `[from, taps, to]`, or packed, `[taps, from, to]`.
    pub(super) data: &'a [T],
    pub(super) packed: bool,
    pub(super) kernel: [usize; 3],
    pub(super) from: usize,
    pub(super) to: usize,
    /// The window is turned round, and maps gradients of outputs to gradients of inputs.
    pub(super) adjoint: bool,
}

impl<'a, T: Real> Taps<'a, T> {
    /// Channels of the output.
    fn outputs(&self) -> usize {
        if self.adjoint { self.from } else { self.to }
    }

    fn matrix(&self, [t, h, w]: [usize; 3]) -> Matrix<'a, T> {
        let [kt, kh, kw] = self.kernel;
        let taps = kt * kh * kw;
        let at = (t * kh + h) * kw + w;
        let matrix = |at: usize| {
            let (start, stride) = if self.packed {
                (at * self.from * self.to, self.to)
            } else {
                (at * self.to, taps * self.to)
            };
            Matrix::rows(&self.data[start..], self.from, self.to, stride)
        };
        if self.adjoint {
            matrix(taps - 1 - at).transposed()
        } else {
            matrix(at)
        }
    }
}

/// `[from, taps, to]` to `[taps, from, to]`.
fn packed<T: Real>(weight: &[T], taps: usize, to: usize) -> Vec<T> {
    let mut packed = vec![T::ZERO; weight.len()];
    let each = packed.par_chunks_mut(weight.len() / taps).enumerate();
    each.for_each(|(tap, packed)| {
        for (packed, all) in packed
            .chunks_exact_mut(to)
            .zip(weight.chunks_exact(taps * to))
        {
            packed.copy_from_slice(&all[tap * to..][..to]);
        }
    });
    packed
}

/// Rows of one frame of the output.
struct Block<'a, T> {
    frame: usize,
    row: usize,
    out: &'a mut [T],
}

/// Copies that a task makes, kept from block to block.
#[derive(Default)]
struct Scratch<T> {
    lines: Vec<T>,
    sums: Vec<T>,
}

/// What a window with these matrices gives of a video; parallel over blocks of rows.
pub(super) fn correlate<T: Real>(
    video: &Video<'_, T>,
    samples: usize,
    taps: &Taps<'_, T>,
    bias: Option<&[T]>,
    window: &Window,
) -> Vec<T> {
    let [frames, height, width] = window.out;
    let line = width * taps.outputs();
    let mut out = vec![T::ZERO; samples * frames * height * line];
    if out.is_empty() {
        return out;
    }
    let blocks = (height * width).div_ceil(BLOCK).min(height);
    let rows = height.div_ceil(blocks);
    let frames_of_out = out.chunks_exact_mut(height * line).enumerate();
    let blocks: Vec<Block<'_, T>> = frames_of_out
        .flat_map(|(frame, out)| {
            let blocks = out.chunks_mut(rows * line).enumerate();
            blocks.map(move |(block, out)| Block {
                frame,
                row: block * rows,
                out,
            })
        })
        .collect();
    blocks
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, block| {
            fill(
                video,
                taps,
                window,
                block.frame,
                block.row,
                block.out,
                scratch,
            );
            if let Some(bias) = bias {
                for pixel in block.out.chunks_exact_mut(bias.len()) {
                    for (out, &bias) in pixel.iter_mut().zip(bias) {
                        *out += bias;
                    }
                }
            }
        });
    out
}

/// Computes the rows of `out`, which start with row `first` of a frame.
///
/// With steps of one, shifted rows that lie one after the other with their margins are one matrix with a
/// row a pixel, a few of which straddle two rows and are left out at the end. Longer steps go row by row.
fn fill<T: Real>(
    video: &Video<'_, T>,
    taps: &Taps<'_, T>,
    window: &Window,
    frame: usize,
    first: usize,
    out: &mut [T],
    scratch: &mut Scratch<T>,
) {
    let [frames, _, width] = window.out;
    let [kt, kh, kw] = window.kernel;
    let [st, sh, sw] = window.stride;
    let (c, d) = (video.channels, taps.outputs());
    let rows = out.len() / (width * d);
    let (sample, frame) = (frame / frames, frame % frames);
    let padded = (width - 1) * sw + kw; // columns of a line
    let height = (rows - 1) * sh + kh; // lines
    let stepped = sh > 1 || sw > 1;
    let straddling = !stepped && kw > 1;
    let pixels = (rows - 1) * padded + width;

    let lines = grown(&mut scratch.lines, height * padded * c);
    let sums = if straddling {
        grown(&mut scratch.sums, pixels * d)
    } else {
        &mut []
    };
    let mut into = Into::Replace;
    for t in 0..kt {
        let at = (frame * st + t) as isize - window.before[0];
        let Some(source) = video.frame(sample, at) else {
            continue;
        };
        for (y, line) in lines.chunks_exact_mut(padded * c).enumerate() {
            let at = (first * sh + y) as isize - window.before[1];
            video.copy_row(source, at, -window.before[2], line);
        }
        for h in 0..kh {
            for w in 0..kw {
                let tap = taps.matrix([t, h, w]);
                if stepped {
                    for (row, out) in out.chunks_exact_mut(width * d).enumerate() {
                        let start = ((row * sh + h) * padded + w) * c;
                        let pixels = Matrix::rows(&lines[start..], width, c, sw * c);
                        multiply(out, into, pixels, tap, T::ONE);
                    }
                } else {
                    let pixels = Matrix::rows(&lines[(h * padded + w) * c..], pixels, c, c);
                    let out = if straddling { &mut *sums } else { &mut *out };
                    multiply(out, into, pixels, tap, T::ONE);
                }
                into = Into::Add;
            }
        }
    }
    if into == Into::Add && straddling {
        for (row, out) in out.chunks_exact_mut(width * d).enumerate() {
            out.copy_from_slice(&sums[row * padded * d..][..width * d]);
        }
    }
}

/// The first `len` elements of a buffer, which is made longer if need be.
pub(super) fn grown<T: Real>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::ZERO);
    }
    &mut buffer[..len]
}
