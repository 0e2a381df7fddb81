//! Joint attention: video and text in one sequence, each with weights of its own (MMDiT, Esser et al.
//! 2024; HunyuanVideo's double-stream blocks).
//!
//! Both streams are cut over the same ranks, each by itself, so that every rank holds a part of the
//! video and a part of the text, and all have as much to do. The order in which keys come changes no
//! result.

use crate::attend::Attend;
use crate::sequence::Entry;
use crate::{HeadNorm, Linear, LinearConfig, Rotation};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::{Axis, Extent, parts};
use kinora_shard::Cx;

/// Full bidirectional attention of two streams to both.
#[derive(Module, Debug)]
pub struct JointAttention {
    entry: Entry,
    video: Projections,
    // None where the text has those of the video.
    text: Option<Projections>,
    #[module(skip)]
    attend: Attend,
    #[module(skip)]
    head_dim: usize,
}

#[derive(Module, Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    norms: Option<Norms>,
    out: Linear,
}

/// The norms of queries and keys, head by head.
#[derive(Module, Debug)]
struct Norms {
    query: HeadNorm,
    key: HeadNorm,
}

/// What a [`JointAttention`] may have beside its projections; by default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct JointOptions {
    /// Whether the projections have biases, which start at zero.
    pub bias: bool,
    /// Whether queries and keys are normalised head by head, and what is added to the mean square.
    pub norm: Option<f64>,
    /// Whether text has the projections and norms of the video (HunyuanVideo's single-stream blocks).
    pub shared: bool,
}

/// The lengths of whole sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JointTokens {
    /// Video tokens.
    pub video: usize,
    /// Text tokens.
    pub text: usize,
}

impl JointAttention {
    /// A layer of `heads` heads whose outputs start multiplied by `residual`.
    pub fn new(cx: &Cx, width: Extent, heads: usize, residual: f64) -> Self {
        Self::with_options(cx, width, heads, residual, JointOptions::default())
    }

    /// The same layer with options. The paths of shared projections are the layer's own, those of two
    /// streams stand behind `video` and `text`.
    pub fn with_options(
        cx: &Cx,
        width: Extent,
        heads: usize,
        residual: f64,
        options: JointOptions,
    ) -> Self {
        let head_dim = width.len / heads;
        let heads = Axis::Heads.of(heads * head_dim).by(head_dim);
        let biased = |linear: LinearConfig| {
            if options.bias {
                linear.with_bias()
            } else {
                linear
            }
        };
        let into = biased(LinearConfig::new(width, heads));
        let stream = |cx: &Cx| Projections {
            query: into.init(&cx.at("query")),
            key: into.init(&cx.at("key")),
            value: into.init(&cx.at("value")),
            norms: options.norm.map(|epsilon| Norms {
                query: HeadNorm::new(&cx.at("query_norm"), head_dim, epsilon),
                key: HeadNorm::new(&cx.at("key_norm"), head_dim, epsilon),
            }),
            out: biased(LinearConfig::new(heads, width))
                .scaled(residual)
                .init(&cx.at("out")),
        };
        let (video, text) = if options.shared {
            (stream(cx), None)
        } else {
            (stream(&cx.at("video")), Some(stream(&cx.at("text"))))
        };
        Self {
            entry: Entry::new(cx, Axis::Heads),
            video,
            text,
            attend: Attend::new(cx),
            head_dim,
        }
    }

    /// `video` of `[B, S of this rank, D]` and `text` of `[B, L of this rank, D]` to the same; text
    /// where `mask` (`[B, L]`, whole on every rank) is false is not attended to.
    pub fn forward(
        &self,
        video: Tensor<3>,
        text: Tensor<3>,
        mask: &Tensor<2, Bool>,
        tokens: JointTokens,
    ) -> [Tensor<3>; 2] {
        self.attend(video, text, None, mask, tokens)
    }

    /// The same, with the video's queries and keys turned by the positions of their tokens.
    pub fn rotated(
        &self,
        video: Tensor<3>,
        text: Tensor<3>,
        rotation: &Rotation,
        mask: &Tensor<2, Bool>,
        tokens: JointTokens,
    ) -> [Tensor<3>; 2] {
        self.attend(video, text, Some(rotation), mask, tokens)
    }

    fn attend(
        &self,
        video: Tensor<3>,
        text: Tensor<3>,
        rotation: Option<&Rotation>,
        mask: &Tensor<2, Bool>,
        tokens: JointTokens,
    ) -> [Tensor<3>; 2] {
        let video = self.entry.forward(video, tokens.video); // [B, S, D]
        let text = self.entry.forward(text, tokens.text); // [B, L, D]
        let (s, l) = (video.dims()[1], text.dims()[1]);
        let of_text = self.text.as_ref().unwrap_or(&self.video);
        let both = |of: fn(&Projections) -> (&Linear, Option<&HeadNorm>), turned: bool| {
            let made = |projections: &Projections, x: &Tensor<3>| {
                let (linear, norm) = of(projections);
                let x = linear.forward(x.clone());
                match norm {
                    Some(norm) => norm.forward(x),
                    None => x,
                }
            };
            let mut video = made(&self.video, &video);
            if let Some(rotation) = rotation.filter(|_| turned) {
                video = rotation.turn(video);
            }
            let (video, text) = (self.heads(video), self.heads(made(of_text, &text)));
            Tensor::cat(vec![video, text], 2) // [B, H, S + L, K]
        };
        let qkv = [
            both(|p| (&p.query, p.norms.as_ref().map(|n| &n.query)), true),
            both(|p| (&p.key, p.norms.as_ref().map(|n| &n.key)), true),
            both(|p| (&p.value, None), false),
        ];
        let (ranks, _) = self.attend.place();
        let lens = [tokens.video, tokens.text].map(|len| parts(len, ranks));
        let sums: Vec<usize> = lens[0].iter().zip(&lens[1]).map(|(s, l)| s + l).collect();
        let mask = self.keys(mask.clone().inner(), &lens);
        let out = self.attend.forward(qkv, Some(mask), &sums); // [B, H, S + L, K]
        let video = self.tokens(out.clone().narrow(2, 0, s));
        let text = self.tokens(out.narrow(2, s, l));
        [self.video.out.forward(video), of_text.out.forward(text)]
    }

    /// Which keys count, `[B, S + L]`, in the order of the ranks that hold them.
    fn keys(&self, mask: Tensor<2, Bool>, [video, text]: &[Vec<usize>; 2]) -> Tensor<2, Bool> {
        let b = mask.dims()[0];
        let texts = mask.split_with_sizes(text.clone(), 1);
        let all = video.iter().zip(texts).flat_map(|(&s, text)| {
            let video = Tensor::<2, Bool>::full([b, s], true, &text.device());
            [video, text]
        });
        Tensor::cat(all.collect(), 1)
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        x.reshape([b, s, width / self.head_dim, self.head_dim])
            .swap_dims(1, 2)
    }

    fn tokens(&self, x: Tensor<4>) -> Tensor<3> {
        let [b, heads, s, _] = x.dims();
        x.swap_dims(1, 2).reshape([b, s, heads * self.head_dim])
    }
}
