//! The record of a finished data set, `dataset.toml`: how it was made, and which shards belong to it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ShapesError;
use crate::make::{Made, ShapesConfig};

/// The number of the rules by which clips are drawn, worded and written; a change of any raises it.
const RULES: u32 = 1;
/// The record's name in the data set's folder.
const RECORD: &str = "dataset.toml";

/// What `dataset.toml` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    rules: u32,
    settings: ShapesConfig,
    shard: Vec<Shard>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shard {
    name: String,
    bytes: u64,
}

impl Record {
    /// The record of the shards in a folder.
    pub(crate) fn of(config: &ShapesConfig, folder: &Path) -> Result<Self, ShapesError> {
        Ok(Self {
            rules: RULES,
            settings: config.clone(),
            shard: shards(folder)?,
        })
    }

    /// Writes the record into the shards' folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), ShapesError> {
        let text = toml::to_string(self).expect("a record is plain data");
        let path = folder.join(RECORD);
        fs::write(&path, text).map_err(|source| io(&path, source))
    }

    /// What there is to say of the data set.
    pub(crate) fn made(&self, fresh: bool) -> Made {
        Made {
            fresh,
            videos: self.settings.videos,
            images: self.settings.images,
            shards: self.shard.iter().map(|shard| shard.name.clone()).collect(),
            bytes: self.shard.iter().map(|shard| shard.bytes).sum(),
        }
    }

    /// Each setting that differs from another record's, with both values.
    fn differences(&self, wanted: &Record) -> String {
        let settings = |record: &Record| {
            let mut table =
                toml::Table::try_from(&record.settings).expect("settings are a plain table");
            table.insert("rules".to_owned(), i64::from(record.rules).into());
            table
        };
        let there = settings(self);
        let differing = settings(wanted).into_iter().filter_map(|(name, here)| {
            let value = there.get(&name)?;
            (*value != here).then(|| format!("{name} is {value} there and {here} here"))
        });
        differing.collect::<Vec<_>>().join(", ")
    }
}

/// The data set in a folder, if it is there and as wanted; nothing if the folder is absent or empty.
pub(crate) fn existing(config: &ShapesConfig, folder: &Path) -> Result<Option<Made>, ShapesError> {
    let absent = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(source) => return Err(io(folder, source)),
    };
    if absent {
        return Ok(None);
    }
    let not_ours = |reason: String| ShapesError::NotADataset {
        folder: folder.to_owned(),
        reason,
    };
    let text =
        fs::read_to_string(folder.join(RECORD)).map_err(|error| not_ours(error.to_string()))?;
    let found: Record =
        toml::from_str(&text).map_err(|error| not_ours(error.message().to_owned()))?;
    let wanted = Record {
        rules: RULES,
        settings: config.clone(),
        shard: Vec::new(),
    };
    let differences = found.differences(&wanted);
    if !differences.is_empty() {
        return Err(ShapesError::OtherSettings {
            folder: folder.to_owned(),
            differences,
        });
    }
    for Shard { name, bytes } in &found.shard {
        let shard = folder.join(name);
        let there = match fs::metadata(&shard) {
            Ok(metadata) if metadata.len() == *bytes => continue,
            Ok(metadata) => format!("it has {}", metadata.len()),
            Err(error) => format!("{error}"),
        };
        return Err(ShapesError::Damaged {
            shard,
            expected: *bytes,
            found: there,
        });
    }
    Ok(Some(found.made(false)))
}

/// The shards in a folder, by name.
fn shards(folder: &Path) -> Result<Vec<Shard>, ShapesError> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let entry = entry.map_err(|source| io(folder, source))?;
        let bytes = entry
            .metadata()
            .map_err(|source| io(&entry.path(), source))?
            .len();
        let name = entry.file_name().to_string_lossy().into_owned();
        // The manifest beside them is no shard.
        if name.ends_with(".parquet") {
            shards.push(Shard { name, bytes });
        }
    }
    shards.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shards)
}

pub(crate) fn io(path: &Path, source: std::io::Error) -> ShapesError {
    ShapesError::Io {
        path: path.to_owned(),
        source,
    }
}
