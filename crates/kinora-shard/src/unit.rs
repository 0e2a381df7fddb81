//! The parameters of one block: stored cut, gathered as one flat tensor while the block computes, and
//! their gradients scattered as one.

use crate::exchange::Flight;
use crate::{Group, ParamTable, Storage};
use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor};
use kinora_kernels::op::Leaf;
use std::collections::HashMap;
use std::ops::Range;

/// How the parameters of all blocks of a stack are stored.
#[derive(Clone, Debug)]
pub(crate) struct Units {
    group: Group,
    dtype: DType,
    storage: HashMap<ParamId, Option<Storage>>,
}

/// The stored parameters of a block, flat and without a graph, in the order of its fields.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    params: Vec<(ParamId, Tensor<1>)>,
}

impl Units {
    /// Of the parameters that `table` has had since there were `first`.
    pub(crate) fn new(group: Group, dtype: DType, table: &ParamTable, first: usize) -> Self {
        let storage = table.storage_from(first).collect();
        Self {
            group,
            dtype,
            storage,
        }
    }

    /// Whether any parameter is cut where it is stored.
    pub(crate) fn cut(&self) -> bool {
        self.group.size() > 1 && self.storage.values().any(Option::is_some)
    }

    fn storage(&self, id: ParamId) -> Option<&Storage> {
        self.storage
            .get(&id)
            .expect("a block's parameters were made by its stack's builder")
            .as_ref()
    }

    /// Starts to gather what is cut of a block.
    pub(crate) fn start(&self, stored: &Stored) -> Option<Flight<1>> {
        if !self.cut() {
            return None;
        }
        let cut = stored
            .params
            .iter()
            .filter(|(id, _)| self.storage(*id).is_some());
        let mine: Vec<Tensor<1>> = cut.map(|(_, flat)| flat.clone().cast(self.dtype)).collect();
        let lens = self.lens(stored);
        let flight = self
            .group
            .start_gather(Tensor::cat(mine, 0), 0, &lens, "block weights");
        Some(flight)
    }

    /// The elements that each rank stores of a block.
    fn lens(&self, stored: &Stored) -> Vec<usize> {
        (0..self.group.size())
            .map(|rank| self.parts(stored, rank).map(|(_, len)| len).sum())
            .collect()
    }

    /// The elements that a rank stores of each parameter that is cut.
    fn parts<'a>(
        &'a self,
        stored: &'a Stored,
        rank: usize,
    ) -> impl Iterator<Item = (ParamId, usize)> + 'a {
        stored.params.iter().filter_map(move |(id, mine)| {
            let storage = self.storage(*id)?;
            let row = mine.dims()[0] / storage.lens[self.group.rank()];
            Some((*id, row * storage.lens[rank]))
        })
    }

    /// A block whose parameters are what `flight` brings, on a plain device or as leaves of a new
    /// graph.
    pub(crate) fn arrive<M: Module>(
        &self,
        block: &M,
        flight: Option<Flight<1>>,
        tracked: bool,
        stored: &Stored,
    ) -> M {
        let mut pieces: HashMap<ParamId, Vec<Tensor<1>>> = HashMap::new();
        if let Some(flight) = flight {
            let all = flight.wait();
            let mut at = 0;
            for rank in 0..self.group.size() {
                for (id, len) in self.parts(stored, rank) {
                    let piece = all.clone().narrow(0, at, len);
                    pieces.entry(id).or_default().push(piece);
                    at += len;
                }
            }
        }
        block.clone().map(&mut Arrive {
            units: self,
            pieces,
            tracked,
        })
    }

    /// The gradients of a block's stored parameters, from those of what it computed with, in the order
    /// of [`Stored`]: in the dtype of the master copies, so that their sum is exact.
    pub(crate) fn scatter<M: Module>(
        &self,
        block: M,
        stored: &Stored,
        mut gradients: burn::tensor::Gradients,
    ) -> Vec<Option<DispatchTensor>> {
        let ranks = self.group.size();
        let mut take = Take {
            units: self,
            gradients: &mut gradients,
            master: stored.params.first().map_or(DType::F32, |(_, x)| x.dtype()),
            pieces: vec![vec![]; ranks],
            shapes: vec![],
        };
        block.visit(&mut take);
        let Take { pieces, shapes, .. } = take;
        // The gathered weights are gone before their gradients travel.
        drop(block);
        let mut mine = vec![].into_iter();
        if self.cut() {
            let lens = self.lens(stored);
            let all = Tensor::cat(pieces.into_iter().flatten().collect(), 0);
            let sum = self.group.scatter_sum(all, 0, &lens, "block gradients");
            let sizes = self.parts(stored, self.group.rank()).map(|(_, len)| len);
            mine = sum.split_with_sizes(sizes.collect(), 0).into_iter();
        }
        shapes
            .into_iter()
            .map(|whole| {
                let flat = whole.flat.or_else(|| mine.next());
                Some((whole.shape)(flat.expect("a part of each parameter")))
            })
            .collect()
    }
}

