//! A block in which video and text share their weights, and attention and feed-forward network stand
//! side by side (`MMSingleStreamBlock`).

use super::HunyuanConfig;
use super::double::{EPSILON, Place};
use super::modulation::{Gate, Modulate, Modulation};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{JointAttention, JointOptions, LayerNorm, Mlp, MlpConfig};
use kinora_shard::Cx;

/// Both branches read the same norm, and one gate holds their sum.
#[derive(Module, Debug)]
pub(super) struct Single {
    modulation: Modulation,
    norm: LayerNorm,
    attn: JointAttention,
    mlp: Mlp,
}

impl Single {
    pub(super) fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let options = JointOptions {
            bias: true,
            norm: Some(EPSILON),
            shared: true,
        };
        // The released weights have one layer behind both branches, with one bias.
        let mlp = MlpConfig {
            out_bias: false,
            ..MlpConfig::gelu(width, config.ffn)
        };
        Self {
            modulation: Modulation::new(&cx.at("modulation"), width, 3),
            norm: LayerNorm::plain(EPSILON),
            attn: JointAttention::with_options(&cx.at("attn"), width, config.heads, 1.0, options),
            mlp: mlp.init(&cx.at("mlp")),
        }
    }

    /// Video and text, `[B, S + L, D]`, and the condition, `[B, 1, D]`, to video and text.
    pub(super) fn forward(&self, [both, condition]: [Tensor<3>; 2], place: &Place) -> Tensor<3> {
        let [shift, scale, gate] = self.modulation.forward(condition);
        let y = Modulate { shift, scale }.of(&self.norm, both.clone());
        let [video, text] = place.apart(y);
        let attended = self.attn.rotated(
            video.clone(),
            text.clone(),
            &place.rotation,
            &place.mask,
            place.tokens,
        );
        let video = self.mlp.forward(video, place.tokens.video);
        let text = self.mlp.forward(text, place.tokens.text);
        let y = Tensor::cat(attended.into(), 1) + Tensor::cat(vec![video, text], 1);
        Gate(gate).add(both, y)
    }
}
