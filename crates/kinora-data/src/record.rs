//! The columns of a shard: which there are, and the values of a row.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BinaryViewArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Columns, DataConfig};
use crate::store::Meter;
use crate::{Caption, DataError};

/// The names of columns that only Kinora's own shards have, so that they need no other.
mod names {
    pub(super) const KEY: &str = "key";
    pub(super) const URI: &str = "uri";
    pub(super) const CAPTIONS: &str = "captions";
    pub(super) const START: &str = "start";
    pub(super) const HASH: &str = "hash";
    pub(super) const AUDIO: &str = "audio";
    pub(super) const AUDIO_RATE: &str = "audio_rate";
    pub(super) const AUDIO_CHANNELS: &str = "audio_channels";
    pub(super) const LATENTS: &str = "latents";
    pub(super) const LATENTS_SHAPE: &str = "latents_shape";
    pub(super) const TEXT: &str = "text";
    pub(super) const TEXT_SHAPE: &str = "text_shape";
}

/// What is read of each row, besides its captions and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its media, from where they lie.
    pub media: bool,
    /// A sound file of its own.
    pub audio: bool,
    /// Latents.
    pub latents: bool,
    /// A text embedding.
    pub text: bool,
}

impl Wanted {
    /// Media, and nothing else that is large.
    pub const MEDIA: Self = Self {
        media: true,
        audio: false,
        latents: false,
        text: false,
    };

    /// What a configuration asks for.
    pub(crate) fn of(config: &DataConfig) -> Self {
        Self {
            media: !config.latents,
            audio: config.audio,
            latents: config.latents,
            // No model takes text embeddings from the data yet; `Stream` reads them.
            text: false,
        }
    }
}

/// A row of a shard. What is large shares the buffer that it was read into.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Its name.
    pub key: Option<String>,
    /// A file; empty if it was not asked for.
    pub media: Bytes,
    /// The first caption.
    pub caption: String,
    /// All of them with their weights, if there are several.
    pub captions: Vec<Caption>,
    /// Seconds into the media where the sample begins.
    pub start: f64,
    /// Seconds of the sample; 0 if the shard does not say.
    pub duration: f64,
    /// Frames a second; 0 if the shard does not say.
    pub fps: f64,
    /// A sound file of its own.
    pub audio: Option<Bytes>,
    /// Rate and channels of its sound, if it has some.
    pub sound: Option<(u32, u16)>,
    /// Latents, `[C, T, H, W]`.
    pub latents: Option<Encoded>,
    /// A text embedding, `[tokens, width]`.
    pub text: Option<Encoded>,
}

/// A tensor that a shard holds: bfloat16, the least significant byte first, the last dimension
/// fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The numbers.
    pub bytes: Bytes,
    /// The length of each dimension.
    pub shape: Vec<usize>,
}

impl Encoded {
    /// The numbers.
    pub fn values(&self) -> Vec<f32> {
        let wide =
            |pair: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
        self.bytes.chunks_exact(2).map(wide).collect()
    }

    /// Numbers rounded to bfloat16, to the nearest, ties to even.
    pub fn round(values: &[f32], shape: &[usize]) -> Self {
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "numbers of shape {shape:?}"
        );
        let narrow = |value: &f32| {
            let bits = value.to_bits();
            let rounded = if value.is_nan() {
                bits | 0x0040_0000
            } else {
                bits.wrapping_add(0x7FFF + ((bits >> 16) & 1))
            };
            ((rounded >> 16) as u16).to_le_bytes()
        };
        Self {
            bytes: values.iter().flat_map(narrow).collect(),
            shape: shape.to_vec(),
        }
    }
}

/// A row as it lies in the shard: its media may lie elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) record: Record,
    /// Where its media lies, if not here.
    pub(crate) uri: Option<String>,
    /// XXH3 (64 bits) of its media.
    pub(crate) hash: Option<u64>,
}

