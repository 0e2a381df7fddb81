//! Attention of the pixels of a frame to each other, with one head.

use crate::{Linear, LinearConfig, Recall, Stripes};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_shard::Cx;

/// Full attention within each frame. A stripe's queries meet the keys of the whole frame.
#[derive(Module, Debug)]
pub struct FrameAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    #[module(skip)]
    stripes: Stripes,
}

impl FrameAttention {
    /// One head as wide as there are channels.
    pub fn new(cx: &Cx, channels: usize) -> Self {
        let width = Axis::Embed.of(channels);
        let linear = |name: &str| {
            LinearConfig::new(width, width)
                .with_bias()
                .init(&cx.at(name))
        };
        Self {
            query: linear("query"),
            key: linear("key"),
            value: linear("value"),
            out: linear("out"),
            stripes: Stripes::new(cx),
        }
    }

    /// `[B, T, H, W, C]` to the same.
    pub fn forward(&self, x: Tensor<5>, recall: &Recall) -> Tensor<5> {
        let shape @ [b, t, h, w, c] = x.dims();
        let x = x.reshape([b * t, h * w, c]);
        let query = self.query.forward(x.clone());
        let whole = if self.stripes.count() > 1 {
            recall.rows()
        } else {
            h
        };
        let [key, value] = [&self.key, &self.value].map(|linear| {
            let rows = linear.forward(x.clone()).reshape([b * t, h, w * c]);
            let rows = self.stripes.gather(rows, whole);
            rows.reshape([b * t, 1, whole * w, c])
        });
        let query = query.reshape([b * t, 1, h * w, c]);
        let out = kinora_kernels::attention(query, key, value, None);
        self.out
            .forward(out.reshape([b * t, h * w, c]))
            .reshape(shape)
    }
}
