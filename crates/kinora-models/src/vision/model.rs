//! The encoder: pixels to vectors, one for each patch and one for the whole.

use super::ClipVisionConfig;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{
    EncoderAttention, EncoderAttentionConfig, LayerNorm, Linear, LinearConfig, Mlp, MlpConfig,
};
use kinora_shard::{Cx, Init, Stack, Weight};

/// A CLIP image encoder. Its tokens are whole on every rank, as texts are.
#[derive(Module, Debug)]
pub struct ClipVision {
    patch: Linear,
    class: Weight<1>,
    positions: Weight<2>,
    norm_in: LayerNorm,
    // All layers but the last, whose input Wan reads.
    layers: Stack<Layer>,
    last: Layer,
    norm_out: LayerNorm,
    projection: Option<Linear>,
    #[module(skip)]
    config: ClipVisionConfig,
}

/// Attention and feed-forward, each behind a norm.
#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    attn: EncoderAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

/// What models read of an image; `N` tokens, of which the first stands for the whole.
#[derive(Clone, Debug)]
pub struct ClipVisionOutput {
    /// The output of the layer before the last: `[B, N, D]`.
    pub penultimate: Tensor<3>,
    /// The output of the last layer: `[B, N, D]`.
    pub last: Tensor<3>,
    /// The first of the last layer's tokens, normalised: `[B, D]`.
    pub pooled: Tensor<2>,
    /// That, in the space shared with texts: `[B, projection]`.
    pub projected: Option<Tensor<2>>,
}

impl ClipVision {
    /// An encoder with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &ClipVisionConfig) -> Self {
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
                causal: false,
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
        let pixels = Axis::Channel.of(3 * config.patch * config.patch);
        let tokens = Axis::Channel.of(config.tokens());
        let std = (config.width as f64).powf(-0.5);
        Self {
            patch: LinearConfig::new(pixels, width).init(&cx.at("patch")),
            class: cx.param("class", [width], Init::Normal(std)),
            positions: cx.param("positions", [tokens, width], Init::Normal(std)),
            norm_in: norm(&cx.at("norm_in")),
            layers: Stack::new(&cx.at("layers"), config.layers - 1, layer),
            last: layer(&cx.at("last")),
            norm_out: norm(&cx.at("norm_out")),
            projection: config.projection.map(|to| {
                let to = Axis::Channel.of(to);
                LinearConfig::new(width, to).init(&cx.at("projection"))
            }),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Images `[B, 3, S, S]`, as [`super::preprocess`] makes them, to all that models read of them.
    ///
    /// # Panics
    /// If their sides are not `config.image`.
    pub fn forward(&self, images: Tensor<4>) -> ClipVisionOutput {
        let penultimate = self.penultimate(images);
        let last = self.last.forward(penultimate.clone());
        let first = last.clone().narrow(1, 0, 1); // [B, 1, D]
        let pooled = self.norm_out.forward(first);
        let projected = self.projection.as_ref();
        let projected = projected.map(|linear| linear.forward(pooled.clone()).squeeze_dim(1));
        ClipVisionOutput {
            penultimate,
            last,
            pooled: pooled.squeeze_dim(1),
            projected,
        }
    }

    /// The output of the layer before the last, `[B, N, D]`, without computing the last: what Wan
    /// reads.
    ///
    /// # Panics
    /// As [`ClipVision::forward`].
    pub fn penultimate(&self, images: Tensor<4>) -> Tensor<3> {
        let b = images.dims()[0];
        let patches = self.patch.forward(self.patchify(images)); // [B, N - 1, D]
        let width = patches.dims()[2];
        let class = self
            .class
            .val()
            .reshape([1, 1, width])
            .expand([b, 1, width]);
        let x = Tensor::cat(vec![class, patches], 1) + self.positions.val().unsqueeze_dim(0);
        self.layers
            .forward([self.norm_in.forward(x)], |layer, [x]| layer.forward(x))
    }

    /// `[B, 3, S, S]` to `[B, N - 1, 3 * patch * patch]`, width fastest.
    fn patchify(&self, images: Tensor<4>) -> Tensor<3> {
        let [b, channels, height, width] = images.dims();
        let (image, p) = (self.config.image, self.config.patch);
        assert_eq!(
            [channels, height, width],
            [3, image, image],
            "images of 3 channels and {image} x {image} pixels"
        );
        let n = image / p;
        images
            .reshape([b, 3, n, p, n, p])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([b, n * n, 3 * p * p])
    }
}

impl Layer {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = x + self.attn.forward(y, None, None);
        let y = self.norm2.forward(x.clone());
        let tokens = y.dims()[1];
        x + self.mlp.forward(y, tokens)
    }
}
