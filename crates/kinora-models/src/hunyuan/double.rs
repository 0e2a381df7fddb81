//! A block in which video and text have weights of their own (`MMDoubleStreamBlock`).

use super::HunyuanConfig;
use super::modulation::{Gate, Modulate, Modulation};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{JointAttention, JointOptions, JointTokens, LayerNorm, Mlp, MlpConfig, Rotation};
use kinora_shard::Cx;

/// What every norm adds to the variance or to the mean square.
pub(super) const EPSILON: f64 = 1e-6;

/// Joint attention, then a feed-forward network for each stream.
#[derive(Module, Debug)]
pub(super) struct Double {
    video: Stream,
    text: Stream,
    attn: JointAttention,
}

/// What a stream has for itself.
#[derive(Module, Debug)]
struct Stream {
    modulation: Modulation,
    norm1: LayerNorm,
    norm2: LayerNorm,
    mlp: Mlp,
}

/// What blocks know of their inputs beside the inputs themselves.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The rotation of the video's tokens.
    pub(super) rotation: Rotation,
    /// `[B, L]`, false for text that is not attended to.
    pub(super) mask: Tensor<2, Bool>,
    /// Tokens in all.
    pub(super) tokens: JointTokens,
    /// Tokens of the video that are here.
    pub(super) video: usize,
}

impl Place {
    /// Video and text that follow each other, `[B, S + L, D]`, taken apart.
    pub(super) fn apart(&self, both: Tensor<3>) -> [Tensor<3>; 2] {
        let text = both.dims()[1] - self.video;
        let video = both.clone().narrow(1, 0, self.video);
        [video, both.narrow(1, self.video, text)]
    }
}

impl Double {
    pub(super) fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let options = JointOptions {
            bias: true,
            norm: Some(EPSILON),
            shared: false,
        };
        let stream = |cx: &Cx| Stream {
            modulation: Modulation::new(&cx.at("modulation"), width, 6),
            norm1: LayerNorm::plain(EPSILON),
            norm2: LayerNorm::plain(EPSILON),
            mlp: MlpConfig::gelu(width, config.ffn).init(&cx.at("mlp")),
        };
        Self {
            video: stream(&cx.at("video")),
            text: stream(&cx.at("text")),
            attn: JointAttention::with_options(&cx.at("attn"), width, config.heads, 1.0, options),
        }
    }

    /// Video and text, `[B, S + L, D]`, and the condition, `[B, 1, D]`, to video and text.
    pub(super) fn forward(&self, [both, condition]: [Tensor<3>; 2], place: &Place) -> Tensor<3> {
        let [video, text] = place.apart(both);
        let of_video = self.video.modulation.forward(condition.clone());
        let of_text = self.text.modulation.forward(condition);
        let [of_video, of_text] = [of_video, of_text].map(branches);

        let y = of_video[0].0.of(&self.video.norm1, video.clone());
        let z = of_text[0].0.of(&self.text.norm1, text.clone());
        let [y, z] = self
            .attn
            .rotated(y, z, &place.rotation, &place.mask, place.tokens);
        let (video, text) = (of_video[0].1.add(video, y), of_text[0].1.add(text, z));

        let y = of_video[1].0.of(&self.video.norm2, video.clone());
        let z = of_text[1].0.of(&self.text.norm2, text.clone());
        let y = self.video.mlp.forward(y, place.tokens.video);
        let z = self.text.mlp.forward(z, place.tokens.text);
        let (video, text) = (of_video[1].1.add(video, y), of_text[1].1.add(text, z));
        Tensor::cat(vec![video, text], 1)
    }
}

/// Shift, scale and gate of attention, then those of the feed-forward network.
fn branches(
    [shift1, scale1, gate1, shift2, scale2, gate2]: [Tensor<3>; 6],
) -> [(Modulate, Gate); 2] {
    let branch = |shift, scale, gate| (Modulate { shift, scale }, Gate(gate));
    [branch(shift1, scale1, gate1), branch(shift2, scale2, gate2)]
}
