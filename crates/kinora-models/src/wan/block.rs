//! One layer of the backbone (`WanAttentionBlock`).

use super::WanConfig;
use super::modulation::Modulation;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{
    Attention, AttentionConfig, AttentionOptions, LayerNorm, Mlp, MlpConfig, QkNorm, Rotation,
};
use kinora_shard::Cx;

/// Self-attention, cross-attention to text and image, feed-forward.
#[derive(Module, Debug)]
pub(super) struct Block {
    modulation: Modulation,
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    cross: Attention,
    norm3: LayerNorm,
    mlp: Mlp,
}

/// What a block knows of its inputs beside the inputs themselves.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The rotation of the video's tokens.
    pub(super) rotation: Rotation,
    /// Tokens of the video.
    pub(super) tokens: usize,
    /// Tokens of the image before those of the text.
    pub(super) image: usize,
}

impl Block {
    /// One of `config.layers` blocks.
    pub(super) fn new(cx: &Cx, config: &WanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let attention = AttentionConfig {
            width,
            heads: config.heads,
            norm: QkNorm::AcrossHeads,
            residual: 1.0,
        };
        let options = AttentionOptions {
            bias: true,
            epsilon: config.epsilon,
            image: false,
        };
        let cross = AttentionOptions {
            image: config.image.is_some(),
            ..options
        };
        Self {
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm1: LayerNorm::plain(config.epsilon),
            attn: attention.init_with(&cx.at("attn"), options),
            // The released code calls this norm its third, and the next its second.
            norm2: LayerNorm::with_epsilon(&cx.at("norm2"), width, config.epsilon),
            cross: attention.init_with(&cx.at("cross"), cross),
            norm3: LayerNorm::plain(config.epsilon),
            mlp: MlpConfig::gelu(width, config.ffn).init(&cx.at("mlp")),
        }
    }

    /// `x` of `[B, S, D]` to the same; `time` is the shared modulation, `[B, 1 or S, 6 D]`, and `other`
    /// what cross-attention reads, `[B, I + L, D]`: the image's tokens, then the text's.
    pub(super) fn forward(&self, [x, time, other]: [Tensor<3>; 3], place: &Place) -> Tensor<3> {
        let tokens = place.tokens;
        let [attn, mlp] = self.modulation.forward(time);
        let y = attn.enter(&self.norm1, x.clone());
        let x = attn.leave(x, self.attn.rotated(y, &place.rotation, tokens));
        let y = self.norm2.forward(x.clone());
        let y = match place.image {
            0 => self.cross.cross(y, other, None, tokens),
            image => self.cross.cross_with_image(y, other, image, tokens),
        };
        let x = x + y;
        let y = mlp.enter(&self.norm3, x.clone());
        mlp.leave(x, self.mlp.forward(y, tokens))
    }
}
