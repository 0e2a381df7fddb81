//! Multi-head attention, of a sequence to itself or to another.

use crate::attend::Attend;
use crate::sequence::Entry;
use crate::{Linear, LinearConfig, RmsNorm};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::{Axis, Extent, parts};
use kinora_shard::Cx;

/// Full bidirectional attention with heads of width `head_dim`.
#[derive(Module, Debug)]
pub struct Attention {
    entry: Entry,
    query: Linear,
    key: Linear,
    value: Linear,
    norms: Option<Norms>,
    out: Linear,
    #[module(skip)]
    attend: Attend,
    #[module(skip)]
    head_dim: usize,
}

/// What an [`Attention`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// Model width.
    pub width: Extent,
    /// Heads in all.
    pub heads: usize,
    /// How queries and keys are normalised.
    pub norm: QkNorm,
    /// The output starts multiplied by this.
    pub residual: f64,
}

/// How queries and keys are normalised before they meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    /// Not at all.
    #[default]
    None,
    /// Over all heads together, as Wan does; where heads are cut, over the ranks that hold them.
    AcrossHeads,
}

/// The norms of queries and keys.
#[derive(Module, Debug)]
struct Norms {
    query: RmsNorm,
    key: RmsNorm,
}

impl AttentionConfig {
    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> Attention {
        let head_dim = self.width.len / self.heads;
        let heads = Axis::Heads.of(self.heads * head_dim).by(head_dim);
        let into = LinearConfig::new(self.width, heads);
        Attention {
            entry: Entry::new(cx, Axis::Heads),
            query: into.init(&cx.at("query")),
            // Keys and values may be another stream's, but they are read by this one's queries:
            // their weights are cut with the heads, and whole over the tokens, either way.
            key: into.init(&cx.at("key")),
            value: into.init(&cx.at("value")),
            norms: (self.norm == QkNorm::AcrossHeads).then(|| Norms {
                query: RmsNorm::new(&cx.at("query_norm"), heads),
                key: RmsNorm::new(&cx.at("key_norm"), heads),
            }),
            out: LinearConfig::new(heads, self.width)
                .scaled(self.residual)
                .init(&cx.at("out")),
            attend: Attend::new(cx),
            head_dim,
        }
    }
}

impl Attention {
    /// Of a sequence to itself: `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole
    /// length. Keys where `mask` (`[B, tokens]`) is false are not attended to.
    pub fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<2, Bool>>,
        tokens: usize,
    ) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let lens = parts(tokens, self.attend.place().0);
        self.attend(&self.attend, x.clone(), x, mask, &lens)
    }

    /// Of a sequence to another one, `text` of `[B, L, D]`, which is whole on every rank and has passed
    /// its entry already.
    pub fn cross(
        &self,
        x: Tensor<3>,
        text: Tensor<3>,
        mask: Option<&Tensor<2, Bool>>,
        tokens: usize,
    ) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        self.attend(&Attend::Local, x, text, mask, &[])
    }

    fn attend(
        &self,
        attend: &Attend,
        x: Tensor<3>,
        other: Tensor<3>,
        mask: Option<&Tensor<2, Bool>>,
        lens: &[usize],
    ) -> Tensor<3> {
        let [b, s, _] = x.dims();
        let mask = mask.map(|mask| mask.clone().inner());
        let query = self.query.forward(x);
        let key = self.key.forward(other.clone());
        let value = self.heads(self.value.forward(other)); // [B, H, L, K]
        let (query, key) = match &self.norms {
            Some(norms) => (norms.query.forward(query), norms.key.forward(key)),
            None => (query, key),
        };
        let (query, key) = (self.heads(query), self.heads(key)); // [B, H, S, K], [B, H, L, K]
        let out = attend.forward([query, key, value], mask, lens); // [B, H, S, K]
        let heads = out.dims()[1];
        let out = out.swap_dims(1, 2).reshape([b, s, heads * self.head_dim]);
        self.out.forward(out)
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        x.reshape([b, s, width / self.head_dim, self.head_dim])
            .swap_dims(1, 2)
    }
}
