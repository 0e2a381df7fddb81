//! A shard under its temporary name, until it is whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use xxhash_rust::xxh3::Xxh3Default;

use super::ShardOptions;
use crate::DataError;
use crate::manifest::ShardEntry;
use crate::schema::{BLOBS, Encoders, LATENTS_KEY, TEXT_KEY, VERSION, VERSION_KEY};

/// A shard under its temporary name.
pub(super) struct Shard {
    path: PathBuf,
    name: String,
    partial: PathBuf,
    pub(super) rows: usize,
    pub(super) images: u64,
    pub(super) seconds: f64,
    /// Of media, audio and tensors.
    pub(super) bytes: u64,
    writer: Option<ArrowWriter<Hashed>>,
}

impl Shard {
    pub(super) fn create\(
        folder: &Path,
        name: String,
        schema: &Arc<Schema>,
        options: &ShardOptions,
    ) -> Result<Self, DataError> {
        let path = folder.join(&name);
        let partial = folder.join(format!(".{name}.partial-{}", std::process::id()));
        let file = File::create(&partial).map_err(|source| DataError::Io {
            path: path.clone(),
            source,
        })?;
        let mut shard = Self {
            path,
            name,
            partial,
            rows: 0,
            images: 0,
            seconds: 0.0,
            bytes: 0,
            writer: None,
        };
        let hashed = Hashed {
            file,
            hash: Xxh3Default::new(),
            bytes: 0,
        };
        let properties = Some(properties(&options.encoders));
        let writer = ArrowWriter::try_new(hashed, schema.clone(), properties)
            .map_err(|error| shard.failed(error))?;
        shard.writer = Some(writer);
        Ok(shard)
    }

    /// Writes one row group.
    pub(super) fn write\(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(batch).and_then(|()| writer.flush());
        written.map_err(|error| self.failed(error))
    }

    pub(super) fn publish\(mut self) -> Result<ShardEntry, DataError> {
        let writer = self.writer.take().expect("a shard is published once");
        let groups = writer.flushed_row_groups().len() as u64;
        let hashed = writer.into_inner().map_err(|error| self.failed(error))?;
        hashed
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .map_err(|source| DataError::Io {
                path: self.path.clone(),
                source,
            })?;
        Ok(ShardEntry {
            name: self.name.clone(),
            rows: self.rows as u64,
            groups,
            bytes: hashed.bytes,
            hash: format!("{:016x}", hashed.hash.digest()),
            images: self.images,
            videos: self.rows as u64 - self.images,
            seconds: self.seconds,
        })
    }

    pub(super) fn failed\(&self, error: impl ToString) -> DataError {
        DataError::Write {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // After publishing there is no such file, which is as good.
        _ = fs::remove_file(&self.partial);
    }
}

/// A file, and the hash of all that was written to it.
struct Hashed {
    file: File,
    hash: Xxh3Default,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Media is compressed already, never repeats and is never compared: no compression, dictionary or
/// statistics. Small pages let a reader take single rows. Tensors repeat as little, but their
/// exponents compress.
fn properties(encoders: &Encoders) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_write_batch_size(16)
        // A group ends when it is flushed.
        .set_max_row_group_row_count(None);
    for name in BLOBS.into_iter().chain(["latents", "text"]) {
        let column = || ColumnPath::from(name);
        properties = properties
            .set_column_dictionary_enabled(column(), false)
            .set_column_statistics_enabled(column(), EnabledStatistics::None)
            .set_column_data_page_row_count_limit(column(), 16);
        if BLOBS.contains(&name) {
            properties = properties.set_column_compression(column(), Compression::UNCOMPRESSED);
        }
    }
    let metadata = [
        (VERSION_KEY, Some(VERSION.to_string())),
        (LATENTS_KEY, encoders.latents.clone()),
        (TEXT_KEY, encoders.text.clone()),
    ];
    let metadata = metadata
        .into_iter()
        .filter_map(|(key, value)| Some(KeyValue::new(key.to_owned(), value?)))
        .collect();
    properties.set_key_value_metadata(Some(metadata)).build()
}
