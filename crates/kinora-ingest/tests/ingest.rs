//! Whole ingests, of every kind of source.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use kinora_data::{Storage, StoreOptions};
use kinora_ingest::{
    ColumnNames, IngestConfig, IngestError, Look, MediaPlace, Options, Report, Rule, Searched,
    check, ingest, look,
};
use kinora_media::{Decoder, Window, audio_info, probe};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use support::{contents, images, mp4, png, put, run, small_shards, wav};
use tempfile::tempdir;

fn storage() -> Arc<Storage> {
    Storage::new(StoreOptions::default())
}

fn seen(out: &Path, random: usize) -> Look {
    let searched = Searched {
        random,
        ..Searched::default()
    };
    look(
        &[out.display().to_string()],
        &storage(),
        &ColumnNames::default(),
        &searched,
        |_, _| {},
    )
    .unwrap()
}

/// The rows of a data set by key.
fn rows(out: &Path) -> Vec<(String, kinora_ingest::Sample)> {
    let mut rows: Vec<_> = seen(out, 1000)
        .samples
        .into_iter()
        .map(|sample| (sample.columns["key"].as_str().unwrap().to_owned(), sample))
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn counts(report: &Report) -> Vec<(Rule, u64)> {
    report
        .dropped
        .iter()
        .map(|(&rule, dropped)| (rule, dropped.count))
        .collect()
}

#[test]
fn a_folder_with_odd_files_becomes_rows() {
    let place = tempdir().unwrap();
    let source = place.path().join("my photos");
    put(&source.join("a.png"), png(1, 40, 60));
    put(&source.join("a.txt"), "a plain one\n");
    put(&source.join("deep/er/b \u{fc}\u{1f600}.png"), png(2, 40, 60));
    put(
        &source.join("deep/er/b \u{fc}\u{1f600}.json"),
        r#"{"captions": ["x", {"text": "y", "weight": 3}], "licence": "CC0"}"#,
    );
    put(&source.join("c.png"), png(3, 40, 60));
    put(&source.join("d.mp4"), "this is no video");
    put(&source.join("d.txt"), "caption of no video");
    put(&source.join("e.png"), b"");
    put(&source.join("e.txt"), "empty");
    put(&source.join("f.png"), &png(4, 40, 60)[..300]);
    put(&source.join("f.txt"), "cut off");
    put(&source.join("g.png"), png(1, 40, 60));
    put(&source.join("g.txt"), "the same as a");
    put(&source.join("h.png"), png(5, 40, 60));
    put(&source.join("h.json"), "{");
    put(&source.join("alone.txt"), "nothing");
    put(&source.join("notes.md"), "nothing");
    put(&source.join(".hidden.png"), png(6, 40, 60));
    std::os::unix::fs::symlink(&source, source.join("loop")).unwrap();
    std::os::unix::fs::symlink(source.join("gone"), source.join("gone.png")).unwrap();
    let out = place.path().join("out");
    let done = run(&source, &out, &IngestConfig::default(), 2).unwrap();
    let report = done.report;
    assert_eq!(
        (report.items, report.kept, report.images),
        (9, 2, 2),
        "{report:?}"
    );
    assert_eq!(
        counts(&report),
        [
            (Rule::Broken, 5),
            (Rule::NoCaption, 1),
            (Rule::Duplicate, 1)
        ],
        "{report:?}"
    );
    assert!(
        report.sources[0].ignored[0].contains("1 captions"),
        "{report:?}"
    );
    let rows = rows(&out);
    let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a.png", "deep/er/b \u{fc}\u{1f600}.png"]);
    let (a, b) = (&rows[0].1, &rows[1].1);
    assert_eq!(a.caption, "a plain one");
    assert_eq!(a.media.as_ref().unwrap(), &png(1, 40, 60));
    assert_eq!(b.columns["captions"][1]["weight"], 3.0);
    let meta: Value = serde_json::from_str(b.columns["meta"].as_str().unwrap()).unwrap();
    assert_eq!(meta["licence"], "CC0");
    let dropped = fs::read_to_string(out.join("dropped.jsonl")).unwrap();
    assert_eq!(dropped.lines().count(), 7);
    for line in dropped.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(!line["reason"].as_str().unwrap().is_empty(), "{line}");
    }
    assert!(
        dropped.contains("e.png") && dropped.contains("it is empty"),
        "{dropped}"
    );
    let checked = check(&out.display().to_string(), &storage(), |_, _| {}).unwrap();
    assert_eq!(
        (checked.rows, checked.hashed, checked.faults.len()),
        (2, 2, 0)
    );
}

