//! Normalisation over the model width.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kinora_mesh::Extent;
use kinora_shard::{Cx, Init};

// LLaMa 3's; small against the variance of any activation.
const EPSILON: f64 = 1e-5;

/// Root mean square normalisation (Zhang and Sennrich 2019), with a learned weight.
#[derive(Module, Debug)]
pub struct RmsNorm {
    weight: Param<Tensor<1>>,
}

impl RmsNorm {
    /// A norm over the last dimension.
    pub fn new(cx: &Cx, width: Extent) -> Self {
        Self {
            weight: cx.param("weight", [width], Init::Constant(1.0)),
        }
    }

    /// `[B, S, D]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kinora_kernels::rms_norm(x, self.weight.val(), EPSILON)
    }
}

/// Layer normalisation (Ba, Kiros and Hinton 2016), with a learned weight and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// A norm over the last dimension.
    pub fn new(cx: &Cx, width: Extent) -> Self {
        Self {
            weight: cx.param("weight", [width], Init::Constant(1.0)),
            bias: cx.param("bias", [width], Init::Constant(0.0)),
        }
    }

    /// `[B, S, D]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() - x.mean_dim(2);
        let variance = x.clone().square().mean_dim(2);
        let x = x * variance.add_scalar(EPSILON).sqrt().recip();
        x * self.weight.val().reshape([1, 1, -1]) + self.bias.val().reshape([1, 1, -1])
    }
}
