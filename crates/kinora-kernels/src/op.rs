//! A differentiable operation written with plain tensors: what it computes, and how a gradient of its
//! output becomes gradients of its inputs.
//!
//! Burn records an operation of its own with a `Backward` for each backend. That is done here once, so
//! that a kernel, a collective or a block that is computed again is two closures of tensor code. The
//! closures see plain tensors (not on an autodiff device), and the second one, [`Back`], is all that
//! lives until the backward pass: what it captures is what the operation keeps.

#[cfg(feature = "cuda")]
use burn::backend::Cuda;
use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{
        base::Checkpointer,
        strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor,
    DispatchTensorKind, Flex, GradientCheckpointingStrategy,
};
use burn::tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// Maps the plain gradient of the output to plain gradients of the inputs, each of the shape and type of
/// its input. It must capture plain tensors only: a tensor of the graph would keep the graph alive.
pub type Back<const D: usize, const N: usize> =
    Arc<dyn Fn(Tensor<D>) -> [Tensor<D>; N] + Send + Sync>;

/// A [`Back`] that also returns a plain gradient for each [`Leaf`], in their order, or none for a leaf
/// that has no part in the output. [`Tensor::into_dispatch`] erases the rank of a gradient.
pub type BackWithLeaves<const D: usize, const N: usize> =
    Arc<dyn Fn(Tensor<D>) -> ([Tensor<D>; N], Vec<Option<DispatchTensor>>) + Send + Sync>;

/// How many inputs an operation has at most.
pub const MAX_INPUTS: usize = PARENTS - 1;

// Burn wants the number of parents in a type. One stands for the leaves.
const PARENTS: usize = 8;

/// A tensor that an operation reads without it being an input, such as a parameter of a block.
#[derive(Clone, Debug)]
pub struct Leaf(DispatchTensor);

impl Leaf {
    /// The leaf that this tensor is, of any rank. A tensor that needs no gradient may be given: what
    /// [`BackWithLeaves`] returns for it is dropped.
    ///
    /// # Panics
    /// If the tensor was computed from others that need gradients: those would get none.
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        assert!(
            tensor.is_require_grad() || !tensor.is_tracked(),
            "a leaf of shape {:?} is the output of another operation\n  help: pass it as an input",
            tensor.dims(),
        );
        Self(tensor.clone().into_dispatch())
    }
}

/// Runs `forward` on the plain tensors of `inputs` and, if one of them needs a gradient, records what it
/// returns beside the output as the operation's backward pass.
///
/// Inputs that are not on an autodiff device are constants; if none is on one, `forward` runs and that is
/// all. In a backward pass that reaches the output, [`Back`] runs exactly once, whichever inputs need
/// their gradients: there may be collectives in it, for which other ranks wait.
///
/// # Panics
/// If `forward` returns a tensor of an autodiff device, or (in the backward pass) `Back` returns a
/// gradient that is one, or that has another shape or element type than its input.
pub fn custom<const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    forward: impl FnOnce([Tensor<D>; N]) -> (Tensor<D>, Back<D, N>),
) -> Tensor<D> {
    custom_with_leaves(inputs, Vec::new(), |inputs| {
        let (out, back) = forward(inputs);
        (out, Arc::new(move |gradient| (back(gradient), Vec::new())))
    })
}

/// [`custom`] for an operation that also gives gradients to leaves that are not inputs, such as the
/// parameters of a block that is computed again in the backward pass. The operation is recorded if an
/// input or a leaf needs a gradient.
///
/// # Panics
/// As [`custom`], and if the number of leaf gradients is not that of the leaves.
pub fn custom_with_leaves<const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    leaves: Vec<Leaf>,
    forward: impl FnOnce([Tensor<D>; N]) -> (Tensor<D>, BackWithLeaves<D, N>),
) -> Tensor<D> {
    const { assert!(N <= MAX_INPUTS, "an operation has at most 7 inputs") };
    let (kind, strategy) = {
        let everything = inputs
            .iter()
            .map(|input| input.clone().into_dispatch())
            .chain(leaves.iter().map(|leaf| leaf.0.clone()));
        let mut differentiable = everything.filter_map(|tensor| match tensor.autodiff {
            DispatchAutodiffContext::Enabled(strategy) => Some((tensor.kind, strategy)),
            DispatchAutodiffContext::Disabled => None,
        });
        let Some((kind, strategy)) = differentiable.next() else {
            return forward(inputs).0;
        };
        for (_, other) in differentiable {
            assert_eq!(
                strategy, other,
                "inputs of one operation come from devices with and without gradient checkpointing"
            );
        }
        (kind, strategy)
    };
    let DispatchTensorKind::Autodiff(kind) = kind else {
        unreachable!("a float tensor of an autodiff device is an autodiff tensor")
    };
    // Each backend is one line.
    match *kind {
        DispatchTensorKind::Flex(_) => by_strategy::<Flex, D, N>(strategy, inputs, leaves, forward),
        #[cfg(feature = "cuda")]
        DispatchTensorKind::Cube(_) => by_strategy::<Cuda, D, N>(strategy, inputs, leaves, forward),
        #[allow(unreachable_patterns)]
        other => panic!("custom operations are not built for the backend of {other:?}"),
    }
}

