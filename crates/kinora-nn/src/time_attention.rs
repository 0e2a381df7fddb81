//! Attention of a pixel to itself in all frames, with one head: what follows attention within frames as
//! a model of images becomes one of videos (Movie Gen, arXiv 2410.13720, section 3.1.1).

use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_shard::Cx;

/// Full attention along time, each pixel by itself. Its output layer starts at zero, so that beside a
/// shortcut a model of images goes on as it was.
#[derive(Module, Debug)]
pub struct TimeAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl TimeAttention {
    /// One head as wide as there are channels.
    pub fn new(cx: &Cx, channels: usize) -> Self {
        let width = Axis::Embed.of(channels);
        let linear = |name: &str, factor: f64| {
            LinearConfig::new(width, width)
                .with_bias()
                .scaled(factor)
                .init(&cx.at(name))
        };
        Self {
            query: linear("query", 1.0),
            key: linear("key", 1.0),
            value: linear("value", 1.0),
            out: linear("out", 0.0),
        }
    }

    /// `[B, T, H, W, C]` to the same.
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [b, t, h, w, c] = x.dims();
        let lines = x
            .reshape([b, t, h * w, c])
            .swap_dims(1, 2) // [B, H W, T, C]
            .reshape([b * h * w, t, c]);
        let [query, key, value] = [&self.query, &self.key, &self.value]
            .map(|linear| linear.forward(lines.clone()).unsqueeze_dim(1)); // [B H W, 1, T, C]
        let seen = kinora_kernels::attention(query, key, value, None);
        self.out
            .forward(seen.reshape([b * h * w, t, c]))
            .reshape([b, h * w, t, c])
            .swap_dims(1, 2)
            .reshape([b, t, h, w, c])
    }
}
