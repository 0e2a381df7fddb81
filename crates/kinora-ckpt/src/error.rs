//! What can go wrong with a checkpoint, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Dtype, RenameError};

/// An error of saving or reading a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CkptError {
    /// The system refused to read or write.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb: "read", "create", "rename" ...
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is not a whole checkpoint.
    #[error("{} is not a whole checkpoint: {what}\n  help: {help}", path.display())]
    Torn {
        /// The folder.
        path: PathBuf,
        /// What is missing or inconsistent.
        what: String,
        /// What to do.
        help: String,
    },
    /// A file has another length than its manifest or header says.
    #[error(
        "{} has {found} bytes, but its manifest or header says {expected}\n\
         help: copy or download the file again; of a checkpoint of one's own, go on from the one before it",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes on the disk.
        found: u64,
    },
    /// A file's bytes have changed since it was written.
    #[error(
        "{} has checksum {found:08x}, but the manifest says {expected:08x}\n\
         help: copy the file again from where it came, or remove the folder and go on from the checkpoint before it",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// CRC-32 in the manifest.
        expected: u32,
        /// CRC-32 of the bytes on the disk.
        found: u32,
    },
    /// There is no such tensor.
    #[error("tensor {name} is not in {}\n  help: {hint}", path.display())]
    Missing {
        /// The name asked for.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// How many tensors it has, and the name that is most like this one.
        hint: String,
    },
    /// A tensor has another shape than the model's.
    #[error(
        "tensor {name} should have shape {wanted:?}, but the checkpoint holds {found:?}\n\
         help: use the model configuration that the checkpoint was saved with"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// The shape asked for.
        wanted: Vec<usize>,
        /// The shape stored.
        found: Vec<usize>,
    },
    /// A box that is not inside its tensor.
    #[error(
        "box {region} is not inside tensor {name} of shape {shape:?}\n\
         help: give an offset and an extent for each dimension, with offset + extent at most the shape"
    )]
    Outside {
        /// The tensor.
        name: String,
        /// The box, as ranges.
        region: String,
        /// The shape of the whole tensor.
        shape: Vec<usize>,
    },
    /// A piece whose bytes do not fill its box.
    #[error(
        "the piece {region} of tensor {name} holds {found} bytes, but {dtype} needs {expected}\n\
         help: give the box's elements row-major, {} bytes each", dtype.size()
    )]
    PieceBytes {
        /// The tensor.
        name: String,
        /// The box, as ranges.
        region: String,
        /// The piece's dtype.
        dtype: Dtype,
        /// Bytes that the box needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Two ranks describe one tensor differently.
    #[error(
        "tensor {name} is {one} on rank {rank_one}, but {other} on rank {rank_other}\n\
         help: shape is that of the whole tensor, and it and the dtype are the same on every rank"
    )]
    Disagree {
        /// The tensor.
        name: String,
        /// A rank.
        rank_one: usize,
        /// Dtype and shape there.
        one: String,
        /// Another rank.
        rank_other: usize,
        /// Dtype and shape there.
        other: String,
    },
    /// Two pieces hold the same elements.
    #[error(
        "tensor {name} {shape:?} is written twice: {one} by rank {rank_one} and {other} by rank {rank_other}\n\
         help: where ranks hold the same elements, let one of them write the piece"
    )]
    Overlap {
        /// The tensor.
        name: String,
        /// Its whole shape.
        shape: Vec<usize>,
        /// A rank.
        rank_one: usize,
        /// Its box.
        one: String,
        /// Another rank, or the same.
        rank_other: usize,
        /// The box that overlaps.
        other: String,
    },
    /// Some elements were written by no rank.
    #[error(
        "tensor {name} {shape:?} has {covered} of its {volume} elements in {pieces} pieces; ranks {ranks:?} wrote parts\n\
         help: every rank calls write_part, and a barrier comes before commit"
    )]
    Hole {
        /// The tensor.
        name: String,
        /// Its whole shape.
        shape: Vec<usize>,
        /// Elements that were written.
        covered: usize,
        /// Elements of the whole tensor.
        volume: usize,
        /// Number of pieces.
        pieces: usize,
        /// The ranks whose parts were found.
        ranks: Vec<usize>,
    },
    /// Two pieces of one part would have the same key.
    #[error(
        "rank {rank} gave two pieces with the key {key}\n\
         help: give each box of a tensor once, and let no tensor's name look like another's box"
    )]
    Twice {
        /// The rank.
        rank: usize,
        /// The key in its safetensors file.
        key: String,
    },
    /// A save that rank 0 has not begun.
    #[error(
        "rank {rank} cannot write its part: {} is not there\n\
         help: rank 0 creates it in Saver::begin; let the ranks wait for each other before write_part, and give all of them one folder",
        path.display()
    )]
    NotBegun {
        /// The rank that came too early.
        rank: usize,
        /// The folder of the save.
        path: PathBuf,
    },
    /// A file of weights that cannot be understood.
    #[error("{} does not hold weights that Kinora reads: {what}\n  help: {help}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        help: String,
    },
    /// Weights of other people's that are not those of a model.
    #[error(
        "{} does not hold this model: {count} tensors differ\n  {wrong}\n  help: name the file of this model, or the model of this file",
        path.display()
    )]
    Names {
        /// The file.
        path: PathBuf,
        /// How many tensors differ.
        count: usize,
        /// Which, and how.
        wrong: Box<RenameError>,
    },
    /// Weights of other people's that are those of a model in no known layout.
    #[error(
        "{} holds this model in no layout that Kinora knows: it is nearest to {layout}, from which {count} tensors differ\n  {wrong}\n  help: {hint}",
        path.display()
    )]
    Layout {
        /// The file or folder.
        path: PathBuf,
        /// The layout from which the fewest tensors differ.
        layout: String,
        /// How many tensors differ from it.
        count: usize,
        /// Which, and how.
        wrong: Box<RenameError>,
        /// What the file seems to be, and what to do.
        hint: String,
    },
    /// A file's bytes are not those that its publisher hashed.
    #[error(
        "{} has SHA-256 {found}, but {} says {expected}\n  help: delete the file and download it again",
        path.display(), said.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// Where the hash was found: a file of sums, or the name in a cache.
        said: PathBuf,
        /// The hash there, in hexadecimal.
        expected: String,
        /// The hash of the bytes on the disk.
        found: String,
    },
    /// A list of hashes that cannot be understood.
    #[error(
        "{} is not a list of SHA-256 sums: line {line} is {text:?}\n\
         help: write it with sha256sum, or delete it", path.display()
    )]
    Sums {
        /// The list.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The line, or its beginning.
        text: String,
    },
    /// An export would overwrite what is there.
    #[error("{} is there already{what}\n  help: {help}", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
        /// What speaks against replacing it, if it was asked for.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// A number that the dtype of an export cannot hold.
    #[error("tensor {name} holds {value}, which {dtype} cannot\n  help: export in BF16 or F32")]
    Range {
        /// The parameter.
        name: String,
        /// The first such number.
        value: f64,
        /// The dtype asked for.
        dtype: Dtype,
    },
    /// A tensor of an export that is not filled exactly once.
    #[error(
        "{parts:?} do not make the whole of tensor {name} {shape:?}: {what}\n\
         help: give all parameters that the layout joins in it, each once"
    )]
    Joined {
        /// The tensor, under its foreign name.
        name: String,
        /// Its shape there.
        shape: Vec<usize>,
        /// The parameters that lie in it.
        parts: Vec<String>,
        /// What is left over or given twice.
        what: String,
    },
}

impl CkptError {
    /// A file that cannot be understood.
    pub(crate) fn format(path: &Path, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_path_buf(),
            what: what.into(),
            help: help.into(),
        }
    }

    /// Names the file and the verb in an error of the system; for `map_err`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
