//! The columns of Kinora's own shards, and the like of others.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, UInt64Array};
use kinora_data::{
    Bucket, Caption, Catalog, DataConfig, DataError, Encoded, Encoders, Loader, Part, Record, Row,
    ShardOptions, ShardWriter, Stream, Wanted,
};
use kinora_media::encode_png;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

const ROWS: usize = 20;

const ALL: Wanted = Wanted {
    media: true,
    audio: true,
    latents: true,
    text: true,
};

fn picture(number: usize) -> Vec<u8> {
    let rgb: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * (number + 3)) as u8).collect();
    encode_png(&rgb, 16, 16).unwrap()
}

fn config(folder: &Path) -> DataConfig {
    DataConfig {
        workers: 0,
        ..DataConfig::new(
            vec![folder.to_str().unwrap().to_owned()],
            vec![Bucket::new(1, 16, 16, 5)],
        )
    }
}

/// All rows of an epoch by their number in the file.
fn rows(config: &DataConfig, wanted: Wanted) -> HashMap<u64, Result<Record, String>> {
    let catalog = Arc::new(Catalog::open(config).unwrap());
    let mut stream = Stream::open(catalog, Part::WHOLE, 0, wanted).unwrap();
    let steps = (0..ROWS / 5).flat_map(|_| stream.next_step().unwrap());
    steps.map(|(id, row)| (id.row, row)).collect()
}

fn own() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = ShardOptions {
        rows_per_group: 7,
        encoders: Encoders {
            latents: Some("v".into()),
            text: Some("t".into()),
        },
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder.path(), options).unwrap();
    for number in 0..ROWS {
        let captions: Vec<Caption> = (0..1 + number % 3)
            .map(|i| Caption {
                text: format!("{number}.{i}"),
                weight: 1.0 + i as f32,
            })
            .collect();
        let latents = Encoded {
            bytes: vec![number as u8; 2 * 16 * 2 * 3 * 4].into(),
            shape: vec![16, 2, 3, 4],
        };
        let text = Encoded {
            bytes: vec![!number as u8; 2 * (number + 1) * 8].into(),
            shape: vec![number + 1, 8],
        };
        let key = format!("key {number}");
        let media = picture(number);
        let sound = [number as u8; 100];
        let row = Row {
            fps: 12.5,
            start: number as f64 / 4.0,
            duration: 2.0,
            audio: number.is_multiple_of(2).then_some(&sound[..]),
            sound: (number % 4 != 1).then_some((44_100, 2)),
            latents: (number != 3).then_some(&latents),
            text: Some(&text),
            ..Row::new(&key, &media, &captions, [1, 16, 16], 0.0)
        };
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
    folder
}

#[test]
fn every_column_comes_back_as_it_was_written() {
    let folder = own();
    let rows = rows(&config(folder.path()), ALL);
    assert_eq!(rows.len(), ROWS);
    for (number, row) in rows {
        let number = number as usize;
        let row = row.unwrap();
        assert_eq!(row.key.unwrap(), format!("key {number}"));
        assert_eq!(row.media, picture(number));
        assert_eq!(row.caption, format!("{number}.0"));
        let several = 1 + number % 3;
        assert_eq!(row.captions.len(), if several > 1 { several } else { 0 });
        for (i, caption) in row.captions.iter().enumerate() {
            assert_eq!(caption.text, format!("{number}.{i}"));
            assert_eq!(caption.weight, 1.0 + i as f32);
        }
        assert_eq!(
            (row.start, row.duration, row.fps),
            (number as f64 / 4.0, 2.0, 12.5)
        );
        let sound = number.is_multiple_of(2).then(|| vec![number as u8; 100]);
        assert_eq!(row.audio.map(|bytes| bytes.to_vec()), sound);
        assert_eq!(row.sound, (number % 4 != 1).then_some((44_100, 2)));
        match row.latents {
            None => assert_eq!(number, 3),
            Some(latents) => {
                assert_eq!(latents.shape, [16, 2, 3, 4]);
                assert_eq!(latents.bytes, vec![number as u8; 768]);
            }
        }
        let text = row.text.unwrap();
        assert_eq!(
            (text.shape[0], text.bytes.len()),
            (number + 1, 16 * (number + 1))
        );
    }
}

