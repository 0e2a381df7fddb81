//! What can go wrong with a store, by what the user can do about it.

/// An error of finding or reading an object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The location is none, or a setting is unknown or missing.
    #[error("{what}\n  help: {help}")]
    Settings {
        /// What does not fit.
        what: String,
        /// What to change.
        help: String,
    },
    /// There is no such object.
    #[error(
        "{object} does not exist: {reason}\n  help: check the bucket, the path and the endpoint"
    )]
    NotFound {
        /// The object.
        object: String,
        /// The store's reason.
        reason: String,
    },
    /// The store refuses access.
    #[error("{object}: access is refused: {reason}\n  help: {help}")]
    Denied {
        /// The object.
        object: String,
        /// The store's reason.
        reason: String,
        /// What to set.
        help: String,
    },
    /// The store refuses the request for a reason that does not pass.
    #[error(
        "{object}: the server refuses the request: {reason}\n  help: check the endpoint, the region and data.store.options"
    )]
    Refused {
        /// The object.
        object: String,
        /// The store's reason.
        reason: String,
    },
    /// The object is not the one whose footer was read.
    #[error(
        "{object} has changed while it was read: {what}\n  help: leave shards as they are during a run, and start again"
    )]
    Changed {
        /// The object.
        object: String,
        /// What is different.
        what: String,
    },
    /// All attempts failed for reasons that may pass.
    #[error(
        "{object}{} could not be read in {attempts} attempts and {seconds:.1} s; the last one: {reason}\n  help: is the store reachable, and fast enough? data.store.retries, timeout_s and deadline_s say how long to try",
        span(*.from, *.to)
    )]
    Failed {
        /// The object.
        object: String,
        /// The first byte asked for.
        from: u64,
        /// The byte behind the last one asked for.
        to: u64,
        /// Requests made.
        attempts: u32,
        /// Seconds since the first.
        seconds: f64,
        /// Why the last one failed.
        reason: String,
    },
    /// The object is larger than allowed.
    #[error(
        "{object} has {size} bytes, and {limit} are allowed\n  help: raise data.store.media_mb, if it is to be read"
    )]
    TooLarge {
        /// The object.
        object: String,
        /// Its bytes.
        size: u64,
        /// The bytes allowed.
        limit: u64,
    },
    /// The system cannot read a local file.
    #[error("{object}: {reason}")]
    System {
        /// The file or folder.
        object: String,
        /// The system's reason.
        reason: String,
    },
}

/// The bytes asked for, if any were.
fn span(from: u64, to: u64) -> String {
    if to > from {
        format!(": bytes {from} to {to}")
    } else {
        String::new()
    }
}

impl StoreError {
    pub(crate) fn settings(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Settings {
            what: what.into(),
            help: help.into(),
        }
    }
}