#[test]
fn clips_are_cut_into_scenes_that_decode_to_the_same_frames() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    let whole = mp4(&[24, 30, 20], 12.0);
    put(&source.join("film.mp4"), &whole);
    put(&source.join("film.txt"), "three colours");
    put(&source.join("film.wav"), wav(7.0));
    let out = place.path().join("out");
    let report = run(&source, &out, &IngestConfig::default(), 1)
        .unwrap()
        .report;
    assert_eq!(
        (report.kept, report.clips, report.sounds),
        (3, 1, 3),
        "{report:?}"
    );
    let mut decoder = Decoder::new();
    let original = decoder.decode(&whole).unwrap();
    let mut at = 0;
    for ((key, row), frames) in rows(&out).into_iter().zip([24usize, 30, 20]) {
        let number = |name: &str| row.columns[name].as_f64().unwrap();
        assert_eq!(number("frames") as usize, frames, "{key}");
        assert!(
            (number("duration") - frames as f64 / 12.0).abs() < 1e-6,
            "{key}"
        );
        let media = row.media.as_ref().unwrap();
        let part = decoder
            .window(media, Window::time(number("start"), 12.0, frames))
            .unwrap();
        assert_eq!(part.rgb, original.sample(at, frames).rgb, "{key}");
        let sound = audio_info(row.audio.as_ref().unwrap()).unwrap().unwrap();
        assert_eq!((sound.rate, sound.channels), (8000, 1));
        assert!(
            (sound.duration - frames as f64 / 12.0).abs() < 0.01,
            "{key}: {sound:?}"
        );
        at += frames;
    }
    // Whole, split and skipped.
    let mut config = IngestConfig::default();
    config.scenes.cut = false;
    let report = run(&source, &place.path().join("whole"), &config, 1)
        .unwrap()
        .report;
    assert_eq!(report.kept, 1);
    let kept = rows(&place.path().join("whole"));
    assert_eq!(kept[0].1.media.as_ref().unwrap(), &whole);
    assert_eq!(kept[0].1.audio.as_ref().unwrap(), &wav(7.0));
    let mut config = IngestConfig::default();
    config.scenes.max_seconds = Some(1.0);
    config.scenes.skip_start_seconds = 1.0;
    let report = run(&source, &place.path().join("split"), &config, 1)
        .unwrap()
        .report;
    assert_eq!(report.kept, 1 + 3 + 2, "{report:?}");
    for (key, row) in rows(&place.path().join("split")) {
        let number = |name: &str| row.columns[name].as_f64().unwrap();
        let info = probe(row.media.as_ref().unwrap()).unwrap();
        assert!(
            number("start") + number("duration") <= info.duration + 1e-3,
            "{key}: {info:?}"
        );
        assert!(
            (number("frames") - number("duration") * 12.0).abs() < 0.51,
            "{key}"
        );
    }
}

#[test]
fn each_filter_says_what_it_drops() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    let images = [
        ("ok", png(1, 64, 64)),
        ("small", png(2, 20, 64)),
        ("wide", png(3, 64, 300)),
        (
            "black",
            kinora_media::encode_png(&vec![0; 64 * 64 * 3], 64, 64).unwrap(),
        ),
        (
            "white",
            kinora_media::encode_png(&vec![255; 64 * 64 * 3], 64, 64).unwrap(),
        ),
    ];
    for (name, bytes) in images {
        put(&source.join(format!("{name}.png")), bytes);
        put(
            &source.join(format!("{name}.txt")),
            format!("{name} is its caption"),
        );
    }
    put(&source.join("still.mp4"), mp4(&[12], 12.0));
    put(&source.join("short.mp4"), mp4(&[4], 12.0));
    put(&source.join("short.txt"), "short is its caption");
    put(&source.join("slow.mp4"), mp4(&[12], 4.0));
    put(&source.join("slow.txt"), "slow is its caption");
    put(&source.join("words.png"), png(9, 64, 64));
    put(&source.join("words.txt"), "no");
    let mut config = IngestConfig::default();
    config.filters.min_side = 32;
    config.filters.aspect = Some([0.5, 2.0]);
    config.filters.min_fps = 8.0;
    config.filters.min_brightness = 0.05;
    config.filters.min_contrast = 0.01;
    config.captions.min_length = 5;
    let out = place.path().join("out");
    let report = run(&source, &out, &config, 2).unwrap().report;
    assert_eq!(
        counts(&report),
        [
            (Rule::NoCaption, 1),
            (Rule::CaptionLength, 1),
            (Rule::Size, 1),
            (Rule::Aspect, 1),
            (Rule::ShortScene, 1),
            (Rule::Fps, 1),
            (Rule::Brightness, 1),
            (Rule::Contrast, 1),
        ],
        "{report:?}"
    );
    assert_eq!(report.kept, 1);
}

