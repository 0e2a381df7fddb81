//! From tokens to patches (`Head`).

use super::WanConfig;
use super::modulation::{row, shift_scale, table, wide};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{LayerNorm, Linear, LinearConfig};
use kinora_shard::{Cx, Weight};

/// A norm modulated by a table of its own plus the embedding of time itself, and a linear layer.
#[derive(Module, Debug)]
pub(super) struct Head {
    table: Weight<2>,
    norm: LayerNorm,
    linear: Linear,
}

impl Head {
    pub(super) fn new(cx: &Cx, config: &WanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let patch = Axis::Channel.of(config.patch_len(config.out_channels));
        Self {
            table: table::<2>(cx, width),
            norm: LayerNorm::plain(config.epsilon),
            // Silent at first, so that training starts at the mean of the data.
            linear: LinearConfig::new(width, patch)
                .with_bias()
                .scaled(0.0)
                .init(&cx.at("linear")),
        }
    }

    /// `x` of `[B, S, D]` and `time` of `[B, 1 or S, D]` to `[B, S, pt ph pw C]`.
    pub(super) fn forward(&self, x: Tensor<3>, time: Tensor<3>) -> Tensor<3> {
        let dtype = wide(time.dtype());
        let time = time.cast(dtype);
        let [shift, scale] = [0, 1].map(|i| time.clone() + row(&self.table, i, dtype));
        self.linear
            .forward(shift_scale(&self.norm, x, shift, scale))
    }
}
