//! The encoder: symbols to vectors, and to one for the text.

use super::{ClipEnd, ClipTextConfig};
use crate::movie_gen::TextTokens;
use crate::text::{TextEncoder, TokenBatch};
use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{
    Embedding, EncoderAttention, EncoderAttentionConfig, LayerNorm, Linear, LinearConfig, Mlp,
    MlpConfig,
};
use kinora_shard::{Cx, Init, Stack, Weight};

/// A CLIP text encoder.
#[derive(Module, Debug)]
pub struct ClipText {
    tokens: Embedding,
    positions: Weight<2>,
    // All layers but the last, whose input some models read.
    layers: Stack<Layer>,
    last: Layer,
    norm: LayerNorm,
    projection: Option<Linear>,
    #[module(skip)]
    config: ClipTextConfig,
}

/// Attention to what came before and feed-forward, each behind a norm.
#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    attn: EncoderAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

/// What models read of a text.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// The output of the last layer, normalised: `[B, L, D]`.
    pub last: Tensor<3>,
    /// The output of the layer before the last, not normalised: `[B, L, D]`.
    pub penultimate: Tensor<3>,
    /// The last layer's output at the token that stands for the text: `[B, D]`.
    pub pooled: Tensor<2>,
    /// That, in the space shared with images: `[B, projection]`.
    pub projected: Option<Tensor<2>>,
}

impl ClipText {
    /// An encoder with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &ClipTextConfig) -> Self {
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.width);
        let norm = |cx: &Cx| LayerNorm::with_epsilon(cx, width, config.epsilon);
        let layer = |cx: &Cx| Layer {
            norm1: norm(&cx.at("norm1")),
            attn: EncoderAttentionConfig {
                width,
                heads: config.heads,
                head_dim: config.width / config.heads,
                bias: true,
                scaled: true,
                causal: true,
            }
            .init(&cx.at("attn")),
            norm2: norm(&cx.at("norm2")),
            mlp: MlpConfig {
                width,
                hidden: config.ffn,
                activation: config.activation,
                gated: false,
                residual: 1.0,
                bias: true,
                out_bias: true,
            }
            .init(&cx.at("mlp")),
        };
        let context = Axis::Channel.of(config.context);
        Self {
            tokens: Embedding::new(&cx.at("tokens"), config.vocabulary, width, 0.02),
            positions: cx.param("positions", [context, width], Init::Normal(0.01)),
            layers: Stack::new(&cx.at("layers"), config.layers - 1, layer),
            last: layer(&cx.at("last")),
            norm: norm(&cx.at("norm")),
            projection: config.projection.map(|to| {
                let to = Axis::Channel.of(to);
                LinearConfig::new(width, to).init(&cx.at("projection"))
            }),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Symbols `[B, L]` to all that models read of them. Keys where `mask` (`[B, L]`) is false are not
    /// attended to; without a mask padding is, by the tokens after it.
    ///
    /// # Panics
    /// If the texts are longer than the context.
    pub fn forward(&self, ids: Tensor<2, Int>, mask: Option<&Tensor<2, Bool>>) -> ClipTextOutput {
        let penultimate = self.penultimate(ids.clone(), mask);
        let last = self
            .norm
            .forward(self.last.forward(penultimate.clone(), mask));
        let pooled = self.at_end(last.clone(), ids); // [B, 1, D]
        let projected = self.projection.as_ref();
        let projected = projected.map(|linear| linear.forward(pooled.clone()).squeeze_dim(1));
        ClipTextOutput {
            last,
            penultimate,
            pooled: pooled.squeeze_dim(1),
            projected,
        }
    }

    /// The output of the layer before the last, `[B, L, D]`, without computing the last.
    ///
    /// # Panics
    /// As [`ClipText::forward`].
    pub fn penultimate(&self, ids: Tensor<2, Int>, mask: Option<&Tensor<2, Bool>>) -> Tensor<3> {
        let l = ids.dims()[1];
        let context = self.config.context;
        assert!(l <= context, "{l} tokens, but the context is {context}");
        let x = self.tokens.forward(ids);
        let x = x + self.positions.val().narrow(0, 0, l).unsqueeze_dim(0);
        let mask = mask.cloned();
        self.layers
            .forward([x], move |layer, [x]| layer.forward(x, mask.as_ref()))
    }

    /// The vector at the token that stands for the text: `[B, L, D]` to `[B, 1, D]`.
    fn at_end(&self, x: Tensor<3>, ids: Tensor<2, Int>) -> Tensor<3> {
        let [b, _, width] = x.dims();
        // The first of the highest; where only one number counts, it is made the highest.
        let score = match self.config.end {
            ClipEnd::First(id) => ids.equal_elem(id).int(),
            ClipEnd::Highest => ids,
        };
        let place = score.argmax(1).unsqueeze_dim::<3>(2); // [B, 1, 1]
        x.gather(1, place.expand([b, 1, width]))
    }
}

impl Layer {
    fn forward(&self, x: Tensor<3>, mask: Option<&Tensor<2, Bool>>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = x + self.attn.forward(y, None, mask);
        let y = self.norm2.forward(x.clone());
        let tokens = y.dims()[1];
        x + self.mlp.forward(y, tokens)
    }
}

impl TextEncoder for ClipText {
    fn width(&self) -> usize {
        self.config.width
    }

    /// The normalised output of the last layer.
    fn encode(&self, tokens: &TokenBatch) -> TextTokens {
        let output = self.forward(tokens.ids.clone(), Some(&tokens.mask));
        TextTokens {
            embedding: output.last,
            mask: tokens.mask.clone(),
        }
    }

    /// The vector of the token that stands for the text, not projected.
    fn pool(&self, tokens: &TokenBatch) -> Option<Tensor<2>> {
        let output = self.forward(tokens.ids.clone(), Some(&tokens.mask));
        Some(output.pooled)
    }
}