/// A picture of broad waves, the same at any size.
fn waves(pace: f64, height: usize, width: usize) -> Vec<u8> {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (y, x) = (y as f64 / height as f64, x as f64 / width as f64);
            let light = (pace * 3.0 * x + 2.0 * y).sin() + (pace * 2.0 * y - x).cos();
            rgb.extend([((light + 2.0) * 60.0) as u8; 3]);
        }
    }
    kinora_media::encode_png(&rgb, height, width).unwrap()
}

#[test]
fn near_duplicates_are_dropped_and_the_first_stays() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    put(&source.join("b.png"), waves(3.0, 60, 80));
    put(&source.join("a.png"), waves(3.0, 120, 160));
    put(&source.join("c.png"), waves(5.0, 120, 160));
    let mut config = IngestConfig::default();
    config.captions.required = false;
    config.duplicates.near = Some(4);
    let out = place.path().join("out");
    let report = run(&source, &out, &config, 2).unwrap().report;
    assert_eq!(counts(&report), [(Rule::NearDuplicate, 1)], "{report:?}");
    let keys: Vec<String> = rows(&out).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a.png", "c.png"]);
}

fn tables(source: &Path) {
    for index in 0..3 {
        put(
            &source.join(format!("media/{index}.png")),
            png(index, 32, 32),
        );
    }
}

#[test]
fn json_lines_and_csv_name_media_and_hold_captions() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    tables(&source);
    let lines = concat!(
        "{\"path\": \"media/0.png\", \"caption\": \"zero\", \"id\": \"k0\", \"score\": 0.5}\n\n",
        "{\"path\": \"media/1.png\", \"captions\": [\"one\", {\"text\": \"uno\", \"weight\": 0.25}]}\n",
        "not json\n",
        "{\"path\": \"media/none.png\", \"caption\": \"gone\"}\n",
        "{\"caption\": \"no path\"}\n",
        "{\"path\": \"media/2.png\", \"caption\": \"two\"}"
    );
    put(&source.join("list.jsonl"), lines);
    let out = place.path().join("jsonl");
    let report = run(
        &source.join("list.jsonl"),
        &out,
        &IngestConfig::default(),
        2,
    )
    .unwrap()
    .report;
    assert_eq!((report.items, report.kept), (6, 3), "{report:?}");
    assert_eq!(counts(&report), [(Rule::Broken, 3)]);
    let found = rows(&out);
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["000002-1.png", "000006-2.png", "k0"]);
    let meta: Value = serde_json::from_str(found[2].1.columns["meta"].as_str().unwrap()).unwrap();
    assert_eq!(meta["score"], 0.5);

    put(
        &source.join("list.csv"),
        "file,words,who\nmedia/0.png,\"zero, with\na break\",me\nmedia/1.png,\"he said \"\"one\"\"\",\nmedia/2.png,two\n",
    );
    let mut config = IngestConfig::default();
    config.columns.caption = Some("words".into());
    let out = place.path().join("csv");
    let report = run(&source.join("list.csv"), &out, &config, 1)
        .unwrap()
        .report;
    assert_eq!(report.kept, 2, "{report:?}");
    assert!(
        report.dropped[&Rule::Broken].examples[0].contains("2 fields under 3 headings"),
        "{report:?}"
    );
    let found = rows(&out);
    assert_eq!(found[0].1.caption, "zero, with\na break");
    assert_eq!(found[1].1.caption, "he said \"one\"");
    config.columns.media = Some("url".into());
    let error = run(
        &source.join("list.csv"),
        &place.path().join("no"),
        &config,
        1,
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no column url; it has file, words, who"),
        "{error}"
    );
}

