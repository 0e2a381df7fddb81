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
    specs: Vec<ParamSpec>,
    index: HashMap<ParamId, usize>,
    paths: HashSet<String>,
}

impl ParamTable {
    pub(crate) fn add(&mut self, id: ParamId, spec: ParamSpec) {
        let fresh = self.paths.insert(spec.path.clone());
        assert!(
            fresh,
            "two parameters are called {}: give one of them another path",
            spec.path
        );
        self.index.insert(id, self.specs.len());
        self.specs.push(spec);
    }

    /// All parameters, in order of creation.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// How the parameters from the `first` on are stored.
    pub(crate) fn storage_from(
        &self,
        first: usize,
    ) -> impl Iterator<Item = (ParamId, Option<Storage>)> + '_ {
        let later = self.index.iter().filter(move |(_, index)| **index >= first);
        later.map(|(id, index)| (*id, self.specs[*index].storage.clone()))
    }

    /// The place of a parameter in [`ParamTable::specs`].
    ///
    /// # Panics
    /// If the parameter was not created through a [`crate::Cx`], which would leave it unsharded.
    pub fn index(&self, id: ParamId) -> usize {
        *self.index.get(&id).unwrap_or_else(|| {
            panic!("a parameter was not created by Cx::param, so nothing is known of its cut")
        })
    }
}
