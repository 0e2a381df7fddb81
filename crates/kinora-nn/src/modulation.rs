//! Modulation by time, shared by all blocks (adaLN-single, PixArt-alpha, Chen et al. 2023): one
//! network makes the shifts, scales and gates, and each block adds a learned table to them.

use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kinora_mesh::{Axis, Extent};
use kinora_shard::{Cx, Init, Weight};

/// The shared network: an embedding of time to `[B, 6, D]`.
#[derive(Module, Debug)]
pub struct Modulator {
    linear: Linear,
}

impl Modulator {
    /// A network from `[B, 1, D]` to six vectors of width `D`.
    pub fn new(cx: &Cx, dim: Extent) -> Self {
        let six = Axis::Channel.of(6 * dim.len);
        Self {
            linear: LinearConfig::new(dim, six)
                .with_bias()
                .init(&cx.at("linear")),
        }
    }

    /// Time `[B, 1, D]` to `[B, 6, D]`.
    pub fn forward(&self, time: Tensor<3>) -> Tensor<3> {
        let [b, _, d] = time.dims();
        self.linear.forward(silu(time)).reshape([b, 6, d])
    }
}

/// A block's own table, added to what the shared network says.
#[derive(Module, Debug)]
pub struct Modulation {
    table: Weight<2>,
}

impl Modulation {
    /// A table of zeros; gates are counted from one, so that every branch starts open.
    pub fn new(cx: &Cx, dim: Extent) -> Self {
        Self {
            table: cx.param("table", [Axis::Channel.of(6), dim], Init::Constant(0.0)),
        }
    }

    /// `[B, 6, D]` to the modulation of the block's two branches.
    pub fn forward(&self, shared: Tensor<3>) -> [Modulate; 2] {
        let all = shared + self.table.val().unsqueeze();
        [0, 3].map(|first| {
            let [shift, scale, gate] = [0, 1, 2].map(|i| all.clone().narrow(1, first + i, 1));
            Modulate {
                shift,
                scale: scale + 1.0,
                gate: gate + 1.0,
            }
        })
    }
}

/// The modulation of one branch, each `[B, 1, D]`.
#[derive(Clone, Debug)]
pub struct Modulate {
    shift: Tensor<3>,
    scale: Tensor<3>,
    gate: Tensor<3>,
}

impl Modulate {
    /// What goes into the branch.
    pub fn shift_scale(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.scale.clone() + self.shift.clone()
    }

    /// What comes out of it.
    pub fn gate(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.gate.clone()
    }
}
