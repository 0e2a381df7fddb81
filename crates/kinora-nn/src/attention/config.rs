//! What an attention layer is made of.

use super::{Attention, ImageKeys, Norms};
use crate::attend::Attend;
use crate::sequence::Entry;
use crate::{LinearConfig, RmsNorm};
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

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

/// What an [`Attention`] may have beside that; by default no biases, LLaMa's epsilon and no image.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions {
    /// Whether the projections have biases, which start at zero.
    pub bias: bool,
    /// What the norms of queries and keys add to the mean square.
    pub epsilon: f64,
    /// Whether image tokens have keys and values of their own ([`Attention::cross_with_image`]).
    pub image: bool,
}

impl Default for AttentionOptions {
    fn default() -> Self {
        Self {
            bias: false,
            epsilon: 1e-5,
            image: false,
        }
    }
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

impl AttentionConfig {
    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> Attention {
        self.init_with(cx, AttentionOptions::default())
    }

    /// Creates the layer with options.
    pub fn init_with(self, cx: &Cx, options: AttentionOptions) -> Attention {
        let head_dim = self.width.len / self.heads;
        let heads = Axis::Heads.of(self.heads * head_dim).by(head_dim);
        let into = LinearConfig::new(self.width, heads).biased(options.bias);
        let normed = self.norm == QkNorm::AcrossHeads;
        let norm = |name: &str| RmsNorm::with_epsilon(&cx.at(name), heads, options.epsilon);
        Attention {
            entry: Entry::new(cx, Axis::Heads),
            query: into.init(&cx.at("query")),
            // Keys and values may be another stream's, but they are read by this one's queries:
            // their weights are cut with the heads, and whole over the tokens, either way.
            key: into.init(&cx.at("key")),
            value: into.init(&cx.at("value")),
            norms: normed.then(|| Norms {
                query: norm("query_norm"),
                key: norm("key_norm"),
            }),
            out: LinearConfig::new(heads, self.width)
                .biased(options.bias)
                .scaled(self.residual)
                .init(&cx.at("out")),
            image: options.image.then(|| ImageKeys {
                key: into.init(&cx.at("image_key")),
                value: into.init(&cx.at("image_value")),
                norm: normed.then(|| norm("image_key_norm")),
            }),
            attend: Attend::new(cx),
            head_dim,
        }
    }
}
