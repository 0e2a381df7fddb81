//! Whether a data set is whole: its files against the manifest, its media against their hashes.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use kinora_data::Storage;
use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::IngestError;
use crate::shards::{self, Listed, Remote};
use crate::source::{bytes, value};

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// Files, and those of the manifest that are missing.
    pub files: u64,
    /// Whether there is a manifest, so that files could be compared with it.
    pub manifest: bool,
    /// Bytes of all files.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Rows whose media were compared with their hash.
    pub hashed: u64,
    /// All that is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, or its row.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl Checked {
    fn fault(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.faults.push(Fault {
            place: place.into(),
            what: what.into(),
        });
    }
}

/// Reads a data set once, and compares all that can be compared. The caller is told of bytes done and
/// bytes in all.
///
/// # Errors
/// If there is no data set. What is wrong with one is no error.
pub fn check(
    location: &str,
    storage: &Arc<Storage>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Checked, IngestError> {
    let listed = shards::list(storage, location)?;
    let mut checked = Checked {
        files: listed.files.len() as u64,
        manifest: listed.manifest.is_some(),
        bytes: listed.files.iter().map(|file| file.size).sum(),
        ..Checked::default()
    };
    let total = 2 * checked.bytes;
    let mut done = 0;
    compare(&listed, &mut checked);
    for file in &listed.files {
        let entry = listed
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.shards.iter().find(|entry| entry.name == file.name));
        if let Some(entry) = entry.filter(|entry| entry.bytes == file.size) {
            match hash(&listed, file, |bytes| progress(done + bytes, total)) {
                Ok(hash) if hash == entry.hash => {}
                Ok(hash) => checked.fault(
                    &file.name,
                    format!("its hash is {hash}, and the manifest says {}", entry.hash),
                ),
                Err(reason) => checked.fault(&file.name, reason),
            }
        }
        done += file.size;
        progress(done, total);
        let before = checked.rows;
        let read = rows(
            &listed,
            &Remote::new(&listed, file),
            &file.name,
            &mut checked,
            |share| {
                progress(done + (share * file.size as f64) as u64, total);
            },
        );
        if let Err(reason) = read {
            checked.fault(&file.name, reason);
        } else if let Some(entry) = entry
            && entry.rows != checked.rows - before
        {
            let rows = checked.rows - before;
            checked.fault(
                &file.name,
                format!("it has {rows} rows, and the manifest says {}", entry.rows),
            );
        }
        done += file.size;
        progress(done, total);
    }
    Ok(checked)
}

/// Compares the files with the manifest.
fn compare(listed: &Listed, checked: &mut Checked) {
    let Some(manifest) = &listed.manifest else {
        return;
    };
    for entry in &manifest.shards {
        match listed.files.iter().find(|file| file.name == entry.name) {
            None => {
                checked.files += 1;
                checked.fault(&entry.name, "it is in the manifest, and missing");
            }
            Some(file) if file.size != entry.bytes => {
                checked.fault(
                    &entry.name,
                    format!(
                        "it has {} bytes, and the manifest says {}",
                        file.size, entry.bytes
                    ),
                );
            }
            Some(_) => {}
        }
    }
    for file in &listed.files {
        if !manifest.shards.iter().any(|entry| entry.name == file.name) {
            checked.fault(&file.name, "it is not in the manifest");
        }
    }
}

const PIECE: u64 = 8 << 20;

fn hash(
    listed: &Listed,
    file: &kinora_data::Object,
    mut progress: impl FnMut(u64),
) -> Result<String, String> {
    let mut hash = Xxh3::new();
    let mut at = 0;
    while at < file.size {
        let end = (at + PIECE).min(file.size);
        let parts = listed
            .store
            .read(file, std::slice::from_ref(&(at..end)))
            .map_err(|error| error.to_string())?;
        parts.iter().for_each(|part| hash.update(part));
        at = end;
        progress(at);
    }
    Ok(format!("{:016x}", hash.digest()))
}

/// Reads all rows; the media of those with a hash are compared with it.
fn rows(
    listed: &Listed,
    file: &Remote,
    name: &str,
    checked: &mut Checked,
    mut progress: impl FnMut(f64),
) -> Result<(), String> {
    let footer = shards::footer(file)?;
    let groups = footer.metadata().num_row_groups();
    let mut row = 0u64;
    for group in 0..groups {
        let wanted = |column: &str| ["key", "media", "uri", "hash"].contains(&column);
        let mut reader = shards::guarded(|| shards::rows(file, &footer, group, wanted, None))?;
        loop {
            let batch =
                shards::guarded(|| reader.next().transpose().map_err(|error| error.to_string()));
            let Some(batch) = batch.map_err(|reason| format!("row {row} or behind: {reason}"))?
            else {
                break;
            };
            for index in 0..batch.num_rows() {
                if let Err(what) = media(listed, &batch, index, &mut checked.hashed) {
                    let key = batch
                        .column_by_name("key")
                        .and_then(|column| value(column, index));
                    let key = key.and_then(|key| Some(format!(" ({})", key.as_str()?)));
                    checked.fault(format!("{name}:{row}{}", key.unwrap_or_default()), what);
                }
                row += 1;
                checked.rows += 1;
            }
        }
        progress((group + 1) as f64 / groups as f64);
    }
    Ok(())
}

/// Compares a row's media with its hash, if it has both.
fn media(
    listed: &Listed,
    batch: &RecordBatch,
    index: usize,
    hashed: &mut u64,
) -> Result<(), String> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .filter(|column| column.is_valid(index))
    };
    let Some(hash) = column("hash").and_then(|column| column.as_primitive_opt::<UInt64Type>())
    else {
        return Ok(());
    };
    let hash = hash.value(index);
    let found = if let Some(media) = column("media").and_then(|column| bytes(column, index)) {
        xxh3_64(&media)
    } else if let Some(serde_json::Value::String(uri)) =
        column("uri").and_then(|column| value(column, index))
    {
        let media = listed
            .store
            .media(&uri)
            .map_err(|error| error.to_string())?;
        xxh3_64(&media)
    } else {
        return Err("it has a hash, and no media".into());
    };
    *hashed += 1;
    if found != hash {
        return Err(format!(
            "its media have the hash {found:016x}, and the row says {hash:016x}"
        ));
    }
    Ok(())
}
