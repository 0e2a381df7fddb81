//! Collectives as one differentiable operation: each has an adjoint that is a collective too.

use crate::Group;
use crate::wire::{View, apart, together};
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor, TensorData};
use kinora_comm::{
    Buffer, Call, Collective as Wire, CommError, Element as WireElement, HostBuffer, Reduce,
};
use kinora_mesh::{part, parts};

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
    /// With a [`CommError`] as payload if the transport fails.
    pub fn apply<const D: usize>(self, x: Tensor<D>, group: &Group) -> Tensor<D> {
        if group.size() == 1 {
            return x;
        }
        Tensor::from_dispatch(<Dispatch as Collectives>::collective(
            x.into_dispatch(),
            self,
            group.clone(),
        ))
    }

    fn label(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::AllReduce => "all-reduce",
            Self::AllGather { .. } => "all-gather",
            Self::ReduceScatter { .. } => "reduce-scatter",
            Self::Collect { .. } => "collect",
            Self::Slice { .. } => "slice",
        }
    }
}

/// The operation as Burn's backends see it.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Collectives: Backend {
    fn collective(x: FloatTensor<Self>, op: Collective, group: Group) -> FloatTensor<Self>;
}

impl Collectives for Flex {
    fn collective(x: FloatTensor<Self>, op: Collective, group: Group) -> FloatTensor<Self> {
        if op == Collective::Copy {
            return x;
        }
        let device = x.device();
        let data = burn::tensor::try_read_sync(<Flex as FloatTensorOps<Flex>>::float_into_data(x))
            .expect("flex tensors are read synchronously")
            .expect("a flex tensor can be read");
        let result = match data.dtype() {
            DType::F32 => on_host::<f32>(data, op, &group),
            DType::F64 => on_host::<f64>(data, op, &group),
            dtype => panic!("collectives on the CPU take f32 and f64, not {dtype:?}"),
        };
        match result {
            Ok(data) => <Flex as FloatTensorOps<Flex>>::float_from_data(data, &device),
            // A graph has no way to return an error; the launcher of the rank catches this one.
            Err(error) => std::panic::resume_unwind(Box::new(error)),
        }
    }
}

impl<C: CheckpointStrategy> Collectives for Autodiff<Flex, C> {
    fn collective(x: FloatTensor<Self>, op: Collective, group: Group) -> FloatTensor<Self> {
        let (primitive, node) = x.into_parts();
        let out = Flex::collective(primitive, op, group.clone());
        match Backward::<Flex, 1>::prepare::<C>(Adjoint, [node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((op.adjoint(), group), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct Adjoint;

impl<B: Collectives> Backward<B, 1> for Adjoint {
    type State = (Collective, Group);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (op, group) = ops.state;
        let [parent] = ops.parents;
        // The collective runs even if nobody here wants the gradient: the peers wait for it.
        let gradient = B::collective(gradients.consume::<B>(&ops.node), op, group);
        if let Some(parent) = parent {
            gradients.register::<B>(parent.id, gradient);
        }
    }
}

/// The collective on host memory.
fn on_host<T: Element + WireElement + Copy>(
    data: TensorData,
    op: Collective,
    group: &Group,
) -> Result<TensorData, CommError> {
    let transport = group
        .transport()
        .expect("a group of one rank has no collective");
    let mut shape = data.shape().to_vec();
    let data: Vec<T> = data.try_into_vec().expect("the element type was matched");
    let run = |wire: Wire, data: Vec<T>| -> Result<Vec<T>, CommError> {
        let call = Call {
            collective: wire,
            label: op.label().into(),
            accumulate: None,
        };
        match transport
            .start(call, Buffer::Host(HostBuffer::from(data)))?
            .wait()?
        {
            Buffer::Host(buffer) => {
                Ok(T::take(buffer).expect("a transport keeps the element type"))
            }
            Buffer::Device(_) => unreachable!("a host buffer comes back as one"),
        }
    };
    let out = match op {
        Collective::Copy => data,
        Collective::AllReduce => run(
            Wire::AllReduce {
                reduce: Reduce::Sum,
            },
            data,
        )?,
        Collective::AllGather { dim, whole } | Collective::Collect { dim, whole } => {
            let mine = part(whole, group.size(), group.rank()).len();
            assert_eq!(
                shape[dim],
                mine,
                "{}: rank {} of {} holds {mine} of {whole} along dim {dim}, but got {shape:?}",
                op.label(),
                group.rank(),
                group.size(),
            );
            shape[dim] = whole;
            let view = View::new(&shape, dim);
            let lens = parts(whole, group.size());
            let row = view.outer * view.inner;
            let parts = run(
                Wire::AllGather {
                    lens: lens.iter().map(|n| n * row).collect(),
                },
                data,
            )?;
            together(&parts, view, &lens)
        }
        Collective::ReduceScatter { dim, whole } => {
            assert_eq!(
                shape[dim], whole,
                "reduce-scatter along dim {dim} of {shape:?}"
            );
            let view = View::new(&shape, dim);
            let lens = parts(whole, group.size());
            shape[dim] = lens[group.rank()];
            let row = view.outer * view.inner;
            let wire = Wire::ReduceScatter {
                reduce: Reduce::Sum,
                lens: lens.iter().map(|n| n * row).collect(),
            };
            run(wire, apart(&data, view, &lens))?
        }
        Collective::Slice { dim, whole } => {
            assert_eq!(shape[dim], whole, "slice along dim {dim} of {shape:?}");
            let view = View::new(&shape, dim);
            let mine = part(whole, group.size(), group.rank());
            shape[dim] = mine.len();
            let skipped = [mine.start, mine.len(), whole - mine.end];
            let from = mine.start * view.outer * view.inner;
            let len = mine.len() * view.outer * view.inner;
            apart(&data, view, &skipped)[from..from + len].to_vec()
        }
    };
    Ok(TensorData::new(out, shape))
}
