//! What can go wrong with data, by what the user can do about it.

use std::path::PathBuf;

use crate::{SampleId, StoreError};

/// An error of reading or writing a data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The configuration cannot work, whatever the data.
    #[error("{what}\n  help: {help}")]
    Config {
        /// What does not fit, with the numbers.
        what: String,
        /// What to change.
        help: String,
    },
    /// No shards were found.
    #[error("no Parquet file at {}\n  help: data.paths takes .parquet files, or folders that hold them", list(.paths))]
    NoFile {
        /// Where they were looked for.
        paths: Vec<String>,
    },
    /// A shard lacks a column that is needed.
    #[error("{path} has no column {column:?}; it has {}\n  help: name the right one under data.columns", .have.join(", "))]
    MissingColumn {
        /// The shard.
        path: PathBuf,
        /// The column looked for.
        column: String,
        /// The columns there are.
        have: Vec<String>,
    },
    /// A column holds another type of value than is needed.
    #[error(
        "column {column:?} of {path} holds {found}, but {wanted} is needed\n  help: convert it, or name another under data.columns"
    )]
    ColumnType {
        /// The shard.
        path: PathBuf,
        /// The column.
        column: String,
        /// The type it holds.
        found: String,
        /// The type that is needed.
        wanted: &'static str,
    },
    /// A shard cannot be read.
    #[error(
        "{path} is damaged or cut off: {reason}\n  help: copy or write the shard again, or remove it"
    )]
    Shard {
        /// The shard.
        path: PathBuf,
        /// The reader's reason.
        reason: String,
    },
    /// No sample fits a bucket.
    #[error(
        "no sample fits the bucket of {bucket}; the samples are: {have}{}\n  help: remove the bucket from data.buckets, or add data for it", .left_out.as_ref().map_or(String::new(), |example| format!("; unreadable is e.g. {example}"))
    )]
    EmptyBucket {
        /// The bucket's frames, height and width.
        bucket: String,
        /// The commonest sizes of what there is.
        have: String,
        /// A sample that cannot be read, and why.
        left_out: Option<String>,
    },
    /// Too many samples cannot be decoded.
    #[error("{bad} of {tried} samples could not be decoded, which is more than data.max_bad = {limit}; worst is shard {shard} with {shard_bad}, e.g. row {}: {reason}\n  help: repair or remove the shard, or raise data.max_bad", .example.row)]
    TooManyBad {
        /// Samples that could not be decoded.
        bad: u64,
        /// Samples tried.
        tried: u64,
        /// The share that is allowed.
        limit: f64,
        /// The shard with the most of them.
        shard: String,
        /// How many are in it.
        shard_bad: u64,
        /// One of them.
        example: SampleId,
        /// Why it could not be decoded.
        reason: String,
    },
    /// A store, or an object in it, cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest does not fit the shards.
    #[error(
        "{path} says that the shard {shard} has {bytes} bytes, but it {found}\n  help: copy the data set again, whole, or write its manifest anew"
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The shard.
        shard: String,
        /// Its bytes by the manifest.
        bytes: u64,
        /// What there is.
        found: String,
    },
    /// A shard is fine, but cannot be read by this program.
    #[error("{path}: {what}, which is not supported\n  help: {help}")]
    Unsupported {
        /// The shard.
        path: PathBuf,
        /// What it holds.
        what: String,
        /// What to do.
        help: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A shard cannot be written.
    #[error("writing {path}: {reason}")]
    Write {
        /// The shard.
        path: PathBuf,
        /// The writer's reason.
        reason: String,
    },
    /// A thread that decodes has panicked: a bug, but not a hang.
    #[error("decoding step {step} panicked: {message}")]
    Panic {
        /// The step.
        step: u64,
        /// What the panic said.
        message: String,
    },
    /// No batch came for a long time.
    #[error(
        "step {step} was not decoded within {seconds} s\n  help: is the storage reachable, and fast enough?"
    )]
    Stalled {
        /// The step.
        step: u64,
        /// The time waited.
        seconds: u64,
    },
    /// The loader has already ended in an error.
    #[error("the loader has ended in an error at step {step}")]
    Ended {
        /// The step that failed.
        step: u64,
    },
}

impl DataError {
    pub(crate) fn config(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Config {
            what: what.into(),
            help: help.into(),
        }
    }

    pub(crate) fn shard(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Shard {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

fn list(paths: &[String]) -> String {
    paths.join(", ")
}
