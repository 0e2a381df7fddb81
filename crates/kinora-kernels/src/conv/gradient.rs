//! The gradients of a convolution, on slices in host memory.

use super::Window;
use super::slices::{Taps, correlate, grown};
use super::video::Video;
use crate::host::{Flat, tensor};
use crate::matrix::{Into, Matrix, multiply};
use crate::real::Real;
use burn::tensor::Tensor;
use rayon::prelude::*;

// Pixels whose products are summed at once.
const BLOCK: usize = 512;

/// The gradients of the video, of the weight and of the bias.
pub(super) fn backward<T: Real>(
    x: Tensor<5>,
    weight: Tensor<2>,
    d_out: Tensor<5>,
    window: &Window,
) -> (Tensor<5>, Tensor<2>, Tensor<1>) {
    let [b, frames, rows, cols, channels] = x.dims();
    let [from, to] = weight.dims();
    let n = d_out.dims()[..4].iter().product();
    let d_bias = d_out.clone().reshape([n, to]).sum_dim(0).reshape([to]);

    let (x, weight, d_out) = (
        Flat::<T>::of(x),
        Flat::<T>::of(weight),
        Flat::<T>::of(d_out),
    );
    let video = Video {
        data: &x,
        frames,
        earlier: &[],
        earlier_frames: 0,
        rows,
        cols,
        channels,
        enlarge: window.enlarge,
        apart: [1; 3],
    };
    let d_weight = of_weight(&video, b, &d_out, to, window);

    // A video whose elements lie apart by the steps, seen by the window turned round.
    let [t, h, w] = window.out;
    let gradient = Video {
        data: &d_out,
        frames: t,
        earlier: &[],
        earlier_frames: 0,
        rows: h,
        cols: w,
        channels: to,
        enlarge: 1,
        apart: window.stride,
    };
    let taps = Taps {
        data: &weight,
        packed: false,
        kernel: window.kernel,
        from: channels,
        to,
        adjoint: true,
    };
    let e = window.enlarge;
    let turned = Window {
        stride: [1; 3],
        before: [0, 1, 2].map(|i| window.kernel[i] as isize - 1 - window.before[i]),
        out: [frames, rows * e, cols * e],
        enlarge: 1,
        ..*window
    };
    let d_x = correlate(&gradient, b, &taps, None, &turned);
    let d_x = tensor(d_x, [b * frames * rows, e, cols, e, channels]);
    let d_x = if e > 1 {
        d_x.sum_dim(1).sum_dim(3)
    } else {
        d_x
    };
    (
        d_x.reshape([b, frames, rows, cols, channels]),
        tensor(d_weight, [from, to]),
        d_bias,
    )
}

/// `[channels, taps, to]`; parallel over the elements of the window, each of which sums in one order.
fn of_weight<T: Real>(
    video: &Video<'_, T>,
    samples: usize,
    d_out: &[T],
    to: usize,
    window: &Window,
) -> Vec<T> {
    let [_, kh, kw] = window.kernel;
    let c = video.channels;
    let taps: Vec<Vec<T>> = (0..window.taps())
        .into_par_iter()
        .map(|tap| {
            let tap = [tap / (kh * kw), tap / kw % kh, tap % kw];
            of_tap(video, samples, d_out, to, window, tap)
        })
        .collect();
    let mut whole = vec![T::ZERO; c * taps.len() * to];
    for (channel, whole) in whole.chunks_exact_mut(taps.len() * to).enumerate() {
        for (whole, tap) in whole.chunks_exact_mut(to).zip(&taps) {
            whole.copy_from_slice(&tap[channel * to..][..to]);
        }
    }
    whole
}

/// `[channels, to]`.
fn of_tap<T: Real>(
    video: &Video<'_, T>,
    samples: usize,
    d_out: &[T],
    to: usize,
    window: &Window,
    [t, h, w]: [usize; 3],
) -> Vec<T> {
    let [frames, height, width] = window.out;
    let [st, sh, sw] = window.stride;
    let c = video.channels;
    let mut sum = vec![T::ZERO; c * to];
    let (mut line, mut seen) = (Vec::new(), Vec::new());
    let line = grown(&mut line, ((width - 1) * sw + 1) * c);
    let rows = BLOCK.div_ceil(width).min(height);
    let seen = grown(&mut seen, rows * width * c);
    for frame in 0..samples * frames {
        let at = (frame % frames * st + t) as isize - window.before[0];
        let Some(source) = video.frame(frame / frames, at) else {
            continue;
        };
        let d_out = &d_out[frame * height * width * to..][..height * width * to];
        for (block, d_out) in d_out.chunks(rows * width * to).enumerate() {
            let n = d_out.len() / to;
            let seen = &mut seen[..n * c];
            for (row, seen) in seen.chunks_exact_mut(width * c).enumerate() {
                let at = ((block * rows + row) * sh + h) as isize - window.before[1];
                video.copy_row(source, at, w as isize - window.before[2], line);
                let steps = line.chunks(sw * c).map(|step| &step[..c]);
                for (seen, pixel) in seen.chunks_exact_mut(c).zip(steps) {
                    seen.copy_from_slice(pixel);
                }
            }
            let (seen, d_out) = (Matrix::dense(seen, c), Matrix::dense(d_out, to));
            multiply(&mut sum, Into::Add, seen.transposed(), d_out, T::ONE);
        }
    }
    sum
}
