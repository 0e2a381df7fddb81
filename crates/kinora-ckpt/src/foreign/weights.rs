//! Opening weights of other people's.

use std::path::{Path, PathBuf};

use super::{hashes, shards};
use crate::read::Index;
use crate::{CkptError, Dtype, TensorSource};

/// The tensors of one or several files, of which any box can be read.
#[derive(Debug)]
pub struct Weights {
    pub(super) index: Index,
}

impl Weights {
    /// Reads what there is, and where; the numbers themselves are read later, box by box. `path` is
    ///
    /// - a safetensors file;
    /// - a file of `torch.save` (a zip archive): a dict of tensors, also within other dicts. The key
    ///   that holds all of them, such as `module`, is not part of their names; keys of other nested
    ///   dicts are joined by dots. Nothing in it is run;
    /// - Hugging Face's index of several files, `*.index.json`;
    /// - a folder: with such an index, or with safetensors files of which no two hold the same name, or
    ///   with one file of `torch.save`.
    ///
    /// # Errors
    /// [`CkptError::Format`] when it is nothing of that, is damaged, or holds a dtype that [`Dtype`]
    /// does not name, such as FP8; [`CkptError::Truncated`] when a file is shorter or longer than its
    /// header says; [`CkptError::Io`].
    pub fn open(path: &Path) -> Result<Self, CkptError> {
        let index = shards::index(path)?;
        Ok(Self { index })
    }

    /// The same weights but for tensors that a model has no use for, such as buffers.
    pub fn without(mut self, unused: impl Fn(&str) -> bool) -> Self {
        self.index.tensors.retain(|name, _| !unused(name));
        self
    }

    /// The weights whose names begin with `prefix`, called by the rest: one model of a file that holds
    /// several.
    pub fn under(mut self, prefix: &str) -> Self {
        let tensors = std::mem::take(&mut self.index.tensors);
        let rest =
            |(name, entry): (String, _)| Some((name.strip_prefix(prefix)?.to_owned(), entry));
        self.index.tensors = tensors.into_iter().filter_map(rest).collect();
        self
    }

    /// The files that were opened.
    pub fn files(&self) -> &[PathBuf] {
        &self.index.files
    }

    /// The files whose hash nobody told: they have no line in a `SHA256SUMS` beside them, and are not
    /// in a Hugging Face cache, which calls its files by their hashes.
    ///
    /// # Errors
    /// [`CkptError::Sums`] for a `SHA256SUMS` that cannot be understood; [`CkptError::Io`].
    pub fn unhashed(&self) -> Result<Vec<&Path>, CkptError> {
        let expected = hashes::expected(&self.index.files)?;
        let files = self.index.files.iter().zip(expected);
        let unhashed = files.filter(|(_, expected)| expected.is_none());
        Ok(unhashed.map(|(file, _)| file.as_path()).collect())
    }

    /// Reads a share of the files and compares their SHA-256 with what their publisher said: `of` ranks
    /// divide the work between them, by bytes as evenly as whole files allow. Files without a hash are
    /// [`unhashed`](Self::unhashed)'s.
    ///
    /// # Errors
    /// [`CkptError::Hash`] for the first file that is another; [`CkptError::Sums`]; [`CkptError::Io`].
    ///
    /// # Panics
    /// If `share` is not less than `of`.
    pub fn verify_share(&self, share: usize, of: usize) -> Result<(), CkptError> {
        assert!(share < of, "share {share} of {of}");
        let expected = hashes::expected(&self.index.files)?;
        let mut files = vec![];
        for (file, expected) in self.index.files.iter().zip(expected) {
            if let Some(expected) = expected {
                let about = file.metadata().map_err(CkptError::io("read", file))?;
                files.push((about.len(), file, expected));
            }
        }
        // The longest first, each to the rank that has least: every rank works out the same.
        files.sort_by(|one, other| (other.0, one.1).cmp(&(one.0, other.1)));
        let mut loads = vec![0; of];
        for (bytes, file, expected) in files {
            let rank = (0..of).min_by_key(|&rank| loads[rank]).unwrap_or(0);
            loads[rank] += bytes;
            if rank == share {
                hashes::verify(file, &expected)?;
            }
        }
        Ok(())
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
