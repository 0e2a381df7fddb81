//! The blocks of a model, one after the other: whose activations are kept, whose are computed again,
//! and where their weights are gathered.
//!
//! A block that is recomputed keeps its inputs alone. The backward pass computes it again from them,
//! as leaves of a graph of its own, and hands their gradients and those of its parameters on. Weights
//! that are stored cut are gathered inside, each time, so that no graph ever holds them; those of the
//! next block travel meanwhile.

use crate::exchange::Flight;
use crate::unit::{Stored, Units, plain};
use crate::{Cx, Recompute};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_kernels::op::{BackWithLeaves, custom_with_leaves};
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks of one kind.
#[derive(Module, Debug)]
pub struct Stack<M: Module + Sync + 'static> {
    blocks: Vec<M>,
    #[module(skip)]
    units: Units,
    #[module(skip)]
    recompute: Recompute,
}

/// The gather of the next block's weights, on its way.
#[derive(Clone, Default)]
struct Ahead(Arc<Mutex<Option<(usize, Flight<1>)>>>);

impl<M: Module + Sync + 'static> Stack<M> {
    /// `count` blocks, which `make` builds with the builder of their path.
    pub fn new(cx: &Cx, count: usize, make: impl Fn(&Cx) -> M) -> Self {
        let first = cx.table().mark();
        let cx = cx.in_stack();
        let blocks = (0..count).map(|i| make(&cx.at(i))).collect();
        Self {
            blocks,
            units: cx.units(first),
            recompute: cx.recompute(),
        }
    }

    /// Runs all blocks: the first of `inputs` flows through them, the others each block reads too.
    ///
    /// All that may need a gradient has to be among `inputs`; what `run` captures are constants.
    ///
    /// # Panics
    /// If `run` captures a tensor of an autodiff device, whose gradient would be lost in a block that
    /// is recomputed. With a `CommError` as payload if the transport fails.
    pub fn forward<const N: usize>(
        &self,
        inputs: [Tensor<3>; N],
        run: impl Fn(&M, [Tensor<3>; N]) -> Tensor<3> + Clone + Send + Sync + 'static,
    ) -> Tensor<3> {
        let ahead = Ahead::default();
        let mut inputs = inputs;
        for (i, block) in self.blocks.iter().enumerate() {
            inputs[0] = if self.units.cut() || self.recompute.takes(i) {
                self.recomputed(i, inputs.clone(), &ahead, run.clone())
            } else {
                run(block, inputs.clone())
            };
        }
        inputs.into_iter().next().expect("a stack has an input")
    }

    fn recomputed<const N: usize>(
        &self,
        i: usize,
        inputs: [Tensor<3>; N],
        ahead: &Ahead,
        run: impl Fn(&M, [Tensor<3>; N]) -> Tensor<3> + Send + Sync + 'static,
    ) -> Tensor<3> {
        let of = |i: usize| {
            let block: Option<&M> = self.blocks.get(i);
            block.map(|block| Stored::of(block).0)
        };
        let (stored, leaves) = Stored::of(&self.blocks[i]);
        let (next, before) = (of(i + 1), i.checked_sub(1).and_then(of));
        let (block, units, ahead) = (plain(&self.blocks[i]), self.units.clone(), ahead.clone());
        custom_with_leaves(inputs, leaves, move |inputs| {
            let flight = ahead.take(i, || units.start(&stored));
            let whole = units.arrive(&block, flight, false, &stored);
            ahead.start(i + 1, next.and_then(|next| units.start(&next)));
            let out = run(&whole, inputs.clone());
            let back: BackWithLeaves<3, N> = Arc::new(move |gradient| {
                let flight = ahead.take(i, || units.start(&stored));
                let whole = units.arrive(&block, flight, true, &stored);
                if let Some(before) = &before {
                    ahead.start(i - 1, units.start(before));
                }
                let leaves = inputs.clone().map(|x| x.autodiff().require_grad());
                let out = run(&whole, leaves.clone());
                let mut gradients = (out * gradient.autodiff()).sum().backward();
                let of_inputs = leaves.map(|x| {
                    let missing = || x.clone().inner().zeros_like();
                    x.grad_remove(&mut gradients).unwrap_or_else(missing)
                });
                (of_inputs, units.scatter(whole, &stored, gradients))
            });
            (out, back)
        })
    }
}

impl Ahead {
    /// The gather of block `i`: the one on its way, or one that is started now.
    fn take(&self, i: usize, start: impl FnOnce() -> Option<Flight<1>>) -> Option<Flight<1>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take() {
            Some((of, flight)) if of == i => Some(flight),
            _ => start(),
        }
    }

    fn start(&self, i: usize, flight: Option<Flight<1>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = flight.map(|flight| (i, flight));
    }
}
