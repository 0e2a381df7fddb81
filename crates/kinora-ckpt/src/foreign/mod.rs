//! Weights in other people's files: what they are called there, how they lie, reading them as if they
//! were ours, and writing ours as if they were theirs.

mod archive;
mod fill;
mod hashes;
mod layout;
mod pickle;
mod renamed;
mod round;
mod safetensors;
mod shards;
mod torch;
mod transpose;
mod weights;
mod which;
mod writer;

pub use renamed::{RenameError, Renamed};
pub use weights::Weights;
pub use which::{Layout, which};
pub use writer::Writer;

use std::ops::Range;

/// Where one of our parameters lies in a file of other people's. Its elements follow each other there
/// in the same order, but for the transposition of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The tensor's name there.
    pub name: String,
    /// Its whole shape there.
    pub shape: Vec<usize>,
    /// Which of its rows (dimension 0) are ours; several of ours may share a tensor.
    pub rows: Range<usize>,
    /// Which of its columns (the second dimension) are ours, if not all.
    pub columns: Option<Range<usize>>,
    /// Whether a matrix `[from, to]` of ours lies there as `[to, from]`.
    pub transposed: bool,
}

impl Foreign {
    /// A tensor of the same shape.
    pub fn same(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            rows: 0..shape.first().copied().unwrap_or(1),
            columns: None,
            transposed: false,
        }
    }

    /// The weight of a linear layer: `[from, to]` here, `[to, from]` there.
    ///
    /// # Panics
    /// If `shape`, ours, has other than two dimensions.
    pub fn linear(name: impl Into<String>, shape: &[usize]) -> Self {
        let &[from, to] = shape else {
            panic!("the weight of a linear layer has two dimensions, not {shape:?}");
        };
        Self {
            transposed: true,
            ..Self::same(name, &[to, from])
        }
    }

    /// The same elements in the same order, in a tensor of another shape: a convolution's kernel
    /// `[to, channels, 1, 2, 2]` for a linear layer of patches, `[1, 6, D]` for a table `[6, D]`.
    ///
    /// # Panics
    /// If the number of elements differs, or if only some rows are ours and their number differs.
    pub fn shaped(self, shape: &[usize]) -> Self {
        let (ours, theirs): (usize, usize) = (self.shape.iter().product(), shape.iter().product());
        assert_eq!(ours, theirs, "{}: {:?} as {shape:?}", self.name, self.shape);
        let first = |shape: &[usize]| shape.first().copied().unwrap_or(1);
        let (before, after) = (first(&self.shape), first(shape));
        let rows = match self.rows == (0..before) {
            true => 0..after,
            // Some of its rows are so many rows of the other shape only if rows are the same there.
            false => {
                assert_eq!(before, after, "{}: some rows as {shape:?}", self.name);
                self.rows
            }
        };
        Self {
            shape: shape.to_vec(),
            rows,
            ..self
        }
    }

    /// Rows `first..` of a tensor of `of` rows, which holds others too, such as the keys of a fused
    /// `qkv`.
    ///
    /// # Panics
    /// If the tensor has fewer rows.
    pub fn rows(self, first: usize, of: usize) -> Self {
        let mut shape = self.shape;
        let rows = first..first + shape[0];
        assert!(rows.end <= of, "{}: rows {rows:?} of {of}", self.name);
        shape[0] = of;
        Self {
            shape,
            rows,
            ..self
        }
    }

    /// Columns `first..` of a matrix of `of` columns, such as those that read the attention's output in
    /// a fused output layer.
    ///
    /// # Panics
    /// If it is no matrix, or the matrix has fewer columns.
    pub fn columns(self, first: usize, of: usize) -> Self {
        let &[to, width] = self.shape.as_slice() else {
            panic!("{}: columns of {:?}", self.name, self.shape);
        };
        let columns = first..first + width;
        assert!(
            columns.end <= of,
            "{}: columns {columns:?} of {of}",
            self.name
        );
        Self {
            shape: vec![to, of],
            columns: Some(columns),
            ..self
        }
    }
}
