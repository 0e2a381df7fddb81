//! Writing shards: the Parquet files that this crate reads best, and that any other tool reads too.

mod columns;
mod shard;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;

use columns::Columns;
use shard::Shard;

use crate::manifest::{Manifest, ShardEntry};
use crate::record::Encoded;
use crate::schema::{Encoders, schema};
use crate::{Caption, DataError};

/// How shards are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOptions {
    /// Shards are named `{name}-00000.parquet` and so on.
    pub name: String,
    /// The most rows of a row group, which are shuffled and read together.
    pub rows_per_group: usize,
    /// A row group ends when its media reach this. 50 to 500 MB read well.
    pub bytes_per_group: u64,
    /// The most rows of a file.
    pub rows_per_shard: usize,
    /// A file ends when its media reach this.
    pub bytes_per_shard: u64,
    /// What made the latents and embeddings, if the rows hold some.
    pub encoders: Encoders,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            name: "shard".into(),
            rows_per_group: 256,
            bytes_per_group: 128 << 20,
            rows_per_shard: 16_384,
            bytes_per_shard: 1 << 30,
            encoders: Encoders::default(),
        }
    }
}

/// One sample to write.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Its name, which no other sample of the data set has.
    pub key: &'a str,
    /// Its media.
    pub media: Media<'a>,
    /// One caption, or several with weights.
    pub captions: &'a [Caption],
    /// Frames; 1 for an image.
    pub frames: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Frames per second on average, by their times; 0 for an image.
    pub fps: f64,
    /// Seconds into the media where the sample begins.
    pub start: f64,
    /// Seconds; 0 for an image.
    pub duration: f64,
    /// The bytes of a sound file that belongs to it.
    pub audio: Option<&'a [u8]>,
    /// Samples a second and channels of `audio`, or else of the track inside the media.
    pub sound: Option<(u32, u16)>,
    /// Latents, `[C, T, H, W]`; written if [`Encoders::latents`] is set.
    pub latents: Option<&'a Encoded>,
    /// A text embedding, `[tokens, width]`; written if [`Encoders::text`] is set.
    pub text: Option<&'a Encoded>,
    /// Anything else, e.g. JSON.
    pub meta: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// A row of media with captions and sizes, and nothing else.
    pub fn new(
        key: &'a str,
        media: &'a [u8],
        captions: &'a [Caption],
        [frames, height, width]: [usize; 3],
        fps: f64,
    ) -> Self {
        let video = frames > 1 && fps > 0.0;
        Self {
            key,
            media: Media::Bytes(media),
            captions,
            frames,
            height,
            width,
            fps,
            start: 0.0,
            duration: if video { frames as f64 / fps } else { 0.0 },
            audio: None,
            sound: None,
            latents: None,
            text: None,
            meta: None,
        }
    }
}

/// The media of a row.
#[derive(Clone, Copy, Debug)]
pub enum Media<'a> {
    /// The bytes of a media file.
    Bytes(&'a [u8]),
    /// A media file elsewhere.
    Uri {
        /// Its path from the data set's folder, or its URL.
        uri: &'a str,
        /// XXH3 (64 bits) of its bytes.
        hash: Option<u64>,
    },
    /// None: the row holds latents only.
    None,
}

/// Writes samples into shards of the columns that `datasets/README.md` lists, and their manifest.
///
/// Each file appears whole or not at all. A writer that is dropped without
/// [`ShardWriter::finish`] leaves the shards it has completed, without a manifest.
pub struct ShardWriter {
    folder: PathBuf,
    options: ShardOptions,
    schema: Arc<Schema>,
    group: Columns,
    shard: Option<Shard>,
    done: Vec<ShardEntry>,
}

impl ShardWriter {
    /// A writer into a folder, which is made if needed.
    ///
    /// # Errors
    /// If the folder cannot be made or read, or already holds shards of this name (whose leftovers
    /// would be read as part of the new data set).
    pub fn create(folder: &Path, options: ShardOptions) -> Result<Self, DataError> {
        Self::resume(folder, options, Vec::new())
    }

