//! One set of tensors out of a source that holds several.

use crate::{CkptError, Dtype, TensorSource};

/// The tensors of a source whose names begin with a prefix, called by the rest: `average/` of a
/// checkpoint holds the averaged parameters.
#[derive(Clone, Debug)]
pub struct Prefixed<S> {
    source: S,
    prefix: String,
}

impl<S: TensorSource> Prefixed<S> {
    /// The tensors of `source` under `prefix`.
    pub fn new(source: S, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self { source, prefix }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl<S: TensorSource> TensorSource for Prefixed<S> {
    fn names(&self) -> Vec<&str> {
        let names = self.source.names();
        let rest = names
            .into_iter()
            .filter_map(|name| name.strip_prefix(&self.prefix));
        rest.collect()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        self.source.shape(&self.full(name))
    }

    fn dtype(&self, name: &str) -> Result<Dtype, CkptError> {
        self.source.dtype(&self.full(name))
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        self.source.read(&self.full(name), offset, extent)
    }
}
