//! What can go wrong with a tokenizer, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of reading a tokenizer or of using it.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The system refused to read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{} is not {kind}: {what}\n  help: {help}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// A path with no tokenizer that Kinora knows.
    #[error(
        "{} holds no tokenizer: it has none of {looked:?}\n  help: give the folder or the file of a model's tokenizer",
        path.display()
    )]
    Unknown {
        /// The folder or file.
        path: PathBuf,
        /// The names that were looked for.
        looked: &'static [&'static str],
    },
    /// A length that the marks at the ends fill alone.
    #[error(
        "{length} tokens leave no room for a prompt: the tokenizer adds {marks} of its own\n  help: use a length of at least {}", marks + 1
    )]
    TooShort {
        /// The length asked for.
        length: usize,
        /// The marks that are added.
        marks: usize,
    },
    /// A text that the vocabulary cannot spell.
    #[error(
        "the tokenizer cannot encode {text:?}: {what}\n  help: use the vocabulary that the model was trained with"
    )]
    Text {
        /// The start of the text.
        text: String,
        /// What the tokenizer said.
        what: String,
    },
}

impl TokensError {
    /// Names the file in an error of the system; for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// For a text that could not be encoded; for `map_err`.
    pub(crate) fn text(text: &str) -> impl FnOnce(tokenizers::Error) -> Self {
        let text = text.chars().take(60).collect();
        move |error| Self::Text {
            text,
            what: error.to_string(),
        }
    }
}
