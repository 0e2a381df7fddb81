//! The encoder: symbols to vectors.

use super::T5Config;
use crate::movie_gen::TextTokens;
use crate::text::{TextEncoder, TokenBatch};
use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{
    Embedding, EncoderAttention, EncoderAttentionConfig, Mlp, MlpConfig, RelativePositions, RmsNorm,
};
use kinora_shard::{Cx, Stack};

/// An encoder of the T5 family.
#[derive(Module, Debug)]
pub struct T5 {
    tokens: Embedding,
    // Shared by all layers, where they do not have their own.
    positions: Option<RelativePositions>,
    layers: Stack<Layer>,
    norm: RmsNorm,
    #[module(skip)]
    config: T5Config,
}

/// Attention and feed-forward, each behind a norm.
#[derive(Module, Debug)]
struct Layer {
    positions: Option<RelativePositions>,
    norm1: RmsNorm,
    attn: EncoderAttention,
    norm2: RmsNorm,
    mlp: Mlp,
}

impl T5 {
    /// An encoder with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &T5Config) -> Self {
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.width);
        let norm = |cx: &Cx| RmsNorm::with_epsilon(cx, width, config.epsilon);
        let positions = |cx: &Cx, here: bool| {
            let cx = cx.at("positions");
            let new = || RelativePositions::new(&cx, config.heads, config.buckets, config.furthest);
            here.then(new)
        };
        let layer = |cx: &Cx| Layer {
            positions: positions(cx, !config.shared_positions),
            norm1: norm(&cx.at("norm1")),
            attn: EncoderAttentionConfig {
                width,
                heads: config.heads,
                head_dim: config.head_dim,
                bias: false,
                scaled: false,
                causal: false,
            }
            .init(&cx.at("attn")),
            norm2: norm(&cx.at("norm2")),
            mlp: MlpConfig {
                width,
                hidden: config.ffn,
                activation: config.activation,
                gated: config.gated,
                residual: 1.0,
                bias: false,
                out_bias: false,
            }
            .init(&cx.at("mlp")),
        };
        Self {
            tokens: Embedding::new(&cx.at("tokens"), config.vocabulary, width, 1.0),
            positions: positions(cx, config.shared_positions),
            layers: Stack::new(&cx.at("layers"), config.layers, layer),
            norm: norm(&cx.at("norm")),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Symbols `[B, L]` to vectors `[B, L, D]`; keys where `mask` (`[B, L]`) is false are not attended
    /// to, and what comes out there means nothing.
    pub fn forward(&self, ids: Tensor<2, Int>, mask: &Tensor<2, Bool>) -> Tensor<3> {
        let l = ids.dims()[1];
        let x = self.tokens.forward(ids);
        let mask = mask.clone();
        let x = match &self.positions {
            Some(positions) => {
                let inputs = [x, positions.forward(l)];
                self.layers.forward(inputs, move |layer, [x, positions]| {
                    layer.forward(x, positions, &mask)
                })
            }
            None => self.layers.forward([x], move |layer, [x]| {
                let positions = layer.positions.as_ref().expect("a layer's own positions");
                layer.forward(x, positions.forward(l), &mask)
            }),
        };
        self.norm.forward(x)
    }
}

impl Layer {
    fn forward(&self, x: Tensor<3>, positions: Tensor<3>, mask: &Tensor<2, Bool>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = x + self.attn.forward(y, Some(positions), Some(mask));
        let y = self.norm2.forward(x.clone());
        let tokens = y.dims()[1];
        x + self.mlp.forward(y, tokens)
    }
}

impl TextEncoder for T5 {
    fn width(&self) -> usize {
        self.config.width
    }

    fn encode(&self, tokens: &TokenBatch) -> TextTokens {
        TextTokens {
            embedding: self.forward(tokens.ids.clone(), &tokens.mask),
            mask: tokens.mask.clone(),
        }
    }
}
