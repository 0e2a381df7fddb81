//! Normalisation of each pixel of a video over its channels.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_shard::{Cx, Init, Weight};

// The square of the least norm that a pixel is divided by.
const FLOOR: f64 = 1e-24;

/// A pixel divided by its root mean square, with a learned weight; `[B, T, H, W, C]`.
#[derive(Module, Debug)]
pub struct PixelNorm {
    weight: Weight<1>,
}

impl PixelNorm {
    /// A norm over `channels` channels.
    pub fn new(cx: &Cx, channels: usize) -> Self {
        Self {
            weight: cx.param("weight", [Axis::Embed.of(channels)], Init::Constant(1.0)),
        }
    }

    /// `[B, T, H, W, C]` to the same.
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let shape @ [b, t, h, w, c] = x.dims();
        let x = x.reshape([1, b * t * h * w, c]);
        kinora_kernels::rms_norm(x, self.weight.val(), FLOOR / c as f64).reshape(shape)
    }

    /// The SiLU of the norm.
    pub fn silu(&self, x: Tensor<5>) -> Tensor<5> {
        let shape @ [b, t, h, w, c] = x.dims();
        let x = x.reshape([b * t * h * w, c]);
        kinora_kernels::rms_norm_silu(x, self.weight.val(), FLOOR / c as f64).reshape(shape)
    }
}
