//! Writing shards: the Parquet files that this crate reads best, and that any other tool reads too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Float32Array, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::DataError;

/// How shards are cut.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Shards are named `{name}-00000.parquet` and so on.
    pub name: String,
    /// Rows that are shuffled and read together. 50 to 500 MB of media a group read well.
    pub rows_per_group: usize,
    /// Rows in a file.
    pub rows_per_shard: usize,
    /// Whether to write the column `meta`.
    pub meta: bool,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            name: "shard".into(),
            rows_per_group: 256,
            rows_per_shard: 16_384,
            meta: false,
        }
    }
}

/// One sample to write.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The bytes of an MP4, PNG or JPEG file.
    pub media: &'a [u8],
    /// The caption.
    pub caption: &'a str,
    /// Frames; 1 for an image.
    pub frames: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Frames per second; 0 for an image.
    pub fps: f64,
    /// Anything else, e.g. JSON; written if [`ShardOptions::meta`] is set.
    pub meta: Option<&'a str>,
}

/// Writes samples into shards: columns `media` (binary), `caption` (string), `frames`, `height`,
/// `width` (32-bit integers), `fps` (32-bit float) and, if asked for, `meta` (string).
///
/// Each file appears whole or not at all. A writer that is dropped without
/// [`ShardWriter::finish`] leaves the shards it has completed.
pub struct ShardWriter {
    folder: PathBuf,
    options: ShardOptions,
    schema: Arc<Schema>,
    group: Columns,
    shard: Option<Shard>,
    done: Vec<PathBuf>,
}

impl ShardWriter {
    /// A writer into a folder, which is made if needed.
    ///
    /// # Errors
    /// If the folder cannot be made or read, or already holds shards of this name (whose leftovers
    /// would be read as part of the new data set).
    pub fn create(folder: &Path, options: ShardOptions) -> Result<Self, DataError> {
        if options.rows_per_group == 0 || options.rows_per_shard == 0 {
            return Err(DataError::config(
                format!(
                    "a shard of {} rows in groups of {} rows",
                    options.rows_per_shard, options.rows_per_group
                ),
                "both must be at least 1",
            ));
        }
        let failed = |source| DataError::Io {
            path: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let prefix = format!("{}-", options.name);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".parquet") {
                return Err(DataError::config(
                    format!("{} already holds the shard {name}", folder.display()),
                    "remove the old shards, or write to another folder or name",
                ));
            }
        }
        let mut fields = vec![
            Field::new("media", DataType::Binary, false),
            Field::new("caption", DataType::Utf8, false),
            Field::new("frames", DataType::Int32, false),
            Field::new("height", DataType::Int32, false),
            Field::new("width", DataType::Int32, false),
            Field::new("fps", DataType::Float32, false),
        ];
        if options.meta {
            fields.push(Field::new("meta", DataType::Utf8, true));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            options,
            schema: Arc::new(Schema::new(fields)),
            group: Columns::default(),
            shard: None,
            done: Vec::new(),
        })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// If a full row group or shard cannot be written, or a size does not fit into 32 bits.
    pub fn push(&mut self, row: Row<'_>) -> Result<(), DataError> {
        self.group.push(row)?;
        if self.group.len() == self.options.rows_per_group
            || self.rows() == self.options.rows_per_shard
        {
            self.flush()?;
        }
        if self.rows() == self.options.rows_per_shard {
            self.close()?;
        }
        Ok(())
    }

    /// Writes what is left and returns the paths of all shards, in order.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, DataError> {
        self.flush()?;
        self.close()?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Rows of the open shard, those not yet written among them.
    fn rows(&self) -> usize {
        self.shard.as_ref().map_or(0, |shard| shard.rows) + self.group.len()
    }

    fn flush(&mut self) -> Result<(), DataError> {
        if self.group.len() == 0 {
            return Ok(());
        }
        if self.shard.is_none() {
            let name = format!("{}-{:05}.parquet", self.options.name, self.done.len());
            let path = self.folder.join(name);
            self.shard = Some(Shard::create(path, &self.schema)?);
        }
        let rows = self.group.len();
        let columns = std::mem::take(&mut self.group).arrays(self.options.meta);
        if let Some(shard) = &mut self.shard {
            let batch = RecordBatch::try_new(self.schema.clone(), columns)
                .map_err(|error| shard.failed(error))?;
            shard.write(&batch)?;
            shard.rows += rows;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(shard) = self.shard.take() {
            self.done.push(shard.publish()?);
        }
        Ok(())
    }
}

/// The columns of the open row group.
#[derive(Default)]
struct Columns {
    media: Vec<Vec<u8>>,
    caption: Vec<String>,
    sizes: [Vec<i32>; 3],
    fps: Vec<f32>,
    meta: Vec<Option<String>>,
}

impl Columns {
    fn len(&self) -> usize {
        self.media.len()
    }

    fn push(&mut self, row: Row<'_>) -> Result<(), DataError> {
        let sizes = [row.frames, row.height, row.width];
        for (column, size) in self.sizes.iter_mut().zip(sizes) {
            column.push(i32::try_from(size).map_err(|_| {
                DataError::config(
                    format!("a sample of frames, height and width {sizes:?}"),
                    "sizes are stored in 32 bits",
                )
            })?);
        }
        self.media.push(row.media.to_vec());
        self.caption.push(row.caption.to_owned());
        self.fps.push(row.fps as f32);
        self.meta.push(row.meta.map(str::to_owned));
        Ok(())
    }

    fn arrays(self, meta: bool) -> Vec<ArrayRef> {
        let [frames, height, width] = self.sizes.map(Int32Array::from);
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from_iter_values(self.media)),
            Arc::new(StringArray::from(self.caption)),
            Arc::new(frames),
            Arc::new(height),
            Arc::new(width),
            Arc::new(Float32Array::from(self.fps)),
        ];
        if meta {
            arrays.push(Arc::new(StringArray::from(self.meta)));
        }
        arrays
    }
}

/// A shard under its temporary name.
struct Shard {
    path: PathBuf,
    partial: PathBuf,
    rows: usize,
    writer: Option<ArrowWriter<File>>,
}

impl Shard {
    fn create(path: PathBuf, schema: &Arc<Schema>) -> Result<Self, DataError> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let partial = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let file = File::create(&partial).map_err(|source| DataError::Io {
            path: path.clone(),
            source,
        })?;
        let mut shard = Self {
            path,
            partial,
            rows: 0,
            writer: None,
        };
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()))
            .map_err(|error| shard.failed(error))?;
        shard.writer = Some(writer);
        Ok(shard)
    }

    /// Writes one row group.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(batch).and_then(|()| writer.flush());
        written.map_err(|error| self.failed(error))
    }

    fn publish(mut self) -> Result<PathBuf, DataError> {
        let Some(writer) = self.writer.take() else {
            return Ok(self.path.clone());
        };
        let file = writer.into_inner().map_err(|error| self.failed(error))?;
        file.sync_all()
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .map_err(|source| DataError::Io {
                path: self.path.clone(),
                source,
            })?;
        Ok(self.path.clone())
    }

    fn failed(&self, error: impl ToString) -> DataError {
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

/// Media is compressed already, never repeats and is never compared: no compression, dictionary or
/// statistics. Small pages let a reader take single rows.
fn properties() -> WriterProperties {
    let media = || ColumnPath::from("media");
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_column_compression(media(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(media(), false)
        .set_column_statistics_enabled(media(), EnabledStatistics::None)
        .set_column_data_page_row_count_limit(media(), 16)
        .set_write_batch_size(16)
        // A group ends when it is flushed.
        .set_max_row_group_row_count(None)
        .build()
}