/// Checks that media and caption are there and of the right type; returns whether all of frames,
/// height and width are there, and fps and duration if these are needed too.
pub(crate) fn check(
    path: &Path,
    schema: &Schema,
    columns: &Columns,
    timed: bool,
) -> Result<bool, DataError> {
    let wrong = |column: &str, found: &DataType, wanted| DataError::ColumnType {
        path: path.to_path_buf(),
        column: column.to_owned(),
        found: found.to_string(),
        wanted,
    };
    let elsewhere = has(schema, names::URI, is_text);
    match data_type(path, schema, &columns.media) {
        Ok(media) if !holds_bytes(media) => return Err(wrong(&columns.media, media, "binary")),
        Err(error) if !elsewhere => return Err(error),
        _ => {}
    }
    let caption = data_type(path, schema, &columns.caption)?;
    let texts = matches!(caption, DataType::List(item) if is_text(item.data_type()));
    if !texts && !is_text(caption) && !matches!(caption, DataType::Binary) {
        return Err(wrong(&columns.caption, caption, "string"));
    }
    let mut sized = true;
    for name in [&columns.frames, &columns.height, &columns.width] {
        match schema.field_with_name(name) {
            Ok(field) if !field.data_type().is_integer() => {
                return Err(wrong(name, field.data_type(), "integer"));
            }
            Ok(_) => {}
            Err(_) => sized = false,
        }
    }
    if timed {
        for name in [&columns.fps, &columns.duration] {
            match schema.field_with_name(name) {
                Ok(field) if !field.data_type().is_numeric() => {
                    return Err(wrong(name, field.data_type(), "a number"));
                }
                Ok(_) => {}
                Err(_) => sized = false,
            }
        }
    }
    Ok(sized)
}

fn data_type<'a>(path: &Path, schema: &'a Schema, name: &str) -> Result<&'a DataType, DataError> {
    schema
        .field_with_name(name)
        .map(|field| field.data_type())
        .map_err(|_| DataError::MissingColumn {
            path: path.to_path_buf(),
            column: name.to_owned(),
            have: schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
        })
}

fn has(schema: &Schema, name: &str, fits: impl Fn(&DataType) -> bool) -> bool {
    schema
        .field_with_name(name)
        .is_ok_and(|field| fits(field.data_type()))
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8)
}

fn holds_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary => true,
        DataType::Struct(fields) => fields.iter().any(|field| {
            field.name() == "bytes"
                && matches!(field.data_type(), DataType::Binary | DataType::LargeBinary)
        }),
        _ => false,
    }
}

/// The columns to read of a shard. Those of Kinora's own that are of another type are someone
/// else's, and left alone.
pub(crate) fn wanted<'a>(schema: &Schema, columns: &'a Columns, wanted: Wanted) -> Vec<&'a str> {
    let number = |kind: &DataType| kind.is_numeric();
    let bytes = |kind: &DataType| matches!(kind, DataType::Binary | DataType::LargeBinary);
    let several = |kind: &DataType| match kind {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) => fields
                .iter()
                .any(|field| field.name() == "text" && is_text(field.data_type())),
            kind => is_text(kind),
        },
        _ => false,
    };
    let shape = |kind: &DataType| matches!(kind, DataType::List(item) if item.data_type() == &DataType::Int32);
    let mut found: Vec<&'a str> = Vec::new();
    let mut add = |name: &'a str, fits: &dyn Fn(&DataType) -> bool| {
        let there = has(schema, name, fits) && !found.contains(&name);
        if there {
            found.push(name);
        }
        there
    };
    add(&columns.caption, &|_| true);
    add(names::KEY, &is_text);
    add(names::CAPTIONS, &several);
    add(names::START, &number);
    add(&columns.duration, &number);
    add(&columns.fps, &number);
    add(names::AUDIO_RATE, &number);
    add(names::AUDIO_CHANNELS, &number);
    if wanted.media {
        add(&columns.media, &holds_bytes);
        add(names::URI, &is_text);
        add(names::HASH, &|kind| kind == &DataType::UInt64);
    }
    if wanted.audio {
        add(names::AUDIO, &bytes);
    }
    if wanted.latents && has(schema, names::LATENTS_SHAPE, shape) && add(names::LATENTS, &bytes) {
        add(names::LATENTS_SHAPE, &shape);
    }
    if wanted.text && has(schema, names::TEXT_SHAPE, shape) && add(names::TEXT, &bytes) {
        add(names::TEXT_SHAPE, &shape);
    }
    found
}

