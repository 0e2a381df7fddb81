//! What can go wrong with keeping records.

use std::io;
use std::path::{Path, PathBuf};

/// An error of keeping records.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
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
    /// A row that is not a JSON object with a step.
    #[error(
        "a row of metrics is not an object with an integer `step`: {what}\n\
         help: give a struct with a field `step: u64`"
    )]
    Row {
        /// The row, or why it is no JSON.
        what: String,
    },
    /// A step that was already recorded.
    #[error(
        "step {step} comes after step {last}\n\
         help: give each step once, in order; a run that goes back opens its tracker anew with resume_step"
    )]
    Order {
        /// The last step recorded, or resumed from.
        last: u64,
        /// The step given.
        step: u64,
    },
}

impl TrackError {
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
