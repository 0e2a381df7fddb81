//! Normalisation over the model width, or over all heads.

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_kernels::op::{Back, custom};
use kinora_mesh::{Axis, Extent};
use kinora_shard::{Collective, Cx, Edge, Group, Init, Weight};
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
    #[module(skip)]
    epsilon: f64,
}

impl RmsNorm {
    /// A norm over the last dimension, which may be cut, with LLaMa 3's epsilon of 1e-5.
    pub fn new(cx: &Cx, width: Extent) -> Self {
        Self::with_epsilon(cx, width, EPSILON)
    }

    /// The same norm with `epsilon` added to the mean square.
    pub fn with_epsilon(cx: &Cx, width: Extent, epsilon: f64) -> Self {
        Self {
            weight: cx.param("weight", [width], Init::Constant(1.0)),
            group: cx.group_of(width.axis),
            width: width.len,
            epsilon,
        }
    }

    /// `[B, S, D of this rank]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val();
        if self.group.size() == 1 {
            return kinora_kernels::rms_norm(x, weight, self.epsilon);
        }
        let weight = weight.reshape([1, 1, -1]);
        custom([x, weight], |[x, weight]| {
            let width = self.width as f64;
            across(x, weight, self.group.clone(), width, self.epsilon)
        })
    }
}

/// Root mean square normalisation of each head by itself, with one weight for all heads.
#[derive(Module, Debug)]
pub struct HeadNorm {
    weight: Weight<1>,
    // What sums the weight's gradient over the ranks that hold other heads of the same tokens.
    #[module(skip)]
    entry: Option<Group>,
    #[module(skip)]
    epsilon: f64,
}

impl HeadNorm {
    /// A norm of heads of width `head_dim`.
    pub fn new(cx: &Cx, head_dim: usize, epsilon: f64) -> Self {
        let (edge, group) = cx.entry(Axis::Heads);
        Self {
            weight: cx.param("weight", [Axis::Channel.of(head_dim)], Init::Constant(1.0)),
            // Where these ranks cut the tokens too, the sum over the tokens' cuts is over them already.
            entry: (edge == Edge::Copy).then_some(group),
            epsilon,
        }
    }

    /// `[B, S, H * K]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, s, width] = x.dims();
        let weight = self.weight.val();
        let weight = match &self.entry {
            Some(group) => Collective::Copy.apply(weight, group),
            None => weight,
        };
        let [head_dim] = weight.dims();
        let heads = x.reshape([b, s * width / head_dim, head_dim]);
        kinora_kernels::rms_norm(heads, weight, self.epsilon).reshape([b, s, width])
    }
}

/// The norm of an axis that the ranks of a group hold parts of: forward one sum of squares travels for
/// each token, and backward one more, of what each rank knows of the statistic's gradient.
fn across(
    x: Tensor<3>,
    weight: Tensor<3>,
    group: Group,
    width: f64,
    epsilon: f64,
) -> (Tensor<3>, Back<3, 2>) {
    // The statistic, and what is made with it, in 32 bits at least; rounded once.
    let (half, wide) = (x.dtype(), wide(x.dtype()));
    let (x, weight) = (x.cast(wide), weight.cast(wide));
    let squares = x.clone().square().sum_dim(2); // [B, S, 1]
    let mean = group.sum_of(squares, "norm across ranks") / width;
    let scale = (mean + epsilon).sqrt().recip();
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

/// The type that statistics are computed in.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// Layer normalisation (Ba, Kiros and Hinton 2016), with a learned weight and bias or without.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Option<Weight<1>>,
    bias: Option<Weight<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// A norm over the last dimension, with a weight, a bias and PyTorch's epsilon of 1e-5.
    pub fn new(cx: &Cx, width: Extent) -> Self {
        Self::with_epsilon(cx, width, EPSILON)
    }

    /// The same norm with `epsilon` added to the variance.
    pub fn with_epsilon(cx: &Cx, width: Extent, epsilon: f64) -> Self {
        Self {
            weight: Some(cx.param("weight", [width], Init::Constant(1.0))),
            bias: Some(cx.param("bias", [width], Init::Constant(0.0))),
            epsilon,
        }
    }

    /// A norm without parameters, for what modulation scales and shifts.
    pub fn plain(epsilon: f64) -> Self {
        Self {
            weight: None,
            bias: None,
            epsilon,
        }
    }

    /// `[B, S, D]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (Some(weight), Some(bias)) = (&self.weight, &self.bias) else {
            return custom([x], |[x]| centred(x, self.epsilon));
        };
        let dtype = x.dtype();
        let wide = wide(dtype);
        let x = x.cast(wide);
        let x = x.clone() - x.mean_dim(2);
        let variance = x.clone().square().mean_dim(2);
        let x = x * variance.add_scalar(self.epsilon).sqrt().recip();
        let [weight, bias] = [weight, bias].map(|w| w.val().cast(wide).reshape([1, 1, -1]));
        (x * weight + bias).cast(dtype)
    }
}

/// The norm alone; the backward pass keeps its output and one number a token.
fn centred(x: Tensor<3>, epsilon: f64) -> (Tensor<3>, Back<3, 1>) {
    let dtype = x.dtype();
    let wide = wide(dtype);
    let x = x.cast(wide);
    let x = x.clone() - x.mean_dim(2);
    let variance = x.clone().square().mean_dim(2);
    let scale = variance.add_scalar(epsilon).sqrt().recip(); // [B, S, 1]
    let normed = x * scale.clone();
    let out = normed.clone().cast(dtype);
    let back = move |gradient: Tensor<3>| {
        let gradient = gradient.cast(wide);
        let along = (gradient.clone() * normed.clone()).mean_dim(2);
        let centred = gradient.clone() - gradient.mean_dim(2);
        [((centred - normed.clone() * along) * scale.clone()).cast(dtype)]
    };
    (out, Arc::new(back))
}
