//! Modulation of a block by the condition, in 32 bits at least (`ModulateDiT`).

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor};
use kinora_mesh::{Axis, Extent};
use kinora_nn::{LayerNorm, Linear, LinearConfig};
use kinora_shard::Cx;

/// A layer that makes `N` vectors of the condition.
#[derive(Module, Debug)]
pub(super) struct Modulation {
    linear: Linear,
}

/// What goes into a branch: shifted and scaled.
#[derive(Clone, Debug)]
pub(super) struct Modulate {
    pub(super) shift: Tensor<3>,
    pub(super) scale: Tensor<3>,
}

/// How much of what comes out of it is added.
#[derive(Clone, Debug)]
pub(super) struct Gate(pub(super) Tensor<3>);

impl Modulation {
    /// Of `count` vectors, zeros at first, so that blocks are silent.
    pub(super) fn new(cx: &Cx, dim: Extent, count: usize) -> Self {
        let all = Axis::Channel.of(count * dim.len);
        let linear = LinearConfig::new(dim, all).with_bias().scaled(0.0);
        Self {
            linear: linear.init(cx),
        }
    }

    /// The condition, `[B, 1, D]`, to `N` vectors of the same shape.
    pub(super) fn forward<const N: usize>(&self, condition: Tensor<3>) -> [Tensor<3>; N] {
        let all = self.linear.forward(silu(condition));
        let width = all.dims()[2] / N;
        let dtype = wide(all.dtype());
        std::array::from_fn(|i| all.clone().narrow(2, i * width, width).cast(dtype))
    }
}

impl Modulate {
    /// `norm(x) (1 + scale) + shift`, computed in the type of the modulation and rounded once.
    pub(super) fn of(&self, norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        let x = norm.forward(x.cast(self.scale.dtype()));
        (x * self.scale.clone().add_scalar(1.0) + self.shift.clone()).cast(dtype)
    }
}

impl Gate {
    /// `x` and the gated `y`.
    pub(super) fn add(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let (dtype, wide) = (x.dtype(), self.0.dtype());
        (x.cast(wide) + y.cast(wide) * self.0.clone()).cast(dtype)
    }
}

/// The type that modulation is computed in.
pub(super) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
