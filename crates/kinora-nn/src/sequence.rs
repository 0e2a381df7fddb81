//! Where the token stream is cut, and where it becomes whole again.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::{Axis, part};
use kinora_shard::{Collective, Cx, Edge, Group};
use std::ops::Range;

/// Cuts a sequence of tokens over the ranks that the plan names for it, and joins it again.
#[derive(Module, Debug)]
pub struct Sequence {
    #[module(skip)]
    group: Group,
}

impl Sequence {
    /// The cut of the builder's stream.
    pub fn new(cx: &Cx) -> Self {
        Self {
            group: cx.stream_group(),
        }
    }

    /// The tokens of a sequence of `tokens` that this rank holds.
    pub fn range(&self, tokens: usize) -> Range<usize> {
        part(tokens, self.group.size(), self.group.rank())
    }

    /// This rank's part of values that all ranks hold: `[B, S, D]` to `[B, S of this rank, D]`.
    pub fn split(&self, x: Tensor<3>) -> Tensor<3> {
        let whole = x.dims()[1];
        Collective::Slice { dim: 1, whole }.apply(x, &self.group)
    }

    /// The whole sequence of `tokens` tokens, on every rank.
    pub fn join(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        Collective::Collect {
            dim: 1,
            whole: tokens,
        }
        .apply(x, &self.group)
    }
}

/// The entry of layers that are cut along an axis: shared by all that read the same value.
#[derive(Module, Debug)]
pub(crate) struct Entry {
    #[module(skip)]
    edge: Edge,
    #[module(skip)]
    group: Group,
}

impl Entry {
    pub(crate) fn new(cx: &Cx, axis: Axis) -> Self {
        let (edge, group) = cx.entry(axis);
        Self { edge, group }
    }

    /// `x` of `[B, S of this rank, D]` to `[B, S, D]`; `tokens` is the whole length.
    pub(crate) fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        self.edge.collective(tokens).apply(x, &self.group)
    }
}

/// The entry of all layers that read text with cut heads: shared by a whole model, so that the
/// gradient of the text is summed over the ranks once, not once a layer.
#[derive(Module, Debug)]
pub struct TextEntry {
    entry: Entry,
}

impl TextEntry {
    /// The entry of keys and values made from text.
    pub fn new(cx: &Cx) -> Self {
        Self {
            entry: Entry::new(&cx.on(Axis::Text), Axis::Heads),
        }
    }

    /// `[B, L, D]` to the same.
    pub fn forward(&self, text: Tensor<3>) -> Tensor<3> {
        let tokens = text.dims()[1];
        self.entry.forward(text, tokens)
    }
}
