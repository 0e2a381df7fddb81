//! Keys and values that travel round a ring of ranks, each attending to those that pass (ring
//! attention, Liu et al. 2023). A ring of one rank is attention to the tokens at hand.
//!
//! While a rank attends to what it has, the next keys are on their way. In the backward pass the
//! gradients of keys and values follow them one step behind, and are home after a whole round.

use burn::tensor::{Bool, DType, Tensor};
use kinora_kernels::{attention_backward, attention_with_logsumexp, merge};
use kinora_shard::{Flight, Group};
use std::ops::Range;

pub(super) struct Ring {
    pub(super) group: Group,
    /// The tokens of each rank of the ring.
    pub(super) lens: Vec<usize>,
    /// `[B, S of all]`.
    pub(super) mask: Option<Tensor<2, Bool>>,
}

impl Ring {
    pub(super) fn forward(&self, [q, k, v]: [Tensor<4>; 3]) -> (Tensor<4>, Tensor<3>) {
        let (dtype, sums) = (q.dtype(), sums(q.dtype()));
        let q = q.cast(sums);
        let mut here = Tensor::cat(vec![k, v], 0); // [2 B, H, L, K]
        let mut sum: Option<(Tensor<4>, Tensor<3>)> = None;
        for step in 0..self.group.size() {
            let next = self.pass_on(step, &here, "keys");
            let [k, v] = halves(here.clone()).map(|x| x.cast(sums));
            let part = attention_with_logsumexp(q.clone(), k, v, self.mask_at(step));
            sum = Some(match sum {
                Some(sum) => merge(sum, part),
                None => part,
            });
            if let Some(next) = next {
                here = next.wait();
            }
        }
        let (out, lse) = sum.expect("a ring has a rank");
        (out.cast(dtype), lse)
    }

    /// The gradients of this rank's queries, keys and values.
    pub(super) fn backward(
        &self,
        [q, k, v]: [Tensor<4>; 3],
        (out, lse): (Tensor<4>, Tensor<3>),
        d_out: Tensor<4>,
    ) -> [Tensor<4>; 3] {
        let (dtype, sums) = (q.dtype(), sums(q.dtype()));
        let [q, out, d_out] = [q, out, d_out].map(|x| x.cast(sums));
        let mut here = Tensor::cat(vec![k, v], 0); // [2 B, H, L, K]
        let mut dq: Option<Tensor<4>> = None;
        let mut behind: Option<Tensor<4>> = None;
        for step in 0..self.group.size() {
            let next = self.pass_on(step, &here, "keys");
            let coming = behind
                .take()
                .map(|sum| self.shift(step, sum, "key gradients"));
            let [k, v] = halves(here.clone()).map(|x| x.cast(sums));
            let (q, out, lse, d_out) = (q.clone(), out.clone(), lse.clone(), d_out.clone());
            let (dq_part, dk, dv) =
                attention_backward(q, k, v, out, lse, d_out, self.mask_at(step));
            dq = Some(match dq {
                Some(dq) => dq + dq_part,
                None => dq_part,
            });
            let part = Tensor::cat(vec![dk, dv], 0);
            behind = Some(match coming {
                Some(coming) => coming.wait() + part,
                None => part,
            });
            if let Some(next) = next {
                here = next.wait();
            }
        }
        let (dq, sum) = dq.zip(behind).expect("a ring has a rank");
        let sum = if self.group.size() > 1 {
            self.shift(self.group.size(), sum, "key gradients").wait()
        } else {
            sum
        };
        let [dk, dv] = halves(sum);
        [dq, dk, dv].map(|x| x.cast(dtype))
    }

    /// Whose keys are here at a step.
    fn owner(&self, step: usize) -> usize {
        let size = self.group.size();
        (self.group.rank() + size - step % size) % size
    }

    /// Starts the way of what is here to the next rank, unless it was the last step.
    fn pass_on(&self, step: usize, here: &Tensor<4>, label: &'static str) -> Option<Flight<4>> {
        let more = step + 1 < self.group.size();
        more.then(|| self.shift(step + 1, here.clone(), label))
    }

    /// Sends to the next rank and receives what belongs here at `step`.
    fn shift(&self, step: usize, x: Tensor<4>, label: &'static str) -> Flight<4> {
        let mut shape = x.dims();
        shape[2] = self.lens[self.owner(step)];
        self.group.start_shift(x, shape, label)
    }

    fn mask_at(&self, step: usize) -> Option<Tensor<2, Bool>> {
        let owner = self.owner(step);
        let start: usize = self.lens[..owner].iter().sum();
        let range: Range<usize> = start..start + self.lens[owner];
        let mask = self.mask.clone()?;
        Some(mask.narrow(1, range.start, range.len()))
    }
}

/// What is added up rank by rank, and merged, is computed in 32 bits at least; keys travel as they are.
fn sums(dtype: DType) -> DType {
    if dtype == DType::F64 {
        dtype
    } else {
        DType::F32
    }
}

fn halves(both: Tensor<4>) -> [Tensor<4>; 2] {
    let b = both.dims()[0] / 2;
    [0, b].map(|start| both.clone().narrow(0, start, b))
}
