//! Two small models beside Movie Gen's, for what it does not have: norms of queries and keys across
//! heads, as in Wan, and text inside the sequence, as in HunyuanVideo. Patches are single elements.

use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_models::bytes::{Bytes, BytesConfig};
use kinora_models::movie_gen::TextTokens;
use kinora_models::{Condition, Denoiser};
use kinora_nn::{
    Attention, AttentionConfig, JointAttention, JointTokens, LayerNorm, Linear, LinearConfig,
    Modulation, Modulator, QkNorm, RmsNorm, Sequence, SwiGlu, TextEntry, TimeEmbedding,
};
use kinora_shard::{Cx, Stack};

const CHANNELS: usize = 3;
const LAYERS: usize = 2;
const DIM: usize = 48;
const HEADS: usize = 12;
const FFN: usize = 37;
const TEXT: usize = 24;

/// The byte encoder of all models here.
pub(crate) fn text() -> BytesConfig {
    BytesConfig {
        width: TEXT,
        layers: 1,
        heads: HEADS,
        ffn: 23,
        windows: 31,
        max_words: 9,
    }
}

/// Queries and keys normalised over all heads, in self-attention and in cross-attention.
#[derive(Module, Debug)]
pub(crate) struct WanNorms {
    text: Bytes,
    project: Linear,
    entry: TextEntry,
    frame: FrameWork,
    blocks: Stack<WanBlock>,
}

#[derive(Module, Debug)]
struct WanBlock {
    modulation: Modulation,
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    cross: Attention,
    norm3: LayerNorm,
    mlp: SwiGlu,
}

impl WanNorms {
    pub(crate) fn new(cx: &Cx) -> Self {
        let width = Axis::Embed.of(DIM);
        let attention = AttentionConfig {
            width,
            heads: HEADS,
            norm: QkNorm::AcrossHeads,
            residual: 1.0,
        };
        let block = |cx: &Cx| WanBlock {
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm1: LayerNorm::new(&cx.at("norm1"), width),
            attn: attention.init(&cx.at("attn")),
            norm2: LayerNorm::new(&cx.at("norm2"), width),
            cross: attention.init(&cx.at("cross")),
            norm3: LayerNorm::new(&cx.at("norm3"), width),
            mlp: SwiGlu::new(&cx.at("mlp"), width, FFN, 1.0),
        };
        let project = LinearConfig::new(Axis::Channel.of(TEXT), width).with_bias();
        Self {
            text: Bytes::new(&cx.at("text"), &text()),
            project: project.init(&cx.on(Axis::Text).at("project")),
            entry: TextEntry::new(cx),
            frame: FrameWork::new(cx),
            blocks: Stack::new(&cx.at("blocks"), LAYERS, block),
        }
    }
}

impl Denoiser for WanNorms {
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, given: &Condition) -> Tensor<5> {
        let (shape, tokens) = sizes(&latent);
        let text = self
            .text
            .forward(&self.text.encode(&given.prompts), &latent.device());
        let mask = text.mask.inner();
        let text = self.entry.forward(self.project.forward(text.embedding));
        let x = self.frame.enter(latent);
        let time = self.frame.time(time);
        let inputs = [x, time.clone(), text];
        let x = self.blocks.forward(inputs, move |block, [x, time, text]| {
            let [attn, mlp] = block.modulation.forward(time);
            let y = attn.shift_scale(block.norm1.forward(x.clone()));
            let x = x + attn.gate(block.attn.forward(y, None, tokens));
            let y = block.norm2.forward(x.clone());
            let x = x + block.cross.cross(y, text, Some(&mask), tokens);
            let y = mlp.shift_scale(block.norm3.forward(x.clone()));
            x + mlp.gate(block.mlp.forward(y, tokens))
        });
        self.frame.leave(x, time, shape)
    }
}

/// Text tokens inside the sequence, with weights of their own.
#[derive(Module, Debug)]
pub(crate) struct Joint {
    text: Bytes,
    project: Linear,
    frame: FrameWork,
    blocks: Stack<JointBlock>,
}

#[derive(Module, Debug)]
struct JointBlock {
    modulation: Modulation,
    norm1: RmsNorm,
    text_norm1: RmsNorm,
    attn: JointAttention,
    norm2: RmsNorm,
    text_norm2: RmsNorm,
    mlp: SwiGlu,
    text_mlp: SwiGlu,
}

impl Joint {
    pub(crate) fn new(cx: &Cx) -> Self {
        let width = Axis::Embed.of(DIM);
        let block = |cx: &Cx| JointBlock {
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm1: RmsNorm::new(&cx.at("norm1"), width),
            text_norm1: RmsNorm::new(&cx.at("text_norm1"), width),
            attn: JointAttention::new(&cx.at("attn"), width, HEADS, 1.0),
            norm2: RmsNorm::new(&cx.at("norm2"), width),
            text_norm2: RmsNorm::new(&cx.at("text_norm2"), width),
            mlp: SwiGlu::new(&cx.at("mlp"), width, FFN, 1.0),
            text_mlp: SwiGlu::new(&cx.at("text_mlp"), width, FFN, 1.0),
        };
        // Each rank projects its own part of the text.
        let project = LinearConfig::new(Axis::Channel.of(TEXT), width).with_bias();
        Self {
            text: Bytes::new(&cx.at("text"), &text()),
            project: project.init(&cx.at("project")),
            frame: FrameWork::new(cx),
            blocks: Stack::new(&cx.at("blocks"), LAYERS, block),
        }
    }
}