    /// A writer that goes on behind complete shards.
    ///
    /// # Errors
    /// As [`ShardWriter::create`], but for these shards, which must be there.
    pub fn resume(
        folder: &Path,
        options: ShardOptions,
        done: Vec<ShardEntry>,
    ) -> Result<Self, DataError> {
        let ShardOptions {
            rows_per_group,
            rows_per_shard,
            ..
        } = options;
        if rows_per_group == 0 || rows_per_shard == 0 {
            return Err(DataError::config(
                format!("a shard of {rows_per_shard} rows in groups of {rows_per_group} rows"),
                "both must be at least 1",
            ));
        }
        let failed = |source| DataError::Io {
            path: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let prefix = format!("{}-", options.name);
        let mut there = 0;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            if done.iter().any(|shard| shard.name == name) {
                there += 1;
            } else if name.starts_with(&prefix) && name.ends_with(".parquet") {
                return Err(DataError::config(
                    format!("{} already holds the shard {name}", folder.display()),
                    "remove the old shards, or write to another folder or name",
                ));
            }
        }
        if there < done.len() {
            return Err(DataError::config(
                format!(
                    "{} holds {there} of the {} shards to go on behind",
                    folder.display(),
                    done.len()
                ),
                "remove the folder and begin again",
            ));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            schema: Arc::new(schema(&options.encoders)),
            options,
            group: Columns::default(),
            shard: None,
            done,
        })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// If a full row group or shard cannot be written, or a size does not fit into 32 bits.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), DataError> {
        self.group.push(row)?;
        let bytes = self.group.bytes + self.shard.as_ref().map_or(0, |shard| shard.bytes);
        let full =
            self.rows() == self.options.rows_per_shard || bytes >= self.options.bytes_per_shard;
        if full
            || self.group.len() == self.options.rows_per_group
            || self.group.bytes >= self.options.bytes_per_group
        {
            self.flush()?;
        }
        if full {
            self.close()?;
        }
        Ok(())
    }

    /// The shards that are complete, in order.
    pub fn shards(&self) -> &[ShardEntry] {
        &self.done
    }

    /// Writes what is left, but no manifest: for several writers of one folder, of which somebody
    /// else writes the manifest. Returns the shards.
    ///
    /// # Errors
    /// If writing fails.
    pub fn close_all(mut self) -> Result<Vec<ShardEntry>, DataError> {
        self.flush()?;
        self.close()?;
        Ok(self.done)
    }

    /// Writes what is left and the folder's manifest, and returns that.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(self) -> Result<Manifest, DataError> {
        let folder = self.folder.clone();
        let mut shards = self.close_all()?;
        // Writers of other names may share the folder.
        if let Some(manifest) = Manifest::read(&folder)? {
            let ours = |other: &ShardEntry| shards.iter().any(|shard| shard.name == other.name);
            let others: Vec<_> = manifest
                .shards
                .into_iter()
                .filter(|other| !ours(other))
                .collect();
            shards.extend(others);
            shards.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let manifest = Manifest::new(shards);
        manifest.write(&folder)?;
        Ok(manifest)
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
            self.shard = Some(Shard::create(
                &self.folder,
                name,
                &self.schema,
                &self.options,
            )?);
        }
        let group = std::mem::take(&mut self.group);
        if let Some(shard) = &mut self.shard {
            shard.rows += group.len();
            shard.bytes += group.bytes;
            for (&frames, duration) in group.sizes[0].iter().zip(&group.times[2]) {
                shard.images += u64::from(frames == 1);
                shard.seconds += duration;
            }
            let columns = group.arrays(&self.options.encoders);
            let batch = RecordBatch::try_new(self.schema.clone(), columns)
                .map_err(|error| shard.failed(error))?;
            shard.write(&batch)?;
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
