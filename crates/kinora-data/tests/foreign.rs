//! Shards that other tools wrote: without sizes, and with other types.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{BinaryDictionaryBuilder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use kinora_data::{Bucket, Catalog, DataConfig, Loader, Part};
use kinora_media::{Clip, encode_jpeg, encode_mp4};
use parquet::arrow::ArrowWriter;

const FILMS: usize = 10;

fn media() -> Vec<Vec<u8>> {
    (0..FILMS as u8)
        .map(|i| {
            let frames = if i % 2 == 0 { 5 } else { 1 };
            let rgb = [i * 20, 100, 50].repeat(frames * 24 * 40);
            let clip = Clip {
                frames,
                height: 24,
                width: 40,
                fps: 10.0,
                rgb,
            };
            if frames == 1 {
                encode_jpeg(&clip.rgb, 24, 40, 90)
            } else {
                encode_mp4(&clip)
            }
            .unwrap()
        })
        .collect()
}

fn write(folder: &Path, columns: Vec<(&str, ArrayRef)>) -> DataConfig {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(folder.join("train.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let bucket = |frames| Bucket::new(frames, 12, 16, 3);
    DataConfig {
        workers: 1,
        ..DataConfig::new(
            vec![folder.to_string_lossy().into_owned()],
            vec![bucket(1), bucket(4)],
        )
    }
}

/// All captions that two epochs of each bucket give, sorted, without repeats.
fn captions(config: &DataConfig) -> Vec<String> {
    let catalog = Arc::new(Catalog::open(config).unwrap());
    assert_eq!(catalog.samples(), [5, 5]);
    let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
    let mut captions = Vec::new();
    for _ in 0..20 {
        for sample in loader.next().unwrap().samples {
            assert_eq!([sample.clip().height, sample.clip().width], [12, 16]);
            let number: u8 = sample.caption.parse().unwrap();
            assert!(sample.clip().frame(0)[0].abs_diff(number * 20) <= 4);
            captions.push(sample.caption);
        }
    }
    captions.sort();
    captions.dedup();
    captions
}

fn numbers() -> Vec<String> {
    (0..FILMS).map(|i| i.to_string()).collect()
}

#[test]
fn shards_without_sizes_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let media: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(media()));
    let text: ArrayRef = Arc::new(StringArray::from(numbers()));
    let mut config = write(folder.path(), vec![("video", media), ("text", text)]);
    config.columns.media = "video".into();
    config.columns.caption = "text".into();
    assert_eq!(captions(&config), numbers());
}

#[test]
fn dictionaries_and_wide_integers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut films = BinaryDictionaryBuilder::<Int32Type>::new();
    media().iter().for_each(|film| films.append_value(film));
    let mut text = StringDictionaryBuilder::<Int32Type>::new();
    numbers()
        .iter()
        .for_each(|number| text.append_value(number));
    let frames = Int64Array::from_iter_values((0..FILMS).map(|i| if i % 2 == 0 { 5 } else { 1 }));
    let config = write(
        folder.path(),
        vec![
            ("media", Arc::new(films.finish())),
            ("caption", Arc::new(text.finish())),
            ("frames", Arc::new(frames)),
            ("height", Arc::new(Int64Array::from(vec![24; FILMS]))),
            ("width", Arc::new(Int64Array::from(vec![40; FILMS]))),
        ],
    );
    assert_eq!(captions(&config), numbers());
}

#[test]
fn media_inside_a_struct_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let films: ArrayRef = Arc::new(arrow_array::BinaryArray::from_iter_values(media()));
    let paths: ArrayRef = Arc::new(StringArray::from(vec!["x"; FILMS]));
    let film = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), films),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]);
    let text: ArrayRef = Arc::new(StringArray::from(numbers()));
    let config = write(
        folder.path(),
        vec![("media", Arc::new(film)), ("caption", text)],
    );
    assert_eq!(captions(&config), numbers());
}

#[test]
fn rows_without_media_or_caption_do_not_stop_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let films: Vec<Option<Vec<u8>>> = media()
        .into_iter()
        .enumerate()
        .map(|(i, film)| (i != 4).then_some(film))
        .collect();
    let films: Vec<Option<&[u8]>> = films.iter().map(|film| film.as_deref()).collect();
    let text = vec![None::<&str>; FILMS];
    let config = write(
        folder.path(),
        vec![
            ("media", Arc::new(arrow_array::BinaryArray::from(films))),
            ("caption", Arc::new(StringArray::from(text))),
        ],
    );
    let catalog = Arc::new(Catalog::open(&config).unwrap());
    assert_eq!(
        (catalog.samples(), catalog.left_out().unreadable),
        (vec![5, 4], 1)
    );
    assert!(catalog.left_out().examples[0].contains("row 4: it has no media"));
    let mut loader = Loader::open(catalog, Part::WHOLE, 0).unwrap();
    for _ in 0..8 {
        assert!(
            loader
                .next()
                .unwrap()
                .samples
                .iter()
                .all(|sample| sample.caption.is_empty())
        );
    }
}
