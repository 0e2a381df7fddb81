//! From tokens to patches (`FinalLayer`).

use super::HunyuanConfig;
use super::double::EPSILON;
use super::modulation::{Modulate, wide};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kinora_mesh::Axis;
use kinora_nn::{LayerNorm, Linear, LinearConfig};
use kinora_shard::Cx;

/// A norm modulated by the condition, and a linear layer.
#[derive(Module, Debug)]
pub(super) struct Head {
    shift: Linear,
    scale: Linear,
    norm: LayerNorm,
    linear: Linear,
}

impl Head {
    pub(super) fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let patch = Axis::Channel.of(config.patch_len(config.out_channels));
        let layer = |to, name: &str| {
            let linear = LinearConfig::new(width, to).with_bias().scaled(0.0);
            linear.init(&cx.at(name))
        };
        Self {
            shift: layer(width, "shift"),
            scale: layer(width, "scale"),
            norm: LayerNorm::plain(EPSILON),
            // Silent at first, so that training starts at the mean of the data.
            linear: layer(patch, "linear"),
        }
    }

    /// `x` of `[B, S, D]` and the condition, `[B, 1, D]`, to `[B, S, C pt ph pw]`.
    pub(super) fn forward(&self, x: Tensor<3>, condition: Tensor<3>) -> Tensor<3> {
        let condition = silu(condition);
        let [shift, scale] = [&self.shift, &self.scale].map(|linear| {
            let vector = linear.forward(condition.clone());
            let dtype = wide(vector.dtype());
            vector.cast(dtype)
        });
        self.linear
            .forward(Modulate { shift, scale }.of(&self.norm, x))
    }
}