/// The rows of a batch, each or why it is broken. `compressed` says that the values lie in buffers
/// that the meter does not know of yet.
pub(crate) fn rows(
    batch: &RecordBatch,
    columns: &Columns,
    meter: &Meter,
    compressed: bool,
) -> Vec<Result<Stored, String>> {
    let blob = |name: &str| Blob::new(batch, name, meter, compressed);
    let media = blob(&columns.media);
    let [audio, latents, text] = [names::AUDIO, names::LATENTS, names::TEXT].map(blob);
    let [start, duration, fps, rate, channels] = [
        names::START,
        &columns.duration,
        &columns.fps,
        names::AUDIO_RATE,
        names::AUDIO_CHANNELS,
    ]
    .map(|name| numbers(batch, name));
    let hashes = batch
        .column_by_name(names::HASH)
        .and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let row = |row: usize| {
        let bytes = media.get(row);
        let hash = hashes.filter(|hashes| hashes.is_valid(row));
        let hash = hash.map(|hashes| hashes.value(row));
        if let (Some(bytes), Some(hash)) = (&bytes, hash) {
            check_hash(bytes, hash)?;
        }
        let uri = string(batch, names::URI, row).filter(|_| bytes.is_none());
        let [latents, text] = [(&latents, names::LATENTS_SHAPE), (&text, names::TEXT_SHAPE)]
            .map(|(blob, shape)| encoded(batch, blob, shape, row));
        let captions = captions(batch, names::CAPTIONS, row);
        let sound = (rate[row] > 0.0).then_some((rate[row] as u32, channels[row] as u16));
        let record = Record {
            key: string(batch, names::KEY, row),
            caption: caption(batch, &columns.caption, row),
            captions,
            start: start[row],
            duration: duration[row],
            fps: fps[row],
            audio: audio.get(row),
            sound,
            latents: latents?,
            text: text?,
            media: bytes.unwrap_or_default(),
        };
        Ok(Stored { record, uri, hash })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Checks media against its column `hash`.
pub(crate) fn check_hash(media: &[u8], wanted: u64) -> Result<(), String> {
    let found = xxh3_64(media);
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "its media has the hash {found:016x} in place of {wanted:016x}: it is damaged"
    ))
}

fn encoded(
    batch: &RecordBatch,
    blob: &Blob,
    shape: &str,
    row: usize,
) -> Result<Option<Encoded>, String> {
    let Some(bytes) = blob.get(row) else {
        return Ok(None);
    };
    let lists = batch
        .column_by_name(shape)
        .and_then(|column| column.as_list_opt::<i32>())
        .filter(|lists| lists.is_valid(row));
    let list = lists.map(|lists| lists.value(row));
    let sizes = list
        .as_ref()
        .and_then(|list| list.as_primitive_opt::<Int32Type>())
        .ok_or_else(|| format!("its {shape} is missing"))?;
    let shape_of = |size: Option<i32>| size.and_then(|size| usize::try_from(size).ok());
    let sizes: Option<Vec<usize>> = sizes.iter().map(shape_of).collect();
    let sizes = sizes.ok_or_else(|| format!("its {shape} has a size that is none"))?;
    let count = sizes
        .iter()
        .try_fold(2usize, |count, &size| count.checked_mul(size));
    if count != Some(bytes.len()) {
        return Err(format!(
            "its {shape} is {sizes:?}, but it has {} bytes",
            bytes.len()
        ));
    }
    Ok(Some(Encoded {
        bytes,
        shape: sizes,
    }))
}

/// A column of large values.
struct Blob {
    values: Option<BinaryViewArray>,
    /// Of each buffer behind the values that most of it belongs to: the buffer, shared.
    shared: HashMap<usize, Bytes>,
    meter: Meter,
}

impl Blob {
    fn new(batch: &RecordBatch, name: &str, meter: &Meter, compressed: bool) -> Self {
        let values = binary(batch, name).cloned();
        let mut shared = HashMap::new();
        if let Some(values) = &values {
            let mut used: HashMap<usize, usize> = HashMap::new();
            for row in (0..values.len()).filter(|&row| values.is_valid(row)) {
                if let Some((buffer, range)) = place(values, row) {
                    *used.entry(buffer).or_default() += range.len();
                }
            }
            for (buffer, used) in used {
                let whole = values.data_buffers()[buffer].clone();
                // A few values would keep all of it in memory: these are copied instead.
                if used * 2 >= whole.len() {
                    let owner = Owner(whole);
                    let bytes = if compressed {
                        meter.wrap(owner)
                    } else {
                        Bytes::from_owner(owner)
                    };
                    shared.insert(buffer, bytes);
                }
            }
        }
        Self {
            values,
            shared,
            meter: meter.clone(),
        }
    }

    fn get(&self, row: usize) -> Option<Bytes> {
        let values = self.values.as_ref().filter(|values| values.is_valid(row))?;
        let shared = place(values, row)
            .and_then(|(buffer, range)| Some(self.shared.get(&buffer)?.slice(range)));
        Some(shared.unwrap_or_else(|| self.meter.wrap(values.value(row).to_vec())))
    }
}

