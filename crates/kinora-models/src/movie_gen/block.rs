//! One layer of the backbone.

use super::MovieGenConfig;
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{Attention, AttentionConfig, Modulation, QkNorm, RmsNorm, SwiGlu};
use kinora_shard::Cx;

/// Self-attention, cross-attention to text, feed-forward.
///
/// The paper does not say how cross-attention is normalised; here it reads a plain RMS norm of the
/// tokens, without modulation, which keeps deep stacks of it stable.
#[derive(Module, Debug)]
pub struct Block {
    modulation: Modulation,
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    cross: Attention,
    norm3: RmsNorm,
    mlp: SwiGlu,
}

impl Block {
    /// One of `config.layers` blocks.
    pub fn new(cx: &Cx, config: &MovieGenConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        // Three branches a layer add up to a residual stream of about unit variance.
        let residual = (3.0 * config.layers as f64).powf(-0.5);
        let attention = AttentionConfig {
            width,
            heads: config.heads,
            norm: QkNorm::None,
            residual,
        };
        Self {
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm1: RmsNorm::new(&cx.at("norm1"), width),
            attn: attention.init(&cx.at("attn")),
            norm2: RmsNorm::new(&cx.at("norm2"), width),
            // Positions are added again in every layer, and the text must be heard over them.
            cross: AttentionConfig {
                residual: 1.0,
                ..attention
            }
            .init(&cx.at("cross")),
            norm3: RmsNorm::new(&cx.at("norm3"), width),
            mlp: SwiGlu::new(&cx.at("mlp"), width, config.ffn, residual),
        }
    }

    /// `x` of `[B, S, D]` to the same; `time` is the shared modulation, `[B, 6, D]`, `text` and its
    /// mask are `[B, L, D]` and `[B, L]`, `pos` the positions of the tokens, `[1, S, D]`, added at the
    /// entry of every layer (paper, section 3.1.3); `tokens` is the length of the whole sequence.
    pub fn forward(
        &self,
        [x, time, text, pos]: [Tensor<3>; 4],
        mask: &Tensor<2, Bool>,
        tokens: usize,
    ) -> Tensor<3> {
        let [attn, mlp] = self.modulation.forward(time);
        let x = x + pos;
        let y = attn.shift_scale(self.norm1.forward(x.clone()));
        let x = x + attn.gate(self.attn.forward(y, None, tokens));
        let y = self.norm2.forward(x.clone());
        let x = x + self.cross.cross(y, text, Some(mask), tokens);
        let y = mlp.shift_scale(self.norm3.forward(x.clone()));
        x + mlp.gate(self.mlp.forward(y, tokens))
    }
}
