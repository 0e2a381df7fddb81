//! Normalisation over the model width, or over all heads.

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_kernels::op::{Back, custom};
use kinora_mesh::Extent;
use kinora_shard::{Cx, Group, Init, Weight};
use std::sync::Arc;

// LLaMa 3's; small against the variance of any activation.
const EPSILON: f64 = 1e-5;

/// Root mean square normalisation (Zhang and Sennrich 2019), with a learned weight.
#[derive(Module, Debug)]
pub struct RmsNorm {
    weight: Weight<1>,
    // The ranks that hold the rest of the normalised axis.
    #[module(skip)]
    group: Group,
    #[module(skip)]
    width: usize,
}

impl RmsNorm {
    /// A norm over the last dimension, which may be cut.
    pub fn new(cx: &Cx, width: Extent) -> Self {
        Self {
            weight: cx.param("weight", [width], Init::Constant(1.0)),
            group: cx.group_of(width.axis),
            width: width.len,
        }
    }

    /// `[B, S, D of this rank]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val();
        if self.group.size() == 1 {
            return kinora_kernels::rms_norm(x, weight, EPSILON);
        }
        let weight = weight.reshape([1, 1, -1]);
        custom([x, weight], |[x, weight]| {
            across(x, weight, self.group.clone(), self.width as f64)
        })
    }
}

/// The norm of an axis that the ranks of a group hold parts of: forward one sum of squares travels for
/// each token, and backward one more, of what each rank knows of the statistic's gradient.
fn across(x: Tensor<3>, weight: Tensor<3>, group: Group, width: f64) -> (Tensor<3>, Back<3, 2>) {
    // The statistic, and what is made with it, in 32 bits at least; rounded once.
    let (half, wide) = (
        x.dtype(),
        if x.dtype() == DType::F64 {
            DType::F64
        } else {
            DType::F32
        },
    );
    let (x, weight) = (x.cast(wide), weight.cast(wide));
    let squares = x.clone().square().sum_dim(2); // [B, S, 1]
    let mean = group.sum_of(squares, "norm across ranks") / width;
    let scale = (mean + EPSILON).sqrt().recip();
    let normed = x * scale.clone();
    let out = normed.clone() * weight.clone();
    let back = move |gradient: Tensor<3>| {
        let gradient = gradient.cast(wide);
        let scaled = gradient.clone() * weight.clone();
        let along = (scaled.clone() * normed.clone()).sum_dim(2);
        let along = group.sum_of(along, "norm across ranks") / width;
        let d_x = (scaled - normed.clone() * along) * scale.clone();
        let d_weight = (gradient * normed.clone()).sum_dim(0).sum_dim(1);
        [d_x, d_weight].map(|x| x.cast(half))
    };
    (out.cast(half), Arc::new(back))
}

/// Layer normalisation (Ba, Kiros and Hinton 2016), with a learned weight and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Weight<1>,
    bias: Weight<1>,
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
        let dtype = x.dtype();
        let wide = if dtype == DType::F64 {
            dtype
        } else {
            DType::F32
        };
        let x = x.cast(wide);
        let x = x.clone() - x.mean_dim(2);
        let variance = x.clone().square().mean_dim(2);
        let x = x * variance.add_scalar(EPSILON).sqrt().recip();
        let [weight, bias] =
            [&self.weight, &self.bias].map(|w| w.val().cast(wide).reshape([1, 1, -1]));
        (x * weight + bias).cast(dtype)
    }
}
