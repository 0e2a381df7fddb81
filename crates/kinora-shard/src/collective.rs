//! Collectives as one differentiable operation: each has an adjoint that is a collective too.

use crate::Group;
use burn::tensor::Tensor;
use kinora_kernels::op::custom;
use kinora_mesh::{part, parts};
use std::sync::Arc;

/// A collective on tensors. Kinds of value are in the crate's documentation; `dim` is a dimension of
/// the tensor, which the ranks of the group cut as [`kinora_mesh::part`] says, evenly or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// I to R: nothing moves forward; gradients are summed backward. Megatron's `f`.
    Copy,
    /// P to I: the sum. Megatron's `g`.
    AllReduce,
    /// V to R: every rank gets the whole, of length `whole` along `dim`.
    AllGather {
        /// The dimension that is cut.
        dim: usize,
        /// Its whole length.
        whole: usize,
    },
    /// P to V: the sum, each rank its part along `dim`.
    ReduceScatter {
        /// The dimension to cut.
        dim: usize,
        /// Its whole length.
        whole: usize,
    },
    /// V to I: every rank gets the whole and computes the same with it.
    Collect {
        /// The dimension that is cut.
        dim: usize,
        /// Its whole length.
        whole: usize,
    },
    /// I to V: each rank keeps its part along `dim`.
    Slice {
        /// The dimension to cut.
        dim: usize,
        /// Its whole length.
        whole: usize,
    },
}

impl Collective {
    /// The collective that carries gradients back.
    pub fn adjoint(self) -> Self {
        match self {
            Self::Copy => Self::AllReduce,
            Self::AllReduce => Self::Copy,
            Self::AllGather { dim, whole } => Self::ReduceScatter { dim, whole },
            Self::ReduceScatter { dim, whole } => Self::AllGather { dim, whole },
            Self::Collect { dim, whole } => Self::Slice { dim, whole },
            Self::Slice { dim, whole } => Self::Collect { dim, whole },
        }
    }

    /// Applies the collective over a group. A group of one rank returns the tensor as it is.
    ///
    /// # Panics
    /// With a `CommError` as payload if the transport fails.
    pub fn apply<const D: usize>(self, x: Tensor<D>, group: &Group) -> Tensor<D> {
        if group.size() == 1 {
            return x;
        }
        let peers = group.clone();
        custom([x], move |[x]| {
            let out = self.run(x, &peers);
            let back = move |gradient| [self.adjoint().run(gradient, &peers)];
            (out, Arc::new(back))
        })
    }

    /// The collective on a plain tensor.
    fn run<const D: usize>(self, x: Tensor<D>, group: &Group) -> Tensor<D> {
        let lens = |whole| parts(whole, group.size());
        match self {
            Self::Copy => x,
            Self::AllReduce => group.sum_of(x, "all-reduce"),
            Self::AllGather { dim, whole } => group.gather(x, dim, &lens(whole), "all-gather"),
            Self::Collect { dim, whole } => group.gather(x, dim, &lens(whole), "collect"),
            Self::ReduceScatter { dim, whole } => {
                group.scatter_sum(x, dim, &lens(whole), "reduce-scatter")
            }
            Self::Slice { dim, whole } => {
                assert_eq!(x.dims()[dim], whole, "slice along dim {dim}");
                let mine = part(whole, group.size(), group.rank());
                x.narrow(dim, mine.start, mine.len())
            }
        }
    }
}
