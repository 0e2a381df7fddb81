//! What is known of each parameter besides its value.

use burn::module::ParamId;
use kinora_mesh::{Layout, MeshAxis};
use std::collections::{HashMap, HashSet};

/// One parameter: its name, its cut, and where its gradient is partial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The path of the module's fields, which is also its key in checkpoints.
    pub path: String,
    /// What this rank stores of the whole tensor.
    pub layout: Layout,
    /// How what is stored becomes what is computed with; `None` where they are the same.
    pub storage: Option<Storage>,
    /// The mesh axes over which this rank's gradient of what it stores is a partial sum, when the
    /// backward pass is over.
    pub partial: Vec<MeshAxis>,
}

/// The cut of stored parameters over the ranks that compute with the same ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The dimension that is cut.
    pub dim: usize,
    /// Each rank's length along it.
    pub lens: Vec<usize>,
}

impl ParamSpec {
    /// The number of elements that this rank stores.
    pub fn local_len(&self) -> usize {
        self.layout.local_shape().iter().product()
    }

    /// The number of elements that this rank computes with.
    pub fn compute_len(&self) -> usize {
        let mut shape = self.layout.local_shape();
        if let Some(storage) = &self.storage {
            shape[storage.dim] = storage.lens.iter().sum();
        }
        shape.iter().product()
    }
}

/// All parameters of a model, in the order of their creation, which is the same on every rank.
#[derive(Clone, Debug, Default)]
pub struct ParamTable {
    trained: Vec<ParamSpec>,
    frozen: Vec<ParamSpec>,
    index: HashMap<ParamId, Place>,
    paths: HashSet<String>,
}

/// A parameter's list, and where it is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Trained(usize),
    Frozen(usize),
}

/// What was created by some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    trained: usize,
    frozen: usize,
}

impl ParamTable {
    pub(crate) fn add(&mut self, id: ParamId, spec: ParamSpec, trained: bool) {
        let fresh = self.paths.insert(spec.path.clone());
        assert!(
            fresh,
            "two parameters are called {}: give one of them another path",
            spec.path
        );
        let (list, place): (_, fn(usize) -> Place) = if trained {
            (&mut self.trained, Place::Trained)
        } else {
            (&mut self.frozen, Place::Frozen)
        };
        self.index.insert(id, place(list.len()));
        list.push(spec);
    }

    /// The parameters that are trained, in order of creation.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.trained
    }

    /// The parameters that stay as they are, in order of creation.
    pub fn frozen(&self) -> &[ParamSpec] {
        &self.frozen
    }

    /// All that there is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            trained: self.trained.len(),
            frozen: self.frozen.len(),
        }
    }

    /// The parameters created since: whether each is trained, and how it is stored.
    pub(crate) fn storage_since(
        &self,
        mark: Mark,
    ) -> impl Iterator<Item = (ParamId, bool, Option<Storage>)> + '_ {
        self.index.iter().filter_map(move |(id, place)| {
            let (later, trained, spec) = match *place {
                Place::Trained(at) => (at >= mark.trained, true, &self.trained[at]),
                Place::Frozen(at) => (at >= mark.frozen, false, &self.frozen[at]),
            };
            later.then(|| (*id, trained, spec.storage.clone()))
        })
    }

    /// The place of a parameter in [`ParamTable::specs`], or `None` if it is frozen.
    ///
    /// # Panics
    /// If the parameter was not created through a [`crate::Cx`], which would leave it unsharded.
    pub fn index(&self, id: ParamId) -> Option<usize> {
        match self.index.get(&id) {
            Some(Place::Trained(at)) => Some(*at),
            Some(Place::Frozen(_)) => None,
            None => {
                panic!("a parameter was not created by Cx::param, so nothing is known of its cut")
            }
        }
    }
}
