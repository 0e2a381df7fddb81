//! Keys and values of all ranks gathered, and their gradients scattered: how Movie Gen attends over
//! ranks (paper, appendix A.2).

use burn::tensor::{Bool, Tensor};
use kinora_kernels::{attention_backward, attention_with_logsumexp};
use kinora_shard::Group;

pub(super) struct Gather {
    pub(super) group: Group,
    /// The tokens of each rank.
    pub(super) lens: Vec<usize>,
    /// `[B, S of all]`.
    pub(super) mask: Option<Tensor<2, Bool>>,
}

impl Gather {
    pub(super) fn forward(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
    ) -> (Tensor<4>, Tensor<3>) {
        let [k, v] = self.all(k, v);
        attention_with_logsumexp(q, k, v, self.mask.clone())
    }

    /// The gradients of this rank's queries, keys and values.
    pub(super) fn backward(
        &self,
        [q, k, v]: [Tensor<4>; 3],
        (out, lse): (Tensor<4>, Tensor<3>),
        d_out: Tensor<4>,
    ) -> [Tensor<4>; 3] {
        let b = q.dims()[0];
        let [k, v] = self.all(k, v);
        let (dq, dk, dv) = attention_backward(q, k, v, out, lse, d_out, self.mask.clone());
        let both = Tensor::cat(vec![dk, dv], 0);
        let both = self.group.scatter_sum(both, 2, &self.lens, "key gradients");
        let [dk, dv] = halves(both, b);
        [dq, dk, dv]
    }

    fn all(&self, k: Tensor<4>, v: Tensor<4>) -> [Tensor<4>; 2] {
        let b = k.dims()[0];
        let both = Tensor::cat(vec![k, v], 0);
        halves(self.group.gather(both, 2, &self.lens, "keys"), b)
    }
}

fn halves(both: Tensor<4>, b: usize) -> [Tensor<4>; 2] {
    [0, b].map(|start| both.clone().narrow(0, start, b))
}
