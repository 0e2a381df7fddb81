//! A transformer with its weights listed, and what one rank of an arrangement has of it.

use super::arrangement::Local;
use super::{Anatomy, Arrangement, Job, Recompute, Training, Weight};

/// A transformer with its weights listed, to estimate many arrangements of.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    /// The transformer's blocks, then the encoder's.
    pub(super) stacks: Vec<Stack<'a>>,
    /// The weights outside all blocks.
    pub(super) outer: Vec<Weight>,
}

/// Blocks of one kind.
#[derive(Clone, Debug)]
pub(super) struct Stack<'a> {
    pub anatomy: &'a Anatomy,
    /// The weights of one block.
    pub block: Vec<Weight>,
}

impl<'a> Model<'a> {
    /// Lists the weights.
    pub fn new(anatomy: &'a Anatomy) -> Self {
        let stack = |anatomy: &'a Anatomy| Stack {
            anatomy,
            block: anatomy.block(),
        };
        let mut model = Self {
            stacks: vec![stack(anatomy)],
            outer: anatomy.outer(),
        };
        if let Some(encoder) = &anatomy.encoder {
            let mut stack = stack(encoder);
            stack.block.iter_mut().for_each(|weight| weight.text = true);
            model.stacks.push(stack);
            model.outer.extend(encoder.outer());
        }
        model
    }

    /// All weights, with how often each is there.
    pub(super) fn weights(&self) -> impl Iterator<Item = (&Weight, usize)> {
        let blocks = self.stacks.iter().flat_map(|stack| {
            let layers = stack.anatomy.layers;
            stack.block.iter().map(move |weight| (weight, layers))
        });
        blocks.chain(self.outer.iter().map(|weight| (weight, 1)))
    }
}

/// A model on one rank.
pub(super) struct Placed<'a> {
    pub model: &'a Model<'a>,
    pub arrangement: &'a Arrangement,
    /// What the rank sees of each stack's tokens.
    pub locals: Vec<Local>,
}

impl<'a> Placed<'a> {
    pub(super) fn new(
        model: &'a Model<'a>,
        job: &Job,
        arrangement: &'a Arrangement,
        rank: usize,
    ) -> Self {
        let local = Local::new(model.stacks[0].anatomy, job, arrangement, rank);
        let encoders = model.stacks[1..].iter();
        let encoders: Vec<Local> = encoders.map(|s| local.reading(s.anatomy)).collect();
        Self {
            model,
            arrangement,
            locals: std::iter::once(local).chain(encoders).collect(),
        }
    }

    /// Blocks of each stack that are recomputed: those that the job says, of `least` where that is up
    /// to memory, and all of a stack whose stored weights are cut.
    pub(super) fn recomputed(&self, job: &Training, least: usize) -> Vec<usize> {
        let of = |(stack, local): (&Stack<'_>, &Local)| {
            let layers = stack.anatomy.layers;
            if !job.habits.cut_kept && stack.block.iter().any(|w| local.sharded(w)) {
                return layers;
            }
            match job.recompute {
                Recompute::All => layers,
                Recompute::None => 0,
                Recompute::Blocks(blocks) => blocks.min(layers),
                Recompute::Least => least.min(layers),
            }
        };
        self.model.stacks.iter().zip(&self.locals).map(of).collect()
    }
}
