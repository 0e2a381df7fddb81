//! What can go wrong with the whole run, by what the caller can do about it. What is wrong with a
//! single item is counted and named instead.

use std::path::{Path, PathBuf};

use kinora_data::DataError;

/// An error of ingesting, looking or checking.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The settings or sources make no sense.
    #[error("{what}\n  help: {help}")]
    Config {
        /// What is wrong.
        what: String,
        /// How to put it right.
        help: String,
    },
    /// The folder holds an ingest that is not the one asked for.
    #[error(
        "{} was begun with other settings or sources:\n  {}\n  help: take them back, write to another folder, or remove this one", .folder.display(), .differences.join("\n  ")
    )]
    Other {
        /// The folder.
        folder: PathBuf,
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// Too many items are broken.
    #[error(
        "{bad} of {tried} items are broken, which is more than max_bad = {limit}:\n  {}\n  help: repair or remove them, or raise ingest.max_bad; the same command goes on", .examples.join("\n  ")
    )]
    TooManyBad {
        /// Broken items.
        bad: u64,
        /// Items so far.
        tried: u64,
        /// The share that is allowed.
        limit: f64,
        /// Some of them, with reasons.
        examples: Vec<String>,
    },
    /// Another process writes to the folder.
    #[error(
        "another ingest writes to {} at this moment\n  help: wait for it, or end it", .0.display()
    )]
    Busy(PathBuf),
    /// No item came out of the workers for a long time.
    #[error(
        "nothing was done for {seconds} s; the oldest item under way is {item}\n  help: is the storage reachable? if that item is at fault, remove it and go on"
    )]
    Stalled {
        /// The time waited.
        seconds: u64,
        /// The item that is waited for.
        item: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A shard cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl IngestError {
    pub(crate) fn config(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Config {
            what: what.into(),
            help: help.into(),
        }
    }

    /// Turns an error of the system into one that names the path.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
