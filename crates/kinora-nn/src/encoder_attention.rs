//! Self-attention of text and image encoders, whose tokens are whole on every rank: with or without
//! biases, scaled or not, towards all tokens or only those before, with a bias for each pair of
//! positions.
//!
//! Where every query sees the same keys, scores are computed in tiles. Else all of them are in memory
//! at once, which the short sequences of encoders allow.

use crate::norm::wide;
use crate::sequence::Entry;
use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Int, Tensor};
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

/// Multi-head self-attention with heads of width `head_dim`.
#[derive(Module, Debug)]
pub struct EncoderAttention {
    entry: Entry,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    #[module(skip)]
    config: EncoderAttentionConfig,
}

/// What an [`EncoderAttention`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct EncoderAttentionConfig {
    /// Model width.
    pub width: Extent,
    /// Heads in all.
    pub heads: usize,
    /// The width of a head; T5's do not add up to the model's width.
    pub head_dim: usize,
    /// Whether the linear layers have biases.
    pub bias: bool,
    /// Whether scores are divided by the root of `head_dim`; T5's weights start small instead.
    pub scaled: bool,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
}

impl EncoderAttentionConfig {
    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> EncoderAttention {
        let heads = Axis::Heads.of(self.heads * self.head_dim).by(self.head_dim);
        let linear = |from, to, name: &str| {
            let linear = LinearConfig::new(from, to);
            let linear = if self.bias {
                linear.with_bias()
            } else {
                linear
            };
            linear.init(&cx.at(name))
        };
        EncoderAttention {
            entry: Entry::new(cx, Axis::Heads),
            query: linear(self.width, heads, "query"),
            key: linear(self.width, heads, "key"),
            value: linear(self.width, heads, "value"),
            out: linear(heads, self.width, "out"),
            config: self,
        }
    }
}

impl EncoderAttention {
    /// `x` of `[B, L, D]` to the same. `positions`, `[H of this rank, L, L]`, are added to the scores;
    /// keys where `mask` (`[B, L]`) is false get no weight.
    pub fn forward(
        &self,
        x: Tensor<3>,
        positions: Option<Tensor<3>>,
        mask: Option<&Tensor<2, Bool>>,
    ) -> Tensor<3> {
        let [b, l, _] = x.dims();
        let x = self.entry.forward(x, l);
        let [query, key, value] = [&self.query, &self.key, &self.value]
            .map(|linear| self.heads(linear.forward(x.clone()))); // [B, H, L, K]
        let mask = mask.map(|mask| mask.clone().inner());
        let config = &self.config;
        let out = if positions.is_none() && config.scaled && !config.causal {
            kinora_kernels::attention(query, key, value, mask)
        } else {
            let hidden = hidden(mask, config.causal, [b, l], &query.device());
            let query = if config.scaled {
                query * (config.head_dim as f64).powf(-0.5)
            } else {
                query
            };
            all_scores([query, key, value], positions, hidden)
        };
        let heads = out.dims()[1];
        let out = out.swap_dims(1, 2).reshape([b, l, heads * config.head_dim]);
        self.out.forward(out)
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, l, width] = x.dims();
        let head_dim = self.config.head_dim;
        x.reshape([b, l, width / head_dim, head_dim])
            .swap_dims(1, 2)
    }
}

/// `softmax(q k^T + positions) v`, `[B, H, L, K]` each, the softmax in 32 bits at least.
fn all_scores(
    [query, key, value]: [Tensor<4>; 3],
    positions: Option<Tensor<3>>,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<4> {
    let dtype = query.dtype();
    let wide = wide(dtype);
    let mut scores = query.matmul(key.swap_dims(2, 3)).cast(wide); // [B, H, L, L]
    if let Some(positions) = positions {
        scores = scores + positions.cast(wide).unsqueeze_dim(0);
    }
    if let Some(hidden) = hidden {
        let shape = scores.dims();
        // Finite, so that a row without any key is no division by zero.
        scores = scores.mask_fill(hidden.expand(shape), -1e30);
    }
    softmax(scores, 3).cast(dtype).matmul(value)
}

/// The scores that do not count, `[B, 1, L, L]`, queries before keys.
fn hidden(
    mask: Option<Tensor<2, Bool>>,
    causal: bool,
    [b, l]: [usize; 2],
    device: &Device,
) -> Option<Tensor<4, Bool>> {
    let padding = mask.map(|mask| mask.bool_not().reshape([b, 1, 1, l]).expand([b, 1, l, l]));
    let future = causal.then(|| {
        let place = Tensor::<1, Int>::arange(0..l as i64, device);
        let (query, key) = (place.clone().reshape([l, 1]), place.reshape([1, l]));
        let future = key.expand([l, l]).greater(query.expand([l, l]));
        future.reshape([1, 1, l, l]).expand([b, 1, l, l])
    });
    match (padding, future) {
        (Some(padding), Some(future)) => Some(padding.bool_or(future)),
        (padding, future) => padding.or(future),
    }
}