impl Stored {
    /// The parameters of a block, and the leaves that they are of the graph in which it takes part.
    pub(crate) fn of<M: Module>(block: &M) -> (Self, Vec<Leaf>) {
        struct Read(Vec<(ParamId, Tensor<1>)>, Vec<Leaf>);
        impl ModuleVisitor for Read {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                self.1.push(Leaf::of(&value));
                self.0.push((param.id, value.inner().reshape([-1])));
            }
        }
        let mut read = Read(vec![], vec![]);
        block.visit(&mut read);
        (Self { params: read.0 }, read.1)
    }
}

/// A block with its stored parameters, without a graph.
pub(crate) fn plain<M: Module>(block: &M) -> M {
    struct Plain;
    impl ModuleMapper for Plain {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, _) = param.consume();
            Param::initialized(id, value.inner())
        }
    }
    block.clone().map(&mut Plain)
}

struct Arrive<'a> {
    units: &'a Units,
    pieces: HashMap<ParamId, Vec<Tensor<1>>>,
    tracked: bool,
}

impl ModuleMapper for Arrive<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, stored, _) = param.consume();
        let mut shape = stored.dims();
        let value = match (self.pieces.remove(&id), self.units.storage(id)) {
            (Some(pieces), Some(storage)) => {
                let pieces = pieces.into_iter().zip(&storage.lens).map(|(piece, &len)| {
                    shape[storage.dim] = len;
                    piece.reshape(shape)
                });
                Tensor::cat(pieces.collect(), storage.dim)
            }
            _ => stored.cast(self.units.dtype),
        };
        Param::initialized(
            id,
            if self.tracked {
                value.autodiff().require_grad()
            } else {
                value
            },
        )
    }
}

struct Take<'a> {
    units: &'a Units,
    gradients: &'a mut burn::tensor::Gradients,
    master: DType,
    // What each rank stores of the gradients, one tensor a parameter that is cut.
    pieces: Vec<Vec<Tensor<1>>>,
    shapes: Vec<Whole>,
}

/// A parameter's gradient, if it is not cut, and how it gets its shape.
struct Whole {
    flat: Option<Tensor<1>>,
    shape: Box<dyn FnOnce(Tensor<1>) -> DispatchTensor>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let gradient = value
            .grad_remove(self.gradients)
            .unwrap_or_else(|| value.inner().zeros_like())
            .cast(self.master);
        let mut shape = gradient.dims();
        let flat = match self.units.storage(param.id).filter(|_| self.units.cut()) {
            None => Some(gradient.reshape([-1])),
            Some(storage) => {
                let mut start = 0;
                for (rank, &len) in storage.lens.iter().enumerate() {
                    let range: Range<usize> = start..start + len;
                    let piece = gradient
                        .clone()
                        .narrow(storage.dim, range.start, range.len());
                    self.pieces[rank].push(piece.reshape([-1]));
                    start += len;
                }
                shape[storage.dim] = storage.lens[self.units.group.rank()];
                None
            }
        };
        self.shapes.push(Whole {
            flat,
            shape: Box::new(move |flat| flat.reshape(shape).into_dispatch()),
        });
    }
}
