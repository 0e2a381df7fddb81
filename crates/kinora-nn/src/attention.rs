//! Multi-head attention, of a sequence to itself or to another.

use crate::sequence::Entry;
use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

/// Full bidirectional attention with heads of width `head_dim`.
#[derive(Module, Debug)]
pub struct Attention {
    entry: Entry,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
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
    /// The output starts multiplied by this.
    pub residual: f64,
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
            out: LinearConfig::new(heads, self.width)
                .scaled(self.residual)
                .init(&cx.at("out")),
            head_dim,
        }
    }
}

impl Attention {
    /// Of a sequence to itself: `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole
    /// length. Keys where `mask` (`[B, S]`) is false are not attended to.
    pub fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<2, Bool>>,
        tokens: usize,
    ) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        self.attend(x.clone(), x, mask)
    }

    /// Of a sequence to another one, `text` of `[B, L, D]`, which has passed its entry already.
    pub fn cross(
        &self,
        x: Tensor<3>,
        text: Tensor<3>,
        mask: Option<&Tensor<2, Bool>>,
        tokens: usize,
    ) -> Tensor<3> {
        self.attend(self.entry.forward(x, tokens), text, mask)
    }

    fn attend(&self, x: Tensor<3>, other: Tensor<3>, mask: Option<&Tensor<2, Bool>>) -> Tensor<3> {
        let [b, s, _] = x.dims();
        let query = self.heads(self.query.forward(x)); // [B, H, S, K]
        let key = self.heads(self.key.forward(other.clone())); // [B, H, L, K]
        let value = self.heads(self.value.forward(other)); // [B, H, L, K]
        let out = kinora_kernels::attention(query, key, value, mask.cloned()); // [B, H, S, K]
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