impl Denoiser for Joint {
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, given: &Condition) -> Tensor<5> {
        let (shape, video) = sizes(&latent);
        let text = self
            .text
            .forward(&self.text.encode(&given.prompts), &latent.device());
        let (text, mask) = padded(text);
        let tokens = JointTokens {
            video,
            text: mask.dims()[1],
        };
        let text = self.project.forward(self.frame.sequence.part_of_text(text));
        let x = self.frame.enter(latent);
        let (s, l) = (x.dims()[1], text.dims()[1]);
        let time = self.frame.time(time);
        let both = Tensor::cat(vec![x, text], 1);
        let x = self
            .blocks
            .forward([both, time.clone()], move |block, [both, time]| {
                let [attn, mlp] = block.modulation.forward(time);
                let (x, text) = (both.clone().narrow(1, 0, s), both.narrow(1, s, l));
                let y = attn.shift_scale(block.norm1.forward(x.clone()));
                let z = attn.shift_scale(block.text_norm1.forward(text.clone()));
                let [y, z] = block.attn.forward(y, z, &mask, tokens);
                let (x, text) = (x + attn.gate(y), text + attn.gate(z));
                let y = mlp.shift_scale(block.norm2.forward(x.clone()));
                let z = mlp.shift_scale(block.text_norm2.forward(text.clone()));
                let x = x + mlp.gate(block.mlp.forward(y, tokens.video));
                let text = text + mlp.gate(block.text_mlp.forward(z, tokens.text));
                Tensor::cat(vec![x, text], 1)
            });
        self.frame.leave(x.narrow(1, 0, s), time, shape)
    }
}

/// What stands before and behind the blocks.
#[derive(Module, Debug)]
struct FrameWork {
    patch: Linear,
    time: TimeEmbedding,
    modulator: Modulator,
    modulation: Modulation,
    norm: RmsNorm,
    head: Linear,
    sequence: Sequence,
}

impl FrameWork {
    fn new(cx: &Cx) -> Self {
        let (width, channels) = (Axis::Embed.of(DIM), Axis::Channel.of(CHANNELS));
        Self {
            patch: LinearConfig::new(channels, width)
                .with_bias()
                .init(&cx.at("patch")),
            time: TimeEmbedding::new(&cx.at("time"), width),
            modulator: Modulator::new(&cx.at("modulator"), width),
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm: RmsNorm::new(&cx.at("norm"), width),
            head: LinearConfig::new(width, channels)
                .with_bias()
                .init(&cx.at("head")),
            sequence: Sequence::new(cx),
        }
    }

    fn time(&self, time: Tensor<1>) -> Tensor<3> {
        self.modulator.forward(self.time.forward(time))
    }

    fn enter(&self, latent: Tensor<5>) -> Tensor<3> {
        let [b, c, t, h, w] = latent.dims();
        let tokens = latent.reshape([b, c, t * h * w]).swap_dims(1, 2);
        self.patch.forward(self.sequence.split(tokens))
    }

    fn leave(&self, x: Tensor<3>, time: Tensor<3>, shape: [usize; 5]) -> Tensor<5> {
        let [last, _] = self.modulation.forward(time);
        let x = self.head.forward(last.shift_scale(self.norm.forward(x)));
        let [_, _, t, h, w] = shape;
        let x = self.sequence.join(x, t * h * w);
        x.swap_dims(1, 2).reshape(shape)
    }
}

/// Text of as many tokens as the most ranks need, so that each has one, as joint models pad theirs.
fn padded(text: TextTokens) -> (Tensor<3>, Tensor<2, Bool>) {
    let (mask, x) = (text.mask.inner(), text.embedding);
    let [b, l, width] = x.dims();
    let more = 9_usize.saturating_sub(l);
    if more == 0 {
        return (x, mask);
    }
    let nothing = Tensor::<3>::zeros([b, more, width], (&mask.device(), x.dtype()));
    let nothing = if x.is_autodiff() {
        nothing.autodiff()
    } else {
        nothing
    };
    let hidden = Tensor::<2, Bool>::full([b, more], false, &mask.device());
    (
        Tensor::cat(vec![x, nothing], 1),
        Tensor::cat(vec![mask, hidden], 1),
    )
}

fn sizes(latent: &Tensor<5>) -> ([usize; 5], usize) {
    let shape = latent.dims();
    (shape, shape[2] * shape[3] * shape[4])
}
