//! The text that cross-attention reads (`text_embedding`).

use super::WanConfig;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{Linear, LinearConfig, gelu_tanh};
use kinora_shard::Cx;

/// Two linear layers.
#[derive(Module, Debug)]
pub(super) struct Text {
    first: Linear,
    second: Linear,
    #[module(skip)]
    tokens: usize,
}

impl Text {
    pub(super) fn new(cx: &Cx, config: &WanConfig) -> Self {
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.dim);
        let layer = |from, name: &str| {
            let linear = LinearConfig::new(from, width).with_bias();
            linear.init(&cx.at(name))
        };
        Self {
            first: layer(Axis::Channel.of(config.text), "first"),
            second: layer(width, "second"),
            tokens: config.text_tokens,
        }
    }

    /// Embeddings `[B, L, width]`, without what stands for padding, to `[B, L of the model, D]`.
    pub(super) fn forward(&self, text: Tensor<3>) -> Tensor<3> {
        let [b, l, width] = text.dims();
        let missing = self.tokens.saturating_sub(l);
        let text = if missing > 0 {
            let nothing = Tensor::zeros([b, missing, width], (&text.device(), text.dtype()));
            Tensor::cat(vec![text, nothing], 1)
        } else {
            text
        };
        self.second.forward(gelu_tanh(self.first.forward(text)))
    }
}
