//! Opening weights of other people's.

use std::path::Path;

use super::safetensors;
use crate::read::Index;
use crate::{CkptError, Dtype, TensorSource};

/// The tensors of a file, of which any box can be read.
#[derive(Debug)]
pub struct Weights {
    pub(super) index: Index,
}

impl Weights {
    /// Reads what a file holds, and where.
    ///
    /// # Errors
    /// [`CkptError::Format`] when it is not a safetensors file or holds a dtype that [`Dtype`] does
    /// not name, [`CkptError::Truncated`] when it is shorter or longer than its header says,
    /// [`CkptError::Io`].
    pub fn open(path: &Path) -> Result<Self, CkptError> {
        let index = safetensors::index(path)?;
        Ok(Self { index })
    }

    /// The same weights but for tensors that a model has no use for, such as buffers.
    pub fn without(mut self, unused: impl Fn(&str) -> bool) -> Self {
        self.index.tensors.retain(|name, _| !unused(name));
        self
    }
}

impl TensorSource for Weights {
    fn names(&self) -> Vec<&str> {
        self.index.names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        Ok(&self.index.find(name)?.shape)
    }

    fn dtype(&self, name: &str) -> Result<Dtype, CkptError> {
        Ok(self.index.find(name)?.dtype)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        self.index.read(name, offset, extent)
    }
}
