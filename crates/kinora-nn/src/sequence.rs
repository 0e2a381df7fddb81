//! Where the token stream is cut, and where it becomes whole again.
//!
//! Cuts lie one inside the other: over `cp` first, and each of those parts over `tp` under sequence
//! parallelism. Lengths that divide by nothing leave parts that differ by one token; nothing is padded.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::{Axis, nested, part};
use kinora_shard::{Collective, Cx, Edge, Group};
use std::ops::Range;

/// Cuts a sequence of tokens over the ranks that the plan names for it, and joins it again.
#[derive(Module, Debug)]
pub struct Sequence {
    #[module(skip)]
    groups: Vec<Group>,
    // So many of them, from the outermost, do not cut heads.
    #[module(skip)]
    outside_heads: usize,
}

impl Sequence {
    /// The cut of the builder's stream.
    pub fn new(cx: &Cx) -> Self {
        Self {
            groups: cx.stream_groups(),
            outside_heads: cx.groups_outside(Axis::Heads).len(),
        }
    }

    /// The tokens of a sequence of `tokens` that this rank holds.
    pub fn range(&self, tokens: usize) -> Range<usize> {
        range(&self.groups, tokens)
    }

    /// This rank's part of values that all ranks hold: `[B, S, D]` to `[B, S of this rank, D]`.
    pub fn split(&self, x: Tensor<3>) -> Tensor<3> {
        self.groups.iter().fold(x, |x, group| {
            let whole = x.dims()[1];
            Collective::Slice { dim: 1, whole }.apply(x, group)
        })
    }

    /// This rank's part of what a text encoder made, `[B, L, D]` to `[B, L of this rank, D]`, for text
    /// inside the sequence. The encoder's gradient becomes whole over ranks that cut heads, as from
    /// any layer that reads text, and stays a partial sum over the others.
    pub fn part_of_text(&self, text: Tensor<3>) -> Tensor<3> {
        self.groups.iter().enumerate().fold(text, |x, (i, group)| {
            let whole = x.dims()[1];
            if i < self.outside_heads {
                let mine = part(whole, group.size(), group.rank());
                x.narrow(1, mine.start, mine.len())
            } else {
                Collective::Slice { dim: 1, whole }.apply(x, group)
            }
        })
    }

    /// The whole sequence of `tokens` tokens, on every rank.
    pub fn join(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let inner_first = (0..self.groups.len()).rev();
        inner_first.fold(x, |x, i| {
            let whole = range(&self.groups[..i], tokens).len();
            Collective::Collect { dim: 1, whole }.apply(x, &self.groups[i])
        })
    }
}

/// The part of `0..tokens` that cuts over `groups`, outermost first, leave this rank.
pub(crate) fn range(groups: &[Group], tokens: usize) -> Range<usize> {
    nested(
        tokens,
        groups.iter().map(|group| (group.size(), group.rank())),
    )
}

/// The entry of layers that are cut along an axis: shared by all that read the same value.
#[derive(Module, Debug)]
pub(crate) struct Entry {
    #[module(skip)]
    edge: Edge,
    #[module(skip)]
    group: Group,
    // What still cuts the tokens behind the entry.
    #[module(skip)]
    outside: Vec<Group>,
}

impl Entry {
    pub(crate) fn new(cx: &Cx, axis: Axis) -> Self {
        let (edge, group) = cx.entry(axis);
        let outside = cx.groups_outside(axis);
        Self {
            edge,
            group,
            outside,
        }
    }

    /// `x` of `[B, S of this rank, D]` to what the layer reads, `[B, S of its cp rank, D]`; `tokens` is
    /// the whole length.
    pub(crate) fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let behind = range(&self.outside, tokens).len();
        self.edge.collective(behind).apply(x, &self.group)
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