fn tar(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn tars_are_read_as_web_datasets() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    fs::create_dir(&source).unwrap();
    let long = format!("{}/007", "folder".repeat(30));
    let members = [
        ("000.png", png(0, 32, 32)),
        ("000.txt", b"zero".to_vec()),
        ("001.json", br#"{"caption": "one", "nsfw": 0.1}"#.to_vec()),
        ("001.left.png", png(1, 32, 32)),
        ("001.wav", wav(1.0)),
        ("002.cls", b"5".to_vec()),
        (&format!("{long}.png"), png(7, 32, 32)),
        (&format!("{long}.txt"), b"long".to_vec()),
    ];
    tar(
        &source.join("a.tar"),
        &members.clone().map(|(name, bytes)| (name, bytes)),
    );
    tar(
        &source.join("b.tar"),
        &[("000.png", png(20, 32, 32)), ("000.txt", b"b".to_vec())],
    );
    let bytes = fs::read(source.join("a.tar")).unwrap();
    fs::write(source.join("c.tar"), &bytes[..bytes.len() / 2]).unwrap();
    let out = place.path().join("out");
    let report = run(&source, &out, &IngestConfig::default(), 2)
        .unwrap()
        .report;
    assert_eq!(report.sources[0].kind.name(), "tar");
    let found = rows(&out);
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    let long_key = format!("a.tar/{long}.png");
    assert_eq!(
        keys,
        [
            "a.tar/000.png",
            "a.tar/001.left.png",
            &long_key,
            "b.tar/000.png"
        ]
    );
    assert_eq!(found[1].1.caption, "one");
    assert_eq!(found[1].1.audio.as_ref().unwrap(), &wav(1.0));
    assert!(
        report.dropped[&Rule::Broken]
            .examples
            .iter()
            .any(|line| line.contains("c.tar/end")),
        "{report:?}"
    );
    // What of c.tar could be read has the bytes of a.tar.
    assert!(report.dropped_by(Rule::Duplicate) >= 1, "{report:?}");
}

/// As Hugging Face stores images.
fn hugging_face(path: &Path, count: u32) {
    let mut bytes = BinaryBuilder::new();
    (0..count).for_each(|index| bytes.append_value(png(index, 32, 32)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..count).map(|index| format!("{index}.png")),
    ));
    let inner = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let images = StructArray::new(inner.clone(), vec![Arc::new(bytes.finish()), names], None);
    let texts = StringArray::from_iter_values((0..count).map(|index| format!("picture {index}")));
    let schema = Arc::new(Schema::new(vec![
        Field::new("image", DataType::Struct(inner), true),
        Field::new("text", DataType::Utf8, true),
        Field::new("label", DataType::Int64, true),
    ]));
    let labels = Int64Array::from_iter_values((0..i64::from(count)).map(|label| label * 2));
    let columns: Vec<ArrayRef> = vec![Arc::new(images), Arc::new(texts), Arc::new(labels)];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
    for start in (0..count as usize).step_by(5) {
        let length = 5.min(count as usize - start);
        writer.write(&batch.slice(start, length)).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_of_other_schemas_is_read_and_looked_into() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    fs::create_dir(&source).unwrap();
    hugging_face(&source.join("train-0.parquet"), 12);
    put(&source.join("train-1.parquet"), "damaged");
    let out = place.path().join("out");
    let report = run(&source, &out, &small_shards(), 2).unwrap().report;
    assert_eq!((report.items, report.kept), (13, 12), "{report:?}");
    let found = rows(&out);
    let row = &found
        .iter()
        .find(|(key, _)| key == "train-0.parquet:7")
        .unwrap()
        .1;
    assert_eq!(row.caption, "picture 7");
    assert_eq!(row.media.as_ref().unwrap(), &png(7, 32, 32));
    let meta: Value = serde_json::from_str(row.columns["meta"].as_str().unwrap()).unwrap();
    assert_eq!(meta["label"], 14);
    let look = seen(&source, 3);
    assert_eq!(
        (look.rows, look.images, look.unreadable, look.samples.len()),
        (12, 12, 1, 3)
    );
    assert!(
        look.measured && look.examples[0].contains("train-1.parquet"),
        "{look:?}"
    );
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 60);
    put(&source.join("zz.mp4"), mp4(&[20, 20], 10.0));
    put(&source.join("zz.txt"), "film");
    put(&source.join("01/bad.png"), "bad");
    put(&source.join("01/bad.txt"), "bad");
    let first = place.path().join("first");
    run(&source, &first, &small_shards(), 1).unwrap();
    let expected = contents(&first);
    assert!(expected.len() > 8, "several shards");
    for jobs in [2, 5] {
        let out = place.path().join(format!("jobs{jobs}"));
        run(&source, &out, &small_shards(), jobs).unwrap();
        assert!(contents(&out) == expected, "{jobs} threads");
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 47);
    for index in 0..6 {
        // Clips of scenes, so that shards end inside of items.
        put(
            &source.join(format!("{index:02}/film.mp4")),
            mp4(&[8 + index, 9, 10, 8], 10.0),
        );
        put(&source.join(format!("{index:02}/film.txt")), "film");
        put(
            &source.join(format!("{index:02}/zz.png")),
            png(index as u32, 24, 32),
        );
        put(&source.join(format!("{index:02}/zz.txt")), "a duplicate");
    }
    let mut config = small_shards();
    config.duplicates.near = Some(0);
    let first = place.path().join("first");
    run(&source, &first, &config, 2).unwrap();
    let expected = contents(&first);
    let total = 47 + 12;
    for stop in (0..total).step_by(3) {
        let out = place.path().join(format!("stop{stop}"));
        let options = Options {
            jobs: 2,
            ..Options::default()
        };
        // A panic ends it between two items, with nothing tidied up.
        let stopped = std::panic::catch_unwind(|| {
            ingest(
                std::slice::from_ref(&source),
                &out,
                &config,
                options,
                |progress| {
                    assert!(progress.items < stop, "stopped by the test");
                },
            )
        });
        assert!(stopped.is_err(), "it was stopped at {stop}");
        // What a killed process leaves behind.
        put(&out.join(".shard-00003.parquet.partial-99"), "half");
        let again = run(&source, &out, &config, 1).unwrap();
        assert!(again.fresh);
        assert!(contents(&out) == expected, "stopped at item {stop}");
        let third = run(&source, &out, &config, 1).unwrap();
        assert!(!third.fresh && contents(&out) == expected);
    }
}

