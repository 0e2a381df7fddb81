//! The manifest: which shards a data set has, so that a reader needs no listing, and sees at once
//! what is missing or has changed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::schema::VERSION;

/// The manifest's name in a data set's folder.
pub const MANIFEST: &str = "manifest.json";

/// All shards of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The schema's version.
    pub schema: u32,
    /// The program that wrote it.
    pub writer: String,
    /// The shards, by name.
    pub shards: Vec<ShardEntry>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its file's name in the folder.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Row groups.
    pub groups: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// XXH3 (64 bits) of the file, in 16 hexadecimal digits.
    pub hash: String,
    /// Rows that are images.
    pub images: u64,
    /// Rows that are videos.
    pub videos: u64,
    /// Seconds of all videos.
    pub seconds: f64,
}

impl Manifest {
    /// The manifest of some shards, as this program writes it.
    pub fn new(shards: Vec<ShardEntry>) -> Self {
        Self {
            schema: VERSION,
            writer: concat!("kinora ", env!("CARGO_PKG_VERSION")).to_owned(),
            shards,
        }
    }

    /// Reads a manifest's bytes; `from` is where they lie, for errors.
    ///
    /// # Errors
    /// If they are no manifest, or one of a later schema.
    pub fn parse(bytes: &[u8], from: &str) -> Result<Self, DataError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| DataError::shard(from, error))?;
        if manifest.schema > VERSION {
            return Err(DataError::config(
                format!(
                    "{from} is of schema {}, and this program reads up to {VERSION}",
                    manifest.schema
                ),
                "use the version of kinora that wrote it, or a later one",
            ));
        }
        Ok(manifest)
    }

    /// A folder's manifest, if it has one.
    ///
    /// # Errors
    /// As [`Manifest::parse`], and if it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, DataError> {
        let path = folder.join(MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes, &path.to_string_lossy()).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    /// Writes it into a folder, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        let path = folder.join(MANIFEST);
        let partial = folder.join(format!(".{MANIFEST}.partial-{}", std::process::id()));
        let text = serde_json::to_string_pretty(self).expect("strings and numbers");
        fs::write(&partial, text + "\n")
            .and_then(|()| fs::File::open(&partial)?.sync_all())
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| DataError::Io { path, source })
    }
}