#[test]
fn what_is_not_wanted_is_not_read() {
    let folder = own();
    let bytes = |wanted| {
        let catalog = Arc::new(Catalog::open(&config(folder.path())).unwrap());
        let mut stream = Stream::open(catalog.clone(), Part::WHOLE, 0, wanted).unwrap();
        let before = catalog.storage().traffic().bytes;
        for (_, row) in stream.next_step().unwrap() {
            let row = row.unwrap();
            assert_eq!(row.media.is_empty(), !wanted.media);
            assert_eq!(row.latents.is_some() || row.text.is_some(), wanted.text);
        }
        catalog.storage().traffic().bytes - before
    };
    let text = Wanted {
        media: false,
        audio: false,
        ..ALL
    };
    let (media, text, all) = (bytes(Wanted::MEDIA), bytes(text), bytes(ALL));
    assert!(media < all && text < all, "{media} {text} {all}");
}

fn foreign(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(folder.path().join("train.parquet")).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(3)
        .build();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    folder
}

fn pictures() -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values((0..ROWS).map(picture)))
}

#[test]
fn lists_of_captions_and_compressed_media_are_read() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::LZ4_RAW,
        Compression::GZIP(Default::default()),
    ] {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for number in 0..ROWS {
            for i in 0..number % 3 {
                lists.values().append_value(format!("{number}.{i}"));
            }
            lists.append(true);
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        // Columns of Kinora's names that hold something else are left alone.
        let text: ArrayRef = Arc::new(StringArray::from(vec!["?"; ROWS]));
        let columns = vec![
            ("media", pictures()),
            ("caption", lists.clone()),
            ("captions", lists),
            ("hash", text.clone()),
            ("latents", text.clone()),
            ("start", text.clone()),
            ("text", text),
        ];
        let folder = foreign(columns, compression);
        let rows = rows(&config(folder.path()), ALL);
        assert_eq!(rows.len(), ROWS);
        for (number, row) in rows {
            let row = row.unwrap();
            assert_eq!(row.media, picture(number as usize), "{compression:?}");
            let first = if number % 3 > 0 {
                format!("{number}.0")
            } else {
                String::new()
            };
            assert_eq!(row.caption, first);
            assert_eq!(row.captions.len() as u64, number % 3);
            assert!(row.captions.iter().all(|caption| caption.weight == 1.0));
            assert!(row.latents.is_none() && row.text.is_none() && row.start == 0.0);
        }
    }
}

#[test]
fn a_wrong_hash_breaks_its_row_and_no_other() {
    let hash =
        |number: usize| xxhash_rust::xxh3::xxh3_64(&picture(number)) ^ u64::from(number == 4);
    let hashes: ArrayRef = Arc::new(UInt64Array::from_iter(
        (0..ROWS).map(|number| (number != 5).then(|| hash(number))),
    ));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"; ROWS]));
    let folder = foreign(
        vec![("media", pictures()), ("caption", text), ("hash", hashes)],
        Compression::UNCOMPRESSED,
    );
    let config = DataConfig {
        max_bad: 0.5,
        ..config(folder.path())
    };
    for (number, row) in rows(&config, Wanted::MEDIA) {
        assert_eq!(row.is_err(), number == 4, "{number}: {row:?}");
    }
    let mut loader =
        Loader::open(Arc::new(Catalog::open(&config).unwrap()), Part::WHOLE, 0).unwrap();
    (0..4).for_each(|_| drop(loader.next().unwrap()));
    let skips = &loader.skipped().first;
    assert!(skips.iter().all(|skip| skip.id.row == 4) && !skips.is_empty());
    assert!(
        skips[0].reason.contains("it is damaged"),
        "{}",
        skips[0].reason
    );
}

#[test]
fn brotli_is_called_unsupported_and_not_damaged() {
    // Three rows by pyarrow: media b"0" to b"2", caption "a", compressed by Brotli.
    let folder = tempfile::tempdir().unwrap();
    let shard = include_bytes!("brotli.parquet");
    std::fs::write(folder.path().join("a.parquet"), shard).unwrap();
    let error = Catalog::open(&config(folder.path())).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DataError::Unsupported { .. }), "{text}");
    assert!(
        text.contains("column media is compressed by BROTLI"),
        "{text}"
    );
}
