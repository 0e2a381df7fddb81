//! Convolutions of videos that lie with their channels last.
//!
//! The weights lie as every linear's do, `[from, to]`, where `from` runs over channels and, within a
//! channel, over the elements of the window. On the CPU no unrolled copy of the video is ever made: the
//! rows of a block of outputs are copied once, with their margins, and each element of the window is a
//! matrix product of a shifted view of them.
//!
//! Shapes: `B` samples, `T` frames, `H` rows, `W` columns, `C` channels.

mod gradient;
mod slices;
mod tensors;
mod video;

use crate::host::{cast, on_host, wide};
use crate::op::{Back, custom};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// The tensor operations that serve any backend, for tests on one that has a faster way.
#[doc(hidden)]
pub mod portable {
    pub use super::tensors::forward;
}

/// Which elements of a video an element of the output sees. Three numbers are along frames, rows and
/// columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Elements of the window.
    pub kernel: [usize; 3],
    /// Steps from one output to the next.
    pub stride: [usize; 3],
    /// How far the first window lies before the first element; negative where it lies behind it. What a
    /// window sees outside of the video is zero.
    pub before: [isize; 3],
    /// The size of the output.
    pub out: [usize; 3],
    /// The video is read as if each pixel were a square of so many.
    pub enlarge: usize,
}

impl Window {
    /// Elements of the window in all.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
}

/// The convolution of `x` of `[B, T, H, W, C]`, preceded in time by `earlier`, `[B, T', H, W, C]`, with
/// `weight` of `[C taps, D]` and `bias` of `[D]`: `[B, T'', H'', W'', D]`, of `window.out`.
///
/// For the backward pass it keeps its inputs.
///
/// # Panics
/// If shapes do not fit.
pub fn convolve(
    earlier: Option<Tensor<5>>,
    x: Tensor<5>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    window: Window,
) -> Tensor<5> {
    let [b, _, h, w, c] = x.dims();
    let [from, to] = weight.dims();
    assert!(
        from == c * window.taps() && bias.dims() == [to],
        "convolve: {c} channels under a window of {:?} take a weight of [{}, D] and a bias of [D], not \
         [{from}, {to}] and {:?}",
        window.kernel,
        c * window.taps(),
        bias.dims(),
    );
    if let Some(earlier) = &earlier {
        let [b2, _, h2, w2, c2] = earlier.dims();
        assert!(
            [b2, h2, w2, c2] == [b, h, w, c],
            "convolve: earlier frames are {:?}, but the video is {:?}",
            earlier.dims(),
            x.dims(),
        );
    }
    if !on_host(&x) {
        return tensors::forward(earlier, x, weight, bias, window);
    }
    let tracked = x.is_autodiff()
        || earlier.as_ref().is_some_and(Tensor::is_autodiff)
        || weight.is_autodiff();
    if !tracked {
        return plain(earlier, x, weight, bias, &window);
    }
    let x = match earlier {
        Some(earlier) => Tensor::cat(vec![earlier, x], 1),
        None => x,
    };
    let weight = weight.reshape([1, 1, 1, from, to]);
    let bias = bias.reshape([1, 1, 1, 1, to]);
    custom([x, weight, bias], move |[x, weight, bias]| {
        let types = [x.dtype(), weight.dtype(), bias.dtype()];
        let weight = weight.reshape([from, to]);
        let out = plain(None, x.clone(), weight.clone(), bias.reshape([to]), &window);
        let back: Back<5, 3> = Arc::new(move |d_out| {
            let (x, weight, d_out) = (wide(x.clone()), wide(weight.clone()), wide(d_out));
            let (d_x, d_weight, d_bias) = if d_out.dtype() == DType::F64 {
                gradient::backward::<f64>(x, weight, d_out, &window)
            } else {
                gradient::backward::<f32>(x, weight, d_out, &window)
            };
            [
                cast(d_x, types[0]),
                cast(d_weight, types[1]).reshape([1, 1, 1, from, to]),
                cast(d_bias, types[2]).reshape([1, 1, 1, 1, to]),
            ]
        });
        (out, back)
    })
}

/// On plain tensors in host memory.
fn plain(
    earlier: Option<Tensor<5>>,
    x: Tensor<5>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    window: &Window,
) -> Tensor<5> {
    let dtype = x.dtype();
    let (earlier, x, weight, bias) = (earlier.map(wide), wide(x), wide(weight), wide(bias));
    let out = if x.dtype() == DType::F64 {
        slices::forward::<f64>(earlier, x, weight, bias, window)
    } else {
        slices::forward::<f32>(earlier, x, weight, bias, window)
    };
    cast(out, dtype)
}
