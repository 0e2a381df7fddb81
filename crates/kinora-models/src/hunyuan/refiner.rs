//! The refiner of the text (`SingleTokenRefiner`): a small transformer over the tokens of a causal
//! language model, whose own attention looks back alone.

use super::HunyuanConfig;
use super::condition::Projection;
use super::modulation::{Gate, Modulation};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{
    Activation, Attention, AttentionConfig, AttentionOptions, LayerNorm, Linear, LinearConfig, Mlp,
    MlpConfig, QkNorm, TimeEmbedding,
};
use kinora_shard::{Cx, Stack};

/// The hidden units of its feed-forward networks, in widths of the model.
const RATIO: usize = 4;

/// Blocks that gate what they add by time and by the mean of the text.
#[derive(Module, Debug)]
pub(super) struct Refiner {
    time: TimeEmbedding,
    pooled: Projection,
    input: Linear,
    blocks: Stack<Block>,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    modulation: Modulation,
}

impl Refiner {
    pub(super) fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.dim);
        let text = Axis::Channel.of(config.text);
        let blocks = |cx: &Cx| Block::new(cx, config);
        Self {
            time: TimeEmbedding::new(&cx.at("time"), width),
            pooled: Projection::new(&cx.at("pooled"), config.text, width),
            input: LinearConfig::new(text, width)
                .with_bias()
                .init(&cx.at("input")),
            blocks: Stack::new(&cx.at("blocks"), config.refiner, blocks),
        }
    }

    /// `text` of `[B, L, width]` at times `[B, 1]` to `[B, L, D]`; what is false in `mask`, `[B, L]`,
    /// is not attended to, nor part of the mean.
    pub(super) fn forward(
        &self,
        text: Tensor<3>,
        mask: Tensor<2, Bool>,
        time: Tensor<2>,
    ) -> Tensor<3> {
        let tokens = text.dims()[1];
        let dtype = text.dtype();
        let counts = mask.clone().inner().float().cast(dtype).unsqueeze_dim(2); // [B, L, 1]
        let mean = (text.clone() * counts.clone()).sum_dim(1) / counts.sum_dim(1);
        let condition = self.time.of_steps(time) + self.pooled.forward(mean);
        let inputs = [self.input.forward(text), condition];
        self.blocks.forward(inputs, move |block, [x, condition]| {
            block.forward(x, condition, &mask, tokens)
        })
    }
}

impl Block {
    fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let norm = |name: &str| LayerNorm::with_epsilon(&cx.at(name), width, 1e-6);
        let attention = AttentionConfig {
            width,
            heads: config.heads,
            norm: QkNorm::None,
            residual: 1.0,
        };
        let options = AttentionOptions {
            bias: true,
            ..AttentionOptions::default()
        };
        let mlp = MlpConfig {
            activation: Activation::Silu,
            ..MlpConfig::gelu(width, RATIO * config.dim)
        };
        Self {
            norm1: norm("norm1"),
            attn: attention.init_with(&cx.at("attn"), options),
            norm2: norm("norm2"),
            mlp: mlp.init(&cx.at("mlp")),
            modulation: Modulation::new(&cx.at("modulation"), width, 2),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        condition: Tensor<3>,
        mask: &Tensor<2, Bool>,
        tokens: usize,
    ) -> Tensor<3> {
        let [attn, mlp] = self.modulation.forward(condition).map(Gate);
        let y = self
            .attn
            .forward(self.norm1.forward(x.clone()), Some(mask), tokens);
        let x = attn.add(x, y);
        let y = self.mlp.forward(self.norm2.forward(x.clone()), tokens);
        mlp.add(x, y)
    }
}
