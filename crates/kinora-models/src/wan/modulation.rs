//! Modulation by time, in 32 bits at least: what a network shared by all blocks says, plus a learned
//! table of the block's own.

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_mesh::{Axis, Extent};
use kinora_nn::LayerNorm;
use kinora_shard::{Cx, Init, Weight};

/// The table of a block.
#[derive(Module, Debug)]
pub(super) struct Modulation {
    table: Weight<2>,
}

/// The modulation of one branch, each `[B, 1 or S, D]`.
#[derive(Clone, Debug)]
pub(super) struct Modulate {
    shift: Tensor<3>,
    scale: Tensor<3>,
    gate: Tensor<3>,
}

impl Modulation {
    /// A table of six vectors, random as in the released code.
    pub(super) fn new(cx: &Cx, dim: Extent) -> Self {
        Self {
            table: table::<6>(cx, dim),
        }
    }

    /// `[B, 1 or S, 6 D]` to the modulation of self-attention and of the feed-forward network.
    pub(super) fn forward(&self, shared: Tensor<3>) -> [Modulate; 2] {
        let width = shared.dims()[2] / 6;
        let dtype = wide(shared.dtype());
        [0, 3].map(|first| {
            let [shift, scale, gate] = [first, first + 1, first + 2].map(|i| {
                let shared = shared.clone().narrow(2, i * width, width);
                shared.cast(dtype) + row(&self.table, i, dtype)
            });
            Modulate { shift, scale, gate }
        })
    }
}

impl Modulate {
    /// What goes into the branch: `x` normalised, scaled and shifted, and rounded once.
    pub(super) fn enter(&self, norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        shift_scale(norm, x, self.shift.clone(), self.scale.clone())
    }

    /// `x` and what comes out of the branch.
    pub(super) fn leave(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let (dtype, wide) = (x.dtype(), self.gate.dtype());
        (x.cast(wide) + y.cast(wide) * self.gate.clone()).cast(dtype)
    }
}

/// `norm(x) (1 + scale) + shift`, computed in the type of the modulation.
pub(super) fn shift_scale(
    norm: &LayerNorm,
    x: Tensor<3>,
    shift: Tensor<3>,
    scale: Tensor<3>,
) -> Tensor<3> {
    let dtype = x.dtype();
    let x = norm.forward(x.cast(scale.dtype()));
    (x * scale.add_scalar(1.0) + shift).cast(dtype)
}

/// A table of `N` vectors.
pub(super) fn table<const N: usize>(cx: &Cx, dim: Extent) -> Weight<2> {
    let std = (dim.len as f64).powf(-0.5);
    cx.param("table", [Axis::Channel.of(N), dim], Init::Normal(std))
}

/// A vector of a table, `[1, 1, D]`.
pub(super) fn row(table: &Weight<2>, i: usize, dtype: DType) -> Tensor<3> {
    table.val().narrow(0, i, 1).cast(dtype).unsqueeze()
}

/// The type that modulation is computed in.
pub(super) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
