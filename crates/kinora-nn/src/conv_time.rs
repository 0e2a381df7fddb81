//! Convolutions along time that follow one along rows and columns, as a model of images becomes one of
//! videos ("2.5D"; Movie Gen, arXiv 2410.13720, section 3.1.1).
//!
//! Shapes: `B` samples, `T` frames, `H` rows, `W` columns, `C` channels.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_kernels::{Window, convolve};
use kinora_mesh::Axis;
use kinora_shard::{Cx, Init, Weight};

const TAPS: usize = 3;

/// A pixel, and what the same pixel of the frames before, now and after adds to it. Before the first
/// frame and behind the last lie copies of them.
///
/// The weight, `[C taps, C]` with the taps inside, is what a convolution differs in from one that copies
/// the frame in its middle: it starts at zero, so that a model of images goes on as it was.
#[derive(Module, Debug)]
pub struct TimeConv {
    weight: Weight<2>,
    bias: Weight<1>,
    #[module(skip)]
    stride: usize,
}

impl TimeConv {
    /// A layer that changes nothing yet.
    pub fn new(cx: &Cx, channels: usize) -> Self {
        let [from, to] = [channels * TAPS, channels].map(|len| Axis::Embed.of(len));
        Self {
            weight: cx.param("weight", [from, to], Init::Constant(0.0)),
            bias: cx.param("bias", [to], Init::Constant(0.0)),
            stride: 1,
        }
    }

    /// The same for every second frame, beginning with the first, if it `halves`.
    pub fn halving(self, halves: bool) -> Self {
        let stride = if halves { 2 } else { 1 };
        Self { stride, ..self }
    }

    /// `[B, T, H, W, C]` to the same; half of the frames, rounded up, if it halves.
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [_, t, h, w, _] = x.dims();
        let first = x.clone().narrow(1, 0, 1);
        let last = x.clone().narrow(1, t - 1, 1);
        let window = Window {
            kernel: [TAPS, 1, 1],
            stride: [self.stride, 1, 1],
            before: [0; 3],
            out: [t.div_ceil(self.stride), h, w],
            enlarge: 1,
        };
        let around = Tensor::cat(vec![first, x.clone(), last.clone()], 1);
        let added = convolve(None, around, self.weight.val(), self.bias.val(), window);
        if self.stride == 1 {
            return x + added;
        }
        second_frames(x, last) + added
    }
}

/// Every second frame, beginning with the first.
fn second_frames(x: Tensor<5>, last: Tensor<5>) -> Tensor<5> {
    let [b, t, h, w, c] = x.dims();
    let even = if t.is_multiple_of(2) {
        x
    } else {
        Tensor::cat(vec![x, last], 1)
    };
    let half = t.div_ceil(2);
    even.reshape([b, half, 2, h * w, c])
        .narrow(2, 0, 1)
        .reshape([b, half, h, w, c])
}
