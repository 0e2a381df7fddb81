//! Writing shards: the Parquet files that this crate reads best, and that any other tool reads too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{
    Float32Builder, Int32Builder, ListBuilder, StringBuilder, StructBuilder,
};
use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int32Array, RecordBatch, StringArray, UInt64Array,
};
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::manifest::{Manifest, ShardEntry};
use crate::record::Encoded;
use crate::schema::{
    BLOBS, Encoders, LATENTS_KEY, TEXT_KEY, VERSION, VERSION_KEY, caption_fields, caption_item,
    schema, shape_item,
};
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

/// The columns of the open row group.
#[derive(Default)]
struct Columns {
    key: Vec<String>,
    media: Vec<Option<Vec<u8>>>,
    uri: Vec<Option<String>>,
    captions: Vec<Vec<Caption>>,
    /// Frames, height, width.
    sizes: [Vec<i32>; 3],
    /// Frames per second, start, duration.
    times: [Vec<f64>; 3],
    audio: Vec<Option<Vec<u8>>>,
    /// Rate and channels.
    sound: [Vec<Option<i32>>; 2],
    hash: Vec<Option<u64>>,
    meta: Vec<Option<String>>,
    /// Latents and text.
    encoded: [Vec<Option<Tensor>>; 2],
    /// Of media, audio and tensors.
    bytes: u64,
}

struct Tensor {
    bytes: Vec<u8>,
    shape: Vec<i32>,
}

impl Columns {
    fn len(&self) -> usize {
        self.key.len()
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), DataError> {
        let sizes = [row.frames, row.height, row.width];
        let small = |size: usize| {
            i32::try_from(size).map_err(|_| {
                DataError::config(
                    format!(
                        "the sample {} of frames, height and width {sizes:?}",
                        row.key
                    ),
                    "sizes are stored in 32 bits",
                )
            })
        };
        let [frames, height, width] = [small(sizes[0])?, small(sizes[1])?, small(sizes[2])?];
        if row.captions.is_empty() {
            return Err(DataError::config(
                format!("the sample {} has no caption", row.key),
                "give it one, which may be empty",
            ));
        }
        let mut encoded = [None, None];
        for (slot, tensor) in encoded.iter_mut().zip([row.latents, row.text]) {
            if let Some(Encoded { bytes, shape }) = tensor {
                assert_eq!(
                    bytes.len(),
                    2 * shape.iter().product::<usize>(),
                    "bfloat16 numbers of shape {shape:?}"
                );
                let shape = shape.iter().map(|&n| small(n)).collect::<Result<_, _>>()?;
                self.bytes += bytes.len() as u64;
                *slot = Some(Tensor {
                    bytes: bytes.to_vec(),
                    shape,
                });
            }
        }
        for (column, tensor) in self.encoded.iter_mut().zip(encoded) {
            column.push(tensor);
        }
        for (column, size) in self.sizes.iter_mut().zip([frames, height, width]) {
            column.push(size);
        }
        for (column, time) in self
            .times
            .iter_mut()
            .zip([row.fps, row.start, row.duration])
        {
            column.push(time);
        }
        let (media, uri, hash) = match row.media {
            Media::Bytes(bytes) => (Some(bytes.to_vec()), None, Some(xxh3_64(bytes))),
            Media::Uri { uri, hash } => (None, Some(uri.to_owned()), hash),
            Media::None => (None, None, None),
        };
        self.bytes += media.as_ref().map_or(0, Vec::len) as u64;
        self.bytes += row.audio.map_or(0, <[u8]>::len) as u64;
        self.key.push(row.key.to_owned());
        self.media.push(media);
        self.uri.push(uri);
        self.hash.push(hash);
        self.captions.push(row.captions.to_vec());
        self.audio.push(row.audio.map(<[u8]>::to_vec));
        let sound = row
            .sound
            .map(|(rate, channels)| [rate as i32, i32::from(channels)]);
        for (index, column) in self.sound.iter_mut().enumerate() {
            column.push(sound.map(|sound| sound[index]));
        }
        self.meta.push(row.meta.map(str::to_owned));
        Ok(())
    }

    fn arrays(self, encoders: &Encoders) -> Vec<ArrayRef> {
        let kinds = self.sizes[0]
            .iter()
            .map(|&frames| if frames == 1 { "image" } else { "video" });
        let kinds = StringArray::from_iter_values(kinds);
        let first = self.captions.iter().map(|captions| &captions[0].text);
        let first = StringArray::from_iter_values(first);
        let captions = weighted(&self.captions);
        let [frames, height, width] = self.sizes.map(Int32Array::from);
        let [fps, start, duration] = self.times.map(Float64Array::from);
        let [rate, channels] = self.sound.map(Int32Array::from);
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(self.key)),
            Arc::new(BinaryArray::from_iter(self.media)),
            Arc::new(StringArray::from(self.uri)),
            Arc::new(kinds),
            Arc::new(first),
            captions,
            Arc::new(frames),
            Arc::new(height),
            Arc::new(width),
            Arc::new(fps),
            Arc::new(start),
            Arc::new(duration),
            Arc::new(BinaryArray::from_iter(self.audio)),
            Arc::new(rate),
            Arc::new(channels),
            Arc::new(UInt64Array::from(self.hash)),
            Arc::new(StringArray::from(self.meta)),
        ];
        for (tensors, encoder) in self.encoded.iter().zip([&encoders.latents, &encoders.text]) {
            if encoder.is_none() {
                continue;
            }
            let bytes = tensors
                .iter()
                .map(|tensor| tensor.as_ref().map(|of| &of.bytes));
            arrays.push(Arc::new(BinaryArray::from_iter(bytes)));
            let mut shapes = ListBuilder::new(Int32Builder::new()).with_field(shape_item());
            for tensor in tensors {
                if let Some(tensor) = tensor {
                    shapes.values().append_slice(&tensor.shape);
                }
                shapes.append(tensor.is_some());
            }
            arrays.push(Arc::new(shapes.finish()));
        }
        arrays
    }
}

/// The column `captions`: empty where there is just one, which `caption` holds.
fn weighted(rows: &[Vec<Caption>]) -> ArrayRef {
    let entry = StructBuilder::new(
        caption_fields(),
        vec![
            Box::new(StringBuilder::new()),
            Box::new(Float32Builder::new()),
        ],
    );
    let mut list = ListBuilder::new(entry).with_field(caption_item());
    for captions in rows {
        if captions.len() > 1 {
            for caption in captions {
                let entry = list.values();
                let text = entry.field_builder::<StringBuilder>(0);
                text.expect("the first field").append_value(&caption.text);
                let weight = entry.field_builder::<Float32Builder>(1);
                weight
                    .expect("the second field")
                    .append_value(caption.weight);
                entry.append(true);
            }
        }
        list.append(captions.len() > 1);
    }
    Arc::new(list.finish())
}

/// A shard under its temporary name.
struct Shard {
    path: PathBuf,
    name: String,
    partial: PathBuf,
    rows: usize,
    images: u64,
    seconds: f64,
    /// Of media, audio and tensors.
    bytes: u64,
    writer: Option<ArrowWriter<Hashed>>,
}

impl Shard {
    fn create(
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
    fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let written = writer.write(batch).and_then(|()| writer.flush());
        written.map_err(|error| self.failed(error))
    }

    fn publish(mut self) -> Result<ShardEntry, DataError> {
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
