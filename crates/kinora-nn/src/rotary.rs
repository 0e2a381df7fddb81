//! Rotary positions (RoFormer, Su et al. 2021) of video tokens: a part of every head turns with the
//! frame, a part with the height and a part with the width.
//!
//! Neighbouring elements of a head are one complex number, as in LLaMa's own code.

use crate::norm::wide;
use crate::sequence::range;
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_kernels::op::{Back, custom};
use kinora_mesh::Axis;
use kinora_shard::{Cx, Group};
use std::sync::Arc;

/// The angles of tokens by their place in the video.
#[derive(Module, Debug)]
pub struct Rotary {
    #[module(skip)]
    widths: [usize; 3],
    #[module(skip)]
    theta: f64,
    // What cuts the tokens that attention sees.
    #[module(skip)]
    outside: Vec<Group>,
}

/// The rotation of the queries and keys that this rank makes: plain tensors.
#[derive(Clone, Debug)]
pub struct Rotation {
    // [1, S, 1, K / 2, 1] each
    cos: Tensor<5>,
    sin: Tensor<5>,
}

impl Rotary {
    /// Of the head's width, `widths` elements turn with the frame, the height and the width, each an
    /// even number; the slowest turns `theta` times as slowly as the fastest, nearly.
    pub fn new(cx: &Cx, widths: [usize; 3], theta: f64) -> Self {
        Self {
            widths,
            theta,
            outside: cx.groups_outside(Axis::Heads),
        }
    }

    /// The rotation of the tokens of a grid of `[frames, height, width]`, width fastest, for queries
    /// of type `dtype`.
    pub fn forward(&self, grid: [usize; 3], device: &Device, dtype: DType) -> Rotation {
        // In f64: an f32 angle of a thousand radians would be off by more than a rounding error.
        let rates = self.widths.map(|width| {
            let rate = |i: usize| self.theta.powf(-((2 * i) as f64) / width as f64);
            (0..width / 2).map(rate).collect::<Vec<f64>>()
        });
        let [_, height, width] = grid;
        let mine = range(&self.outside, grid.iter().product());
        let tokens = mine.len();
        let angles: Vec<f64> = mine
            .flat_map(|token| {
                let frame = token / (height * width);
                let place = [frame, token / width % height, token % width];
                let axes = rates.iter().zip(place);
                axes.flat_map(|(rates, at)| rates.iter().map(move |rate| at as f64 * rate))
            })
            .collect();
        let pairs = self.widths.iter().sum::<usize>() / 2;
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|&angle| of(angle)).collect();
            let data = TensorData::new(values, [1, tokens, 1, pairs, 1]);
            Tensor::<5>::from_data(data, (device, wide(dtype))).inner()
        };
        Rotation {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }
}

impl Rotation {
    /// Turns `[B, S, H * K]`, in 32 bits at least.
    pub(crate) fn turn(&self, x: Tensor<3>) -> Tensor<3> {
        let Self { cos, sin } = self.clone();
        custom([x], |[x]| {
            let out = turn(x, &cos, &sin);
            let back: Back<3, 1> =
                Arc::new(move |gradient| [turn(gradient, &cos, &sin.clone().neg())]);
            (out, back)
        })
    }
}

fn turn(x: Tensor<3>, cos: &Tensor<5>, sin: &Tensor<5>) -> Tensor<3> {
    let [b, s, width] = x.dims();
    let [_, tokens, _, pairs, _] = cos.dims();
    assert_eq!(s, tokens, "one rotation for each token");
    let dtype = x.dtype();
    let numbers = x.cast(cos.dtype());
    let numbers = numbers.reshape([b, s, width / (2 * pairs), pairs, 2]);
    let [real, imaginary] = [0, 1].map(|i| numbers.clone().narrow(4, i, 1));
    let turned = vec![
        real.clone() * cos.clone() - imaginary.clone() * sin.clone(),
        real * sin.clone() + imaginary * cos.clone(),
    ];
    Tensor::cat(turned, 4).reshape([b, s, width]).cast(dtype)
}