fn by_strategy<B: Backend, const D: usize, const N: usize>(
    strategy: GradientCheckpointingStrategy,
    inputs: [Tensor<D>; N],
    leaves: Vec<Leaf>,
    forward: impl FnOnce([Tensor<D>; N]) -> (Tensor<D>, BackWithLeaves<D, N>),
) -> Tensor<D>
where
    DispatchTensor: DispatchKindConversion<B>
        + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
        + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
{
    match strategy {
        GradientCheckpointingStrategy::Disabled => {
            record::<B, NoCheckpointing, D, N>(inputs, leaves, forward)
        }
        GradientCheckpointingStrategy::Balanced => {
            record::<B, BalancedCheckpointing, D, N>(inputs, leaves, forward)
        }
    }
}

fn record<B: Backend, C: CheckpointStrategy, const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    leaves: Vec<Leaf>,
    forward: impl FnOnce([Tensor<D>; N]) -> (Tensor<D>, BackWithLeaves<D, N>),
) -> Tensor<D>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let expected = inputs.each_ref().map(|input| (input.dims(), input.dtype()));
    let mut guards: Vec<NodeGuard> = Vec::with_capacity(PARENTS);
    let inputs = inputs.map(|input| {
        if !input.is_autodiff() {
            guards.push(constant::<B, C>(plain::<B, D>(input.clone(), "an input")).node());
            return input;
        }
        let (primitive, guard) = input
            .try_into_primitive::<Autodiff<B, C>>()
            .expect("inputs of one operation are on one backend")
            .into_parts();
        guards.push(guard);
        Tensor::from_primitive::<B>(primitive)
    });
    let leaves: Vec<Option<FloatTensor<Autodiff<B, C>>>> =
        leaves.into_iter().map(tracked::<B, C>).collect();
    let ids = leaves
        .iter()
        .map(|leaf| leaf.as_ref().map(|leaf| leaf.id()))
        .collect();

    let (out, back) = forward(inputs);
    let out = plain::<B, D>(out, "the output");

    // Any tracked leaf makes the operation tracked; one is enough, and gradients go by identifier.
    let rest = match leaves.iter().flatten().next() {
        Some(leaf) => leaf.node(),
        None => constant::<B, C>(out.clone()).node(),
    };
    guards.push(rest);
    let padding = constant::<B, C>(out.clone());
    guards.resize_with(PARENTS, || padding.node());
    let guards: [NodeGuard; PARENTS] = guards
        .try_into()
        .expect("the number of inputs was checked at compile time");
    let step = Step::<D, N>;
    let out = match Backward::<B, PARENTS>::prepare::<C>(step, guards)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let state = State {
                back,
                expected,
                leaves: ids,
            };
            prep.finish(state, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    };
    Tensor::from_primitive::<Autodiff<B, C>>(out)
}

/// A node of the graph that needs no gradient.
fn constant<B: Backend, C: CheckpointStrategy>(
    primitive: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    FloatTensor::<Autodiff<B, C>>::new(primitive)
}

/// The leaf as a tensor of the graph, if it needs a gradient.
fn tracked<B: Backend, C: CheckpointStrategy>(leaf: Leaf) -> Option<FloatTensor<Autodiff<B, C>>>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B, C>>,
{
    if leaf.0.autodiff == DispatchAutodiffContext::Disabled {
        return None;
    }
    let tensor: BackendTensor<Autodiff<B, C>> =
        <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::try_into_backend(leaf.0)
            .expect("leaves are on the backend of the inputs");
    Some(tensor.float()).filter(|tensor| tensor.is_tracked())
}

fn plain<B: Backend, const D: usize>(tensor: Tensor<D>, what: &str) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let dims = tensor.dims();
    tensor.try_into_primitive::<B>().unwrap_or_else(|error| {
        panic!(
            "{what} of a custom operation, of shape {dims:?}, is not a plain tensor: {error:?}\n  \
             help: call inner() on tensors that are captured"
        )
    })
}

#[derive(Clone)]
struct State<const D: usize, const N: usize> {
    back: BackWithLeaves<D, N>,
    expected: [([usize; D], DType); N],
    leaves: Vec<Option<NodeId>>,
}

impl<const D: usize, const N: usize> fmt::Debug for State<D, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "State {{ inputs: {:?}, leaves: {:?} }}",
            self.expected, self.leaves
        )
    }
}

#[derive(Debug)]
struct Step<const D: usize, const N: usize>;

impl<B: Backend, const D: usize, const N: usize> Backward<B, PARENTS> for Step<D, N>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = State<D, N>;

    fn backward(
        self,
        ops: Ops<Self::State, PARENTS>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let State {
            back,
            expected,
            leaves,
        } = ops.state;
        let gradient = Tensor::from_primitive::<B>(gradients.consume::<B>(&ops.node));
        // Run even if nobody here wants a gradient: other ranks may wait for a collective inside.
        let (of_inputs, of_leaves) = back(gradient);
        assert_eq!(
            of_leaves.len(),
            leaves.len(),
            "a custom operation has {} leaves, but returned gradients for {}",
            leaves.len(),
            of_leaves.len(),
        );
        for (at, (gradient, expected)) in of_inputs.into_iter().zip(expected).enumerate() {
            let Some(parent) = &ops.parents[at] else {
                continue;
            };
            assert_eq!(
                (gradient.dims(), gradient.dtype()),
                expected,
                "the gradient of input {at} of a custom operation is not like the input",
            );
            gradients.register::<B>(parent.id, plain::<B, D>(gradient, "a gradient"));
        }
        for (id, gradient) in leaves.into_iter().zip(of_leaves) {
            if let (Some(id), Some(gradient)) = (id, gradient) {
                let gradient: BackendTensor<B> =
                    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(gradient)
                        .expect("the gradient of a leaf is a plain tensor of its backend");
                gradients.register::<B>(id, gradient.float());
            }
        }
    }
}