/// The buffer that holds a value, and where in it; none for the shortest, which lie elsewhere.
fn place(values: &BinaryViewArray, row: usize) -> Option<(usize, std::ops::Range<usize>)> {
    let view = values.views()[row];
    let length = view as u32 as usize;
    let [buffer, start] = [view >> 64, view >> 96].map(|part| part as u32 as usize);
    (length > INLINE).then_some((buffer, start..start + length))
}

// Bytes that a view holds itself.
const INLINE: usize = 12;

struct Owner<T>(T);

impl<T: Deref<Target = [u8]>> AsRef<[u8]> for Owner<T> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A column of bytes, or of structs that hold them.
fn binary<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a BinaryViewArray> {
    let column = batch.column_by_name(name)?;
    match column.as_struct_opt() {
        Some(fields) => fields.column_by_name("bytes")?.as_binary_view_opt(),
        None => column.as_binary_view_opt(),
    }
}

/// The media of each row of a batch, for looking at; none where it is null.
pub(crate) fn media<'a>(batch: &'a RecordBatch, name: &str) -> Vec<Option<&'a [u8]>> {
    match binary(batch, name) {
        Some(values) => values.iter().collect(),
        None => vec![None; batch.num_rows()],
    }
}

/// The caption of a row: a string, or the first of a list; a missing one is empty.
pub(crate) fn caption(batch: &RecordBatch, name: &str, row: usize) -> String {
    if let Some(text) = string(batch, name, row) {
        return text;
    }
    let first = captions(batch, name, row).into_iter().next();
    first.map(|caption| caption.text).unwrap_or_default()
}

/// The captions of a row, from a list of strings or of structs with `text` and `weight`; without a
/// weight, each has 1.
fn captions(batch: &RecordBatch, name: &str, row: usize) -> Vec<Caption> {
    let lists = batch
        .column_by_name(name)
        .and_then(|column| column.as_list_opt::<i32>())
        .filter(|lists| lists.is_valid(row));
    let Some(list) = lists.map(|lists| lists.value(row)) else {
        return Vec::new();
    };
    let (texts, weights) = match list.as_struct_opt() {
        Some(fields) => (
            fields.column_by_name("text").cloned(),
            fields.column_by_name("weight").cloned(),
        ),
        None => (Some(list.clone()), None),
    };
    let Some(texts) = texts else {
        return Vec::new();
    };
    let weights = weights
        .as_ref()
        .and_then(|weights| weights.as_primitive_opt::<Float32Type>());
    (0..texts.len())
        .filter_map(|at| {
            let weight = weights.filter(|weights| weights.is_valid(at));
            Some(Caption {
                text: text(&texts, at)?,
                weight: weight.map_or(1.0, |weights| weights.value(at)),
            })
        })
        .collect()
}

fn string(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    text(batch.column_by_name(name)?, row)
}

fn text(column: &ArrayRef, row: usize) -> Option<String> {
    if !column.is_valid(row) {
        return None;
    }
    if let Some(text) = column.as_string_opt::<i32>() {
        return Some(text.value(row).to_owned());
    }
    if let Some(text) = column.as_string_opt::<i64>() {
        return Some(text.value(row).to_owned());
    }
    let bytes = column.as_binary_view_opt()?;
    Some(String::from_utf8_lossy(bytes.value(row)).into_owned())
}

/// A column of integers; what is null or negative is 0, which no size is.
pub(crate) fn sizes(batch: &RecordBatch, name: &str) -> Vec<usize> {
    let Some(column) = batch.column_by_name(name) else {
        return vec![0; batch.num_rows()];
    };
    macro_rules! first_of {
        ($($kind:ty),*) => {$(
            if let Some(values) = column.as_primitive_opt::<$kind>() {
                return values
                    .iter()
                    .map(|value| value.and_then(|value| usize::try_from(value).ok()).unwrap_or(0))
                    .collect();
            }
        )*};
    }
    first_of!(
        Int32Type, Int64Type, Int16Type, Int8Type, UInt32Type, UInt64Type, UInt16Type, UInt8Type
    );
    vec![0; batch.num_rows()]
}

/// A column of numbers; what is null, absent or no number is 0.
pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Vec<f64> {
    let column = batch.column_by_name(name);
    if let Some(values) = column.and_then(|column| column.as_primitive_opt::<Float64Type>()) {
        return values.iter().map(|value| value.unwrap_or(0.0)).collect();
    }
    if let Some(values) = column.and_then(|column| column.as_primitive_opt::<Float32Type>()) {
        let value = |value: Option<f32>| f64::from(value.unwrap_or(0.0));
        return values.iter().map(value).collect();
    }
    let sizes = sizes(batch, name);
    sizes.into_iter().map(|size| size as f64).collect()
}
