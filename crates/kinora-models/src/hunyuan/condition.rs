//! What modulates: time, the summary of the prompt, and guidance, each embedded and added up.

use super::HunyuanConfig;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kinora_mesh::{Axis, Extent};
use kinora_nn::{Linear, LinearConfig, TimeEmbedding};
use kinora_shard::Cx;

/// The embeddings.
#[derive(Module, Debug)]
pub(super) struct Condition {
    time: TimeEmbedding,
    pooled: Projection,
    guidance: Option<TimeEmbedding>,
}

/// Two linear layers with SiLU between them (`TextProjection`).
#[derive(Module, Debug)]
pub(super) struct Projection {
    first: Linear,
    second: Linear,
}

impl Condition {
    pub(super) fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let guidance = |cx: &Cx| TimeEmbedding::new(&cx.at("guidance"), width);
        Self {
            time: TimeEmbedding::new(&cx.at("time"), width),
            pooled: Projection::new(&cx.at("pooled"), config.pooled, width),
            guidance: config.guidance.then(|| guidance(cx)),
        }
    }

    /// Times and guidance, `[B, 1]`, both in thousandths, and the summary, `[B, 1, width]`, to
    /// `[B, 1, D]`.
    pub(super) fn forward(
        &self,
        time: Tensor<2>,
        pooled: Tensor<3>,
        guidance: Option<Tensor<2>>,
    ) -> Tensor<3> {
        let sum = self.time.of_steps(time) + self.pooled.forward(pooled);
        match (&self.guidance, guidance) {
            (Some(embedding), Some(guidance)) => sum + embedding.of_steps(guidance),
            (None, None) => sum,
            (Some(_), None) => panic!("the model reads the guidance, and none was given"),
            (None, Some(_)) => panic!("guidance was given, and the model reads none"),
        }
    }
}

impl Projection {
    pub(super) fn new(cx: &Cx, from: usize, width: Extent) -> Self {
        let layer = |from, name: &str| {
            let linear = LinearConfig::new(from, width).with_bias();
            linear.init(&cx.at(name))
        };
        Self {
            first: layer(Axis::Channel.of(from), "first"),
            second: layer(width, "second"),
        }
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.second.forward(silu(self.first.forward(x)))
    }
}