#[test]
fn other_settings_and_changed_sources_are_refused_by_name() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 5);
    let out = place.path().join("out");
    let config = IngestConfig::default();
    run(&source, &out, &config, 1).unwrap();
    let mut other = config.clone();
    other.filters.min_side = 10;
    other.max_bad = 0.5;
    let error = run(&source, &out, &other, 1).unwrap_err();
    assert!(
        matches!(&error, IngestError::Other { differences, .. } if differences.len() == 1),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("ingest.filters.min_side was 0, and is 10"),
        "{error}"
    );
    put(&source.join("new.png"), png(99, 24, 32));
    let error = run(&source, &out, &config, 1).unwrap_err();
    assert!(error.to_string().contains("5 items, and has 6"), "{error}");
    assert!(error.to_string().contains("new.png"), "{error}");
    let used = place.path().join("used");
    put(&used.join("precious.txt"), "mine");
    let error = run(&source, &used, &config, 1).unwrap_err();
    assert!(error.to_string().contains("precious.txt"), "{error}");
    fs::remove_file(out.join("shard-00000.parquet")).unwrap();
    fs::remove_file(source.join("new.png")).unwrap();
    let error = run(&source, &out, &config, 1).unwrap_err();
    assert!(
        error.to_string().contains("is gone or has changed"),
        "{error}"
    );
}

