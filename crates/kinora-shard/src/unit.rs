//! The parameters of one block: stored cut, gathered as one flat tensor while the block computes, and
//! their gradients scattered as one.

use crate::exchange::Flight;
use crate::params::Mark;
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
    params: HashMap<ParamId, Kept>,
}

/// What is known of a parameter of a block.
#[derive(Clone, Debug)]
struct Kept {
    trained: bool,
    storage: Option<Storage>,
}

/// Which parameters of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Trained,
}

/// The stored parameters of a block, flat and without a graph, in the order of its fields.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    params: Vec<(ParamId, Tensor<1>)>,
}

impl Units {
    /// Of the parameters that `table` has got since `first`.
    pub(crate) fn new(group: Group, dtype: DType, table: &ParamTable, first: Mark) -> Self {
        let params = table.storage_since(first);
        let params = params.map(|(id, trained, storage)| (id, Kept { trained, storage }));
        Self {
            group,
            dtype,
            params: params.collect(),
        }
    }

    /// Whether any parameter is cut where it is stored.
    pub(crate) fn cut(&self) -> bool {
        self.group.size() > 1 && self.params.values().any(|kept| kept.storage.is_some())
    }

    fn kept(&self, id: ParamId) -> &Kept {
        self.params
            .get(&id)
            .expect("a block's parameters were made by its stack's builder")
    }

    fn storage(&self, id: ParamId) -> Option<&Storage> {
        self.kept(id).storage.as_ref()
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
        let lens = self.lens(stored, Which::All);
        let flight = self
            .group
            .start_gather(Tensor::cat(mine, 0), 0, &lens, "block weights");
        Some(flight)
    }

    /// The elements that each rank stores of a block.
    fn lens(&self, stored: &Stored, which: Which) -> Vec<usize> {
        (0..self.group.size())
            .map(|rank| self.parts(stored, which, rank).map(|(_, len)| len).sum())
            .collect()
    }

    /// The elements that a rank stores of each parameter that is cut.
    fn parts<'a>(
        &'a self,
        stored: &'a Stored,
        which: Which,
        rank: usize,
    ) -> impl Iterator<Item = (ParamId, usize)> + 'a {
        stored.params.iter().filter_map(move |(id, mine)| {
            let kept = self.kept(*id);
            let storage = kept.storage.as_ref();
            let storage = storage.filter(|_| kept.trained || which == Which::All)?;
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
                for (id, len) in self.parts(stored, Which::All, rank) {
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

    /// The dtype of the master copies.
    fn master(&self, stored: &Stored) -> DType {
        let mut trained = stored
            .params
            .iter()
            .filter(|(id, _)| self.kept(*id).trained);
        trained.next().map_or(DType::F32, |(_, x)| x.dtype())
    }

    /// The gradients of a block's stored parameters, none for those that are frozen, from those of what it computed with, in the order
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
            master: self.master(stored),
            pieces: vec![vec![]; ranks],
            shapes: vec![],
        };
        block.visit(&mut take);
        let Take { pieces, shapes, .. } = take;
        // The gathered weights are gone before their gradients travel.
        drop(block);
        let mut mine = vec![].into_iter();
        if pieces.iter().any(|of_rank| !of_rank.is_empty()) {
            let lens = self.lens(stored, Which::Trained);
            let all = Tensor::cat(pieces.into_iter().flatten().collect(), 0);
            let sum = self.group.scatter_sum(all, 0, &lens, "block gradients");
            let sizes = self.parts(stored, Which::Trained, self.group.rank());
            let sizes = sizes.map(|(_, len)| len);
            mine = sum.split_with_sizes(sizes.collect(), 0).into_iter();
        }
        shapes
            .into_iter()
            .map(|whole| {
                let whole = whole?;
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
            match (self.tracked, self.units.kept(id).trained) {
                (true, true) => value.autodiff().require_grad(),
                (true, false) => value.autodiff(),
                (false, _) => value,
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
    // One a parameter, none for those that are frozen.
    shapes: Vec<Option<Whole>>,
}

/// A parameter's gradient, if it is not cut, and how it gets its shape.
struct Whole {
    flat: Option<Tensor<1>>,
    shape: Box<dyn FnOnce(Tensor<1>) -> DispatchTensor>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.units.kept(param.id).trained {
            self.shapes.push(None);
            return;
        }
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
        self.shapes.push(Some(Whole {
            flat,
            shape: Box::new(move |flat| flat.reshape(shape).into_dispatch()),
        }));
    }
}
