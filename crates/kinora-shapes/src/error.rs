//! What can go wrong, and what to do about it.

use std::path::PathBuf;

/// Why a data set could not be made, or a word not be read.
#[derive(Debug, thiserror::Error)]
pub enum ShapesError {
    /// A setting that cannot be drawn or checked.
    #[error("shapes: {setting} = {value} {problem}\n  help: {help}")]
    BadSetting {
        /// The name of the setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to set instead.
        help: String,
    },
    /// A word that names no attribute.
    #[error("{word:?} is not a {what}\n  help: use one of {choices}")]
    UnknownWord {
        /// The word that was read.
        word: String,
        /// What it should have named.
        what: &'static str,
        /// All the words that would do.
        choices: String,
    },
    /// The folder holds a data set that was made otherwise.
    #[error(
        "{} holds moving shapes made with other settings: {differences}\n\
         help: choose another folder, or delete this one to make it again", folder.display()
    )]
    OtherSettings {
        /// The data set's folder.
        folder: PathBuf,
        /// Each setting that differs, with both values.
        differences: String,
    },
    /// The folder holds something that is not a data set of moving shapes.
    #[error(
        "{} is not empty and has no readable dataset.toml: {reason}\n\
         help: choose another folder, or empty this one", folder.display()
    )]
    NotADataset {
        /// The folder.
        folder: PathBuf,
        /// Why its dataset.toml does not count.
        reason: String,
    },
    /// A shard that the data set's record names is absent or has another length.
    #[error(
        "{} should have {expected} bytes, but {found}\n\
         help: delete the folder to make the data set again", shard.display()
    )]
    Damaged {
        /// The shard.
        shard: PathBuf,
        /// Its recorded length in bytes.
        expected: u64,
        /// What is there instead.
        found: String,
    },
    /// A file or folder could not be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A clip could not be encoded or decoded.
    #[error(transparent)]
    Media(#[from] kinora_media::MediaError),
    /// A shard could not be written.
    #[error(transparent)]
    Data(#[from] kinora_data::DataError),
}