#[test]
fn too_many_broken_files_stop_it_and_it_can_go_on() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 30);
    for index in 0..12 {
        put(&source.join(format!("03/bad{index}.png")), "bad");
        put(&source.join(format!("03/bad{index}.txt")), "bad");
    }
    let out = place.path().join("out");
    let mut config = IngestConfig::default();
    let error = run(&source, &out, &config, 2).unwrap_err();
    assert!(matches!(error, IngestError::TooManyBad { .. }), "{error}");
    assert!(error.to_string().contains("03/bad0.png"), "{error}");
    config.max_bad = 0.9;
    let report = run(&source, &out, &config, 2).unwrap().report;
    assert_eq!((report.kept, report.dropped_by(Rule::Broken)), (30, 12));
}

#[test]
fn media_can_stay_where_they_are() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 3);
    put(&source.join("film.mp4"), mp4(&[20, 20], 10.0));
    put(&source.join("film.txt"), "film");
    let config = IngestConfig {
        media: MediaPlace::Uri,
        ..IngestConfig::default()
    };
    let error = run(&source, &place.path().join("out"), &config, 1).unwrap_err();
    assert!(error.to_string().contains("does not lie in"), "{error}");
    let report = run(&source, &source, &config, 2).unwrap().report;
    assert_eq!((report.kept, report.kept_bytes), (5, 0), "{report:?}");
    let found = rows(&source);
    let film = &found
        .iter()
        .find(|(key, _)| key == "film.mp4#001")
        .unwrap()
        .1;
    assert_eq!(film.columns["uri"], "film.mp4");
    assert_eq!(film.columns["start"], 2.0);
    assert_eq!(
        film.media.as_ref().unwrap(),
        &fs::read(source.join("film.mp4")).unwrap()
    );
    assert!(!run(&source, &source, &config, 2).unwrap().fresh);
    let checked = check(&source.display().to_string(), &storage(), |_, _| {}).unwrap();
    assert_eq!((checked.hashed, checked.faults.len()), (5, 0));
    put(&source.join("film.mp4"), mp4(&[20, 21], 10.0));
    let checked = check(&source.display().to_string(), &storage(), |_, _| {}).unwrap();
    assert_eq!(checked.faults.len(), 2, "{checked:?}");
    assert!(
        checked.faults[0].place.contains("film.mp4#000"),
        "{checked:?}"
    );
}

#[test]
fn a_check_names_each_fault() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 35);
    let out = place.path().join("out");
    run(&source, &out, &small_shards(), 2).unwrap();
    let name = |number: u32| out.join(format!("shard-{number:05}.parquet"));
    fs::remove_file(name(0)).unwrap();
    let mut bytes = fs::read(name(1)).unwrap();
    let at = bytes
        .windows(8)
        .position(|window| window == b"\x89PNG\r\n\x1a\n")
        .unwrap();
    bytes[at + 60] ^= 1;
    fs::write(name(1), bytes).unwrap();
    let bytes = fs::read(name(2)).unwrap();
    fs::write(name(2), &bytes[..bytes.len() - 9]).unwrap();
    fs::copy(name(3), out.join("extra.parquet")).unwrap();
    let checked = check(&out.display().to_string(), &storage(), |_, _| {}).unwrap();
    let all: Vec<String> = checked
        .faults
        .iter()
        .map(|fault| format!("{}: {}", fault.place, fault.what))
        .collect();
    for expected in [
        "shard-00000.parquet: it is in the manifest, and missing",
        "shard-00001.parquet: its hash is",
        "shard-00001.parquet:0 (",
        "shard-00002.parquet: it has",
        "extra.parquet: it is not in the manifest",
    ] {
        assert!(
            all.iter().any(|fault| fault.starts_with(expected)),
            "{expected}: {all:#?}"
        );
    }
}

#[test]
fn ten_thousand_small_images_go_in_quickly() {
    let place = tempdir().unwrap();
    let source = place.path().join("in");
    images(&source, 10_000);
    let mut times = Vec::new();
    for jobs in [1, 2] {
        let began = Instant::now();
        let out = place.path().join(format!("out{jobs}"));
        let report = run(&source, &out, &IngestConfig::default(), jobs)
            .unwrap()
            .report;
        times.push(began.elapsed().as_secs_f64());
        assert_eq!(report.items, 10_000);
        assert!(report.kept > 9_000, "{:?}", counts(&report));
    }
    println!(
        "10,000 images of 24x32: {:.1} s with one thread, {:.1} s with two",
        times[0], times[1]
    );
    assert!(times.iter().all(|&time| time < 120.0), "{times:?}");
}
