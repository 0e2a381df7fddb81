//! A parameter as layers use it: stored cut, in the dtype of the master copy; computed with whole, in
//! the dtype of computation.

use crate::{Group, Storage};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use kinora_kernels::op::custom;
use std::sync::Arc;

/// A parameter of a layer. Inside a [`crate::Stack`] it is gathered with all others of its block, and
/// outside by itself where it is used.
#[derive(Module, Debug)]
pub struct Weight<const D: usize> {
    stored: Param<Tensor<D>>,
    #[module(skip)]
    gather: Option<Gather>,
    #[module(skip)]
    dtype: DType,
}

#[derive(Clone, Debug)]
struct Gather {
    group: Group,
    storage: Storage,
}

impl<const D: usize> Weight<D> {
    pub(crate) fn new(
        stored: Param<Tensor<D>>,
        gather: Option<(Group, Storage)>,
        dtype: DType,
    ) -> Self {
        let gather = gather.map(|(group, storage)| Gather { group, storage });
        Self {
            stored,
            gather,
            dtype,
        }
    }

    /// The value that this rank computes with.
    ///
    /// # Panics
    /// With a `CommError` as payload if it has to be gathered and the transport fails.
    pub fn val(&self) -> Tensor<D> {
        let stored = self.stored.val();
        match &self.gather {
            Some(gather) => gather.whole(stored, self.dtype),
            None if stored.dtype() == self.dtype => stored,
            None => stored.cast(self.dtype),
        }
    }

    /// The dtype of [`Weight::val`].
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape of [`Weight::val`], without making it.
    pub fn dims(&self) -> [usize; D] {
        let mut dims: [usize; D] = self.stored.lazy_shape().dims();
        if let Some(gather) = &self.gather {
            dims[gather.storage.dim] = gather.storage.lens.iter().sum();
        }
        dims
    }
}

impl Gather {
    /// Travels in the dtype of computation, and the gradient back in that of the master copy, so that
    /// it is summed exactly.
    fn whole<const D: usize>(&self, stored: Tensor<D>, dtype: DType) -> Tensor<D> {
        let Self { group, storage } = self.clone();
        custom([stored], move |[stored]| {
            let master = stored.dtype();
            let Storage { dim, lens } = storage;
            let whole = group.gather(stored.cast(dtype), dim, &lens, "weight");
            let back = move |gradient: Tensor<D>| {
                [group.scatter_sum(gradient.cast(master), dim, &lens, "weight gradient")]
            };
            (whole, Arc::new(back))
        })
    }
}
