//! The columns of a row group, as rows come in.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, Int32Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, BinaryArray, Float64Array, Int32Array, StringArray, UInt64Array};
use xxhash_rust::xxh3::xxh3_64;

use super::{Media, Row};
use crate::record::Encoded;
use crate::schema::{Encoders, caption_fields, caption_item, shape_item};
use crate::{Caption, DataError};

/// The columns of the open row group.
#[derive(Default)]
pub(super) struct Columns {
    key: Vec<String>,
    media: Vec<Option<Vec<u8>>>,
    uri: Vec<Option<String>>,
    captions: Vec<Vec<Caption>>,
    /// Frames, height, width.
    pub(super) sizes: [Vec<i32>; 3],
    /// Frames per second, start, duration.
    pub(super) times: [Vec<f64>; 3],
    audio: Vec<Option<Vec<u8>>>,
    /// Rate and channels.
    sound: [Vec<Option<i32>>; 2],
    hash: Vec<Option<u64>>,
    meta: Vec<Option<String>>,
    /// Latents and text.
    encoded: [Vec<Option<Tensor>>; 2],
    /// Of media, audio and tensors.
    pub(super) bytes: u64,
}

struct Tensor {
    bytes: Vec<u8>,
    shape: Vec<i32>,
}

impl Columns {
    pub(super) fn len\(&self) -> usize {
        self.key.len()
    }

    pub(super) fn push\(&mut self, row: &Row<'_>) -> Result<(), DataError> {
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

    pub(super) fn arrays\(self, encoders: &Encoders) -> Vec<ArrayRef> {
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
