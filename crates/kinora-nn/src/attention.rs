//! Multi-head attention, of a sequence to itself or to another.

use crate::attend::Attend;
use crate::sequence::Entry;
use crate::{Linear, LinearConfig, RmsNorm, Rotation};
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
    image: Option<ImageKeys>,
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

/// The norms of queries and keys.
#[derive(Module, Debug)]
struct Norms {
    query: RmsNorm,
    key: RmsNorm,
}

/// Keys and values of image tokens, normalised as those of text are.
#[derive(Module, Debug)]
struct ImageKeys {
    key: Linear,
    value: Linear,
    norm: Option<RmsNorm>,
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
        let biased = |linear: LinearConfig| {
            if options.bias {
                linear.with_bias()
            } else {
                linear
            }
        };
        let into = biased(LinearConfig::new(self.width, heads));
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
            out: biased(LinearConfig::new(heads, self.width))
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
        self.attend(&self.attend, x.clone(), x, None, mask, &lens)
    }

    /// Of a sequence to itself, with queries and keys turned by the positions of their tokens.
    pub fn rotated(&self, x: Tensor<3>, rotation: &Rotation, tokens: usize) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let lens = parts(tokens, self.attend.place().0);
        self.attend(&self.attend, x.clone(), x, Some(rotation), None, &lens)
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
        self.attend(&Attend::Local, x, text, None, mask, &[])
    }

    /// Of a sequence to two others by the same queries: `both` of `[B, I + L, D]` is `image` image
    /// tokens, which have keys and values of their own, and then text; the sum of what both say
    /// leaves through one projection (Wan's image to video). It is whole on every rank and has passed
    /// its entry already.
    ///
    /// # Panics
    /// If the layer was made without [`AttentionOptions::image`].
    pub fn cross_with_image(
        &self,
        x: Tensor<3>,
        both: Tensor<3>,
        image: usize,
        tokens: usize,
    ) -> Tensor<3> {
        let keys = self.image.as_ref().expect("a layer with keys of images");
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let text = both.dims()[1] - image;
        let (image, text) = (
            both.clone().narrow(1, 0, image),
            both.narrow(1, image, text),
        );
        let query = self.query.forward(x);
        let query = self.heads(match &self.norms {
            Some(norms) => norms.query.forward(query),
            None => query,
        });
        let of = |key: &Linear, value: &Linear, norm: Option<&RmsNorm>, tokens: Tensor<3>| {
            let key = key.forward(tokens.clone());
            let key = self.heads(match norm {
                Some(norm) => norm.forward(key),
                None => key,
            });
            let value = self.heads(value.forward(tokens));
            kinora_kernels::attention(query.clone(), key, value, None) // [B, H, S, K]
        };
        let norm = self.norms.as_ref().map(|norms| &norms.key);
        let text = of(&self.key, &self.value, norm, text);
        let image = of(&keys.key, &keys.value, keys.norm.as_ref(), image);
        self.leave(text + image)
    }

    fn attend(
        &self,
        attend: &Attend,
        x: Tensor<3>,
        other: Tensor<3>,
        rotation: Option<&Rotation>,
        mask: Option<&Tensor<2, Bool>>,
        lens: &[usize],
    ) -> Tensor<3> {
        let mask = mask.map(|mask| mask.clone().inner());
        let query = self.query.forward(x);
        let key = self.key.forward(other.clone());
        let value = self.heads(self.value.forward(other)); // [B, H, L, K]
        let (query, key) = match &self.norms {
            Some(norms) => (norms.query.forward(query), norms.key.forward(key)),
            None => (query, key),
        };
        let (query, key) = match rotation {
            Some(rotation) => (rotation.turn(query), rotation.turn(key)),
            None => (query, key),
        };
        let (query, key) = (self.heads(query), self.heads(key)); // [B, H, S, K], [B, H, L, K]
        self.leave(attend.forward([query, key, value], mask, lens))
    }

    /// `[B, H, S, K]` to `[B, S of this rank, D]`.
    fn leave(&self, out: Tensor<4>) -> Tensor<3> {
        let [b, heads, s, _] = out.dims();
        let out = out.swap_dims(1, 2).reshape([b, s, heads * self.head_dim]);
        self.out.forward(out)
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        x.reshape([b, s, width / self.head_dim, self.head_dim])
            .swap_dims(1, 2)
    }
}
