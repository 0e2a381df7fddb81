//! Data sets from disk to batches: what is read, in which order, and what happens when it is bad.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use kinora_data::{
    Batch, Bucket, Caption, Catalog, DataConfig, DataError, Loader, Part, Row, SampleId,
    ShardOptions, ShardWriter,
};
use kinora_media::{Clip, encode_mp4, encode_png};
use proptest::prelude::*;
use tempfile::TempDir;

/// A clip whose first pixel says which clip it is, and whose frames get brighter.
fn clip(number: usize, frames: usize, [height, width]: [usize; 2]) -> Clip {
    let rgb = (0..frames)
        .flat_map(|t| {
            let pixel = [
                (number % 16 * 16) as u8,
                (number / 16 * 16) as u8,
                8 + 10 * t as u8,
            ];
            pixel.repeat(height * width)
        })
        .collect();
    Clip {
        frames,
        height,
        width,
        fps: 8.0,
        rgb,
    }
}

fn media(clip: &Clip) -> Vec<u8> {
    match clip.frames {
        1 => encode_png(&clip.rgb, clip.height, clip.width).unwrap(),
        _ => encode_mp4(clip).unwrap(),
    }
}

struct Set {
    folder: TempDir,
}

impl Set {
    /// Shards of samples with these frames, in groups and files of so many rows.
    fn write(frames: &[usize], rows_per_group: usize, rows_per_shard: usize) -> Self {
        Self::write_with(frames, rows_per_group, rows_per_shard, |_, media| media)
    }

    fn write_with(
        frames: &[usize],
        rows_per_group: usize,
        rows_per_shard: usize,
        change: impl Fn(usize, Vec<u8>) -> Vec<u8>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = ShardOptions {
            rows_per_group,
            rows_per_shard,
            ..ShardOptions::default()
        };
        let mut writer = ShardWriter::create(folder.path(), options).unwrap();
        let mut cache = HashMap::new();
        for (number, &frames) in frames.iter().enumerate() {
            let clip = clip(number % 256, frames, [16, 16]);
            let bytes = cache
                .entry((number % 256, frames))
                .or_insert_with(|| media(&clip))
                .clone();
            let media = change(number, bytes);
            let captions = Caption::one(format!("clip {number}"));
            let row = Row::new("", &media, &captions, [frames, 16, 16], 8.0);
            writer.push(&row).unwrap();
        }
        writer.finish().unwrap();
        Self { folder }
    }

    fn config(&self, buckets: &[(usize, usize)]) -> DataConfig {
        let buckets = buckets
            .iter()
            .map(|&(frames, batch)| Bucket::new(frames, 16, 16, batch))
            .collect();
        DataConfig {
            workers: 0,
            ..DataConfig::new(vec![text(self.folder.path())], buckets)
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn catalog(config: &DataConfig) -> Arc<Catalog> {
    Arc::new(Catalog::open(config).unwrap())
}

fn batches(config: &DataConfig, part: Part, first: u64, count: usize) -> Vec<Batch> {
    let mut loader = Loader::open(catalog(config), part, first).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

fn ids(batches: &[Batch]) -> Vec<SampleId> {
    batches
        .iter()
        .flat_map(|batch| &batch.samples)
        .map(|sample| sample.id.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_holds_every_sample_once(
        samples in 1usize..90,
        rows_per_group in 1usize..12,
        rows_per_shard in 1usize..40,
        batch in 1usize..9,
        seed in 0u64..1000,
    ) {
        let set = Set::write(&vec![1; samples], rows_per_group, rows_per_shard);
        let config = DataConfig { seed, ..set.config(&[(1, batch)]) };
        let steps = (3 * samples).div_ceil(batch);
        let taken = batches(&config, Part::WHOLE, 0, steps);
        let mut epochs: HashMap<u64, Vec<SampleId>> = HashMap::new();
        for sample in taken.iter().flat_map(|batch| &batch.samples) {
            epochs.entry(sample.epoch).or_default().push(sample.id.clone());
        }
        for epoch in 0..3 {
            let seen = &epochs[&epoch];
            prop_assert_eq!(seen.len(), samples);
            prop_assert_eq!(seen.iter().collect::<HashSet<_>>().len(), samples);
        }
        if samples > 12 {
            prop_assert_ne!(&epochs[&0], &epochs[&1]);
        }
    }

    #[test]
    fn batches_do_not_depend_on_parts_workers_or_prefetch(
        samples in 1usize..60,
        rows_per_group in 1usize..12,
        of in 1usize..5,
        batch in 5usize..9,
        workers in 0usize..4,
        prefetch in 1usize..6,
        first in 0u64..40,
        seed in 0u64..1000,
    ) {
        let frames: Vec<usize> = (0..samples + 4).map(|i| [1, 4, 1, 6][i % 4]).collect();
        let set = Set::write(&frames, rows_per_group, 32);
        let config = DataConfig { seed, ..set.config(&[(1, batch), (4, of + 1), (6, of)]) };
        let whole = batches(&config, Part::WHOLE, 0, first as usize + 6);
        prop_assert!(whole.iter().zip(0..).all(|(batch, step)| batch.step == step));
        let other = DataConfig { workers, prefetch, ..config };
        let mut parts: Vec<Batch> = Vec::new();
        for index in 0..of {
            let part = batches(&other, Part { index, of }, first, 6);
            for (at, batch) in part.into_iter().enumerate() {
                match parts.get_mut(at) {
                    Some(start) => start.samples.extend(batch.samples),
                    None => parts.push(batch),
                }
            }
        }
        prop_assert_eq!(&parts[..], &whole[first as usize..]);
        for batch in &whole {
            let positions: Vec<u64> = batch.samples.iter().map(|s| s.position).collect();
            prop_assert_eq!(positions, (0..batch.bucket.batch as u64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn resuming_twice_gives_the_batches_of_a_run_without_a_stop() {
    let frames: Vec<usize> = (0..50).map(|i| if i % 3 == 0 { 1 } else { 4 }).collect();
    let set = Set::write(&frames, 7, 20);
    let config = set.config(&[(1, 4), (4, 3)]);
    let whole = batches(&config, Part::WHOLE, 0, 30);
    let mut pieces = batches(&config, Part::WHOLE, 0, 7);
    pieces.extend(batches(&config, Part::WHOLE, 7, 12));
    pieces.extend(batches(&config, Part::WHOLE, 19, 11));
    assert_eq!(pieces, whole);
}

#[test]
fn captions_and_pixels_belong_together() {
    let set = Set::write(&[4; 40], 8, 16);
    for batch in batches(&set.config(&[(4, 8)]), Part::WHOLE, 0, 5) {
        for sample in batch.samples {
            let number: usize = sample
                .caption
                .strip_prefix("clip ")
                .unwrap()
                .parse()
                .unwrap();
            let shard = format!("shard-{:05}.parquet", number / 16);
            assert_eq!(
                (&*sample.id.shard, sample.id.row),
                (shard.as_str(), number as u64 % 16)
            );
            let wanted = clip(number, 4, [16, 16]);
            assert!(
                wanted
                    .rgb
                    .iter()
                    .zip(&sample.clip().rgb)
                    .all(|(a, b)| a.abs_diff(*b) <= 4)
            );
            assert_eq!((sample.clip().frames, sample.clip().fps), (4, 8.0));
        }
    }
}

#[test]
fn a_long_clip_gives_another_window_in_each_epoch() {
    let set = Set::write(&[12; 6], 3, 6);
    let config = set.config(&[(4, 6)]);
    let mut starts: HashMap<String, Vec<u8>> = HashMap::new();
    for batch in batches(&config, Part::WHOLE, 0, 12) {
        for sample in batch.samples {
            let blue: Vec<u8> = (0..4).map(|t| sample.clip().frame(t)[2]).collect();
            // Frames of a window follow each other.
            assert!(
                blue.windows(2)
                    .all(|pair| (8..=12).contains(&(pair[1] - pair[0]))),
                "{blue:?}"
            );
            starts
                .entry(sample.caption)
                .or_default()
                .push((blue[0] - 4) / 10);
        }
    }
    let all: HashSet<u8> = starts.values().flatten().copied().collect();
    assert!(all.len() >= 7, "of 9 starts, 72 draws gave {all:?}");
    assert!(all.iter().all(|&start| start <= 8));
    assert!(
        starts
            .values()
            .all(|starts| starts.iter().collect::<HashSet<_>>().len() > 2)
    );
}

#[test]
fn images_come_in_their_share_of_steps() {
    let frames: Vec<usize> = (0..40).map(|i| if i % 2 == 0 { 1 } else { 4 }).collect();
    let set = Set::write(&frames, 10, 40);
    for ratio in [0.1, 0.25, 0.9] {
        let config = DataConfig {
            image_ratio: Some(ratio),
            ..set.config(&[(1, 2), (4, 2)])
        };
        let taken = batches(&config, Part::WHOLE, 0, 400);
        let images = taken.iter().filter(|batch| batch.bucket.is_image()).count();
        let share = images as f64 / 400.0;
        assert!((share - ratio).abs() < 0.07, "{share} instead of {ratio}");
    }
}

#[test]
fn buckets_of_a_kind_go_through_their_samples_at_the_same_pace() {
    // 60 clips of 4 frames and 20 of 6, with batches of 2 and 4.
    let frames: Vec<usize> = (0..80).map(|i| if i % 4 == 0 { 6 } else { 4 }).collect();
    let set = Set::write(&frames, 10, 80);
    let taken = batches(&set.config(&[(4, 2), (6, 4)]), Part::WHOLE, 0, 700);
    let epochs = |frames| {
        let of_bucket = taken.iter().filter(|batch| batch.bucket.frames == frames);
        of_bucket
            .flat_map(|batch| &batch.samples)
            .map(|sample| sample.epoch)
            .max()
            .unwrap()
    };
    let (short, long) = (epochs(4) as f64, epochs(6) as f64);
    assert!(
        (short - 20.0).abs() <= 2.0 && (long - 20.0).abs() <= 5.0,
        "{short} and {long}"
    );
}

#[test]
fn bad_samples_are_replaced_counted_and_named() {
    let spoil = |number, media: Vec<u8>| match number {
        5 => media[..media.len() / 2].to_vec(),
        17 => b"not a film".to_vec(),
        _ => media,
    };
    let set = Set::write_with(&[4; 40], 8, 16, spoil);
    let config = DataConfig {
        max_bad: 0.2,
        ..set.config(&[(4, 8)])
    };
    let mut loader = Loader::open(catalog(&config), Part::WHOLE, 0).unwrap();
    let taken: Vec<Batch> = (0..5).map(|_| loader.next().unwrap()).collect();
    assert!(taken.iter().all(|batch| batch.samples.len() == 8));
    let bad: HashSet<(String, u64)> = [
        ("shard-00000.parquet".into(), 5),
        ("shard-00001.parquet".into(), 1),
    ]
    .into();
    assert!(
        ids(&taken)
            .iter()
            .all(|id| !bad.contains(&(id.shard.to_string(), id.row)))
    );
    let skipped = loader.skipped();
    let named: HashSet<_> = skipped
        .first
        .iter()
        .map(|skip| (skip.id.shard.to_string(), skip.id.row))
        .collect();
    assert_eq!(named, bad);
    assert!(skipped.bad >= 2 && skipped.tried == 40 + skipped.bad);
    assert!(skipped.first.iter().all(|skip| !skip.reason.is_empty()));

    // The parts replace them by the same samples.
    let halves: Vec<Vec<Batch>> = (0..2)
        .map(|index| batches(&config, Part { index, of: 2 }, 0, 5))
        .collect();
    for (step, batch) in taken.iter().enumerate() {
        let both = [&halves[0][step], &halves[1][step]]
            .map(|half| half.samples.clone())
            .concat();
        assert_eq!(both, batch.samples);
    }
}

#[test]
fn too_many_bad_samples_stop_with_the_worst_shard() {
    for workers in [0, 2] {
        let spoil = |number, media| {
            if (16..26).contains(&number) {
                vec![1, 2, 3]
            } else {
                media
            }
        };
        let set = Set::write_with(&[4; 48], 8, 16, spoil);
        let config = DataConfig {
            workers,
            ..set.config(&[(4, 8)])
        };
        let mut loader = Loader::open(catalog(&config), Part::WHOLE, 0).unwrap();
        let error = (0..20)
            .find_map(|_| loader.next().err())
            .expect("a fifth is bad");
        assert!(matches!(error, DataError::TooManyBad { .. }));
        let text = error.to_string();
        assert!(
            text.contains("worst is shard shard-00001.parquet"),
            "{text}"
        );
        assert!(text.contains("max_bad = 0.01"), "{text}");
        assert!(matches!(loader.next(), Err(DataError::Ended { .. })));
    }
}

#[test]
fn a_set_without_a_good_sample_ends_instead_of_searching_for_ever() {
    let set = Set::write_with(&[4; 3], 8, 16, |_, _| vec![0; 10]);
    let mut loader = Loader::open(catalog(&set.config(&[(4, 2)])), Part::WHOLE, 0).unwrap();
    assert!(matches!(loader.next(), Err(DataError::TooManyBad { .. })));
}

#[test]
fn columns_that_lie_about_frames_are_found() {
    let short = media(&clip(1, 2, [16, 16]));
    let set = Set::write_with(&[4; 30], 8, 64, |number, media| {
        if number == 9 { short.clone() } else { media }
    });
    let config = DataConfig {
        max_bad: 1.0,
        ..set.config(&[(4, 10)])
    };
    let mut loader = Loader::open(catalog(&config), Part::WHOLE, 0).unwrap();
    (0..3).for_each(|_| assert_eq!(loader.next().unwrap().samples.len(), 10));
    assert_eq!(loader.skipped().first[0].id.row, 9);
    assert!(loader.skipped().first[0].reason.contains("2 frames"));
}

#[test]
fn two_loaders_read_the_same_shards_at_once() {
    let set = Set::write(&[4; 60], 8, 16);
    let config = DataConfig {
        workers: 2,
        ..set.config(&[(4, 6)])
    };
    let alone = batches(&config, Part::WHOLE, 0, 20);
    let catalog = catalog(&config);
    let mut loaders = [0, 1].map(|_| Loader::open(catalog.clone(), Part::WHOLE, 0).unwrap());
    for wanted in &alone {
        for loader in &mut loaders {
            assert_eq!(&loader.next().unwrap(), wanted);
        }
    }
}

#[test]
fn dropping_a_loader_ends_its_threads_promptly() {
    let set = Set::write(&[4; 60], 8, 16);
    let config = DataConfig {
        workers: 4,
        prefetch: 50,
        ..set.config(&[(4, 6)])
    };
    let catalog = catalog(&config);
    let start = std::time::Instant::now();
    for _ in 0..5 {
        let mut loader = Loader::open(catalog.clone(), Part::WHOLE, 0).unwrap();
        loader.next().unwrap();
    }
    assert!(start.elapsed().as_secs() < 20);
    // The threads held the only other references.
    assert_eq!(Arc::strong_count(&catalog), 1);
}

#[test]
fn clips_that_fit_no_bucket_are_counted() {
    let frames = [[3; 5].as_slice(), &[4; 7], &[9; 2], &[1; 4]].concat();
    let set = Set::write(&frames, 8, 64);
    let catalog = Catalog::open(&set.config(&[(4, 2), (8, 2)])).unwrap();
    assert_eq!(catalog.samples(), [7, 2]);
    let left = catalog.left_out();
    assert_eq!(
        (
            left.too_short,
            left.no_bucket,
            left.unreadable,
            left.total()
        ),
        (5, 4, 0, 9)
    );
}

#[test]
fn an_empty_bucket_is_an_error_that_says_what_there_is() {
    let set = Set::write(&[4; 7], 8, 64);
    let error = Catalog::open(&set.config(&[(4, 2), (1, 2)])).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DataError::EmptyBucket { .. }));
    assert!(
        text.contains("images of 16x16") && text.contains("7 of 4 frames of 16x16"),
        "{text}"
    );
}

#[test]
fn a_summary_counts_everything() {
    let set = Set::write(&[4, 4, 1, 4, 2, 4], 2, 4);
    let summary = Catalog::open(&set.config(&[(4, 2), (1, 1)]))
        .unwrap()
        .summary()
        .unwrap();
    assert_eq!(
        (summary.shards, summary.row_groups, summary.rows),
        (2, 3, 6)
    );
    assert_eq!(
        summary
            .buckets
            .iter()
            .map(|b| b.samples)
            .collect::<Vec<_>>(),
        [4, 1]
    );
    assert_eq!(
        (summary.captions.shortest, summary.captions.longest),
        (6, 6)
    );
    assert!(summary.bytes > 1000);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["left_out"]["too_short"], 1);
    assert_eq!(json["columns"][0], serde_json::json!(["key", "Utf8"]));
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let set = Set::write(&[4; 20], 8, 64);
    let config = set.config(&[(4, 2)]);
    let path = set.folder.path().join("shard-00000.parquet");
    let whole = fs::read(&path).unwrap();
    let open = |config: &DataConfig| Catalog::open(config).map(|_| ()).unwrap_err();

    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = open(&config);
    assert!(matches!(error, DataError::Manifest { .. }), "{error}");
    fs::remove_file(set.folder.path().join("manifest.json")).unwrap();
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open(&config);
        assert!(matches!(error, DataError::Shard { .. }), "{error}");
        assert!(error.to_string().contains("shard-00000.parquet"), "{error}");
    }
    fs::write(&path, &whole).unwrap();

    let mut wrong = config.clone();
    wrong.columns.caption = "text".into();
    let error = open(&wrong);
    assert!(
        error
            .to_string()
            .contains("no column \"text\"; it has key, media, uri"),
        "{error}"
    );
    wrong.columns.caption = "fps".into();
    assert!(matches!(open(&wrong), DataError::ColumnType { .. }));
    wrong = config.clone();
    wrong.columns.media = "caption".into();
    assert!(matches!(open(&wrong), DataError::ColumnType { .. }));
    wrong = config.clone();
    wrong.columns.height = "caption".into();
    assert!(matches!(open(&wrong), DataError::ColumnType { .. }));

    let empty = tempfile::tempdir().unwrap();
    for path in [empty.path(), Path::new("no/such/folder")] {
        let missing = DataConfig {
            paths: vec![text(path)],
            ..config.clone()
        };
        assert!(matches!(open(&missing), DataError::NoFile { .. }));
    }
}

#[test]
fn damage_inside_a_shard_is_skipped_or_stops_but_never_panics() {
    let set = Set::write(&[4; 40], 8, 64);
    let config = DataConfig {
        max_bad: 1.0,
        ..set.config(&[(4, 8)])
    };
    let path = set.folder.path().join("shard-00000.parquet");
    let whole = fs::read(&path).unwrap();
    for at in (4..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xFF;
        damaged[(at + 1).min(whole.len() - 1)] ^= 0xFF;
        fs::write(&path, &damaged).unwrap();
        let Ok(catalog) = Catalog::open(&config) else {
            continue;
        };
        let mut loader = Loader::open(Arc::new(catalog), Part::WHOLE, 0).unwrap();
        for _ in 0..5 {
            match loader.next() {
                Ok(batch) => assert_eq!(batch.samples.len(), 8),
                Err(error) => {
                    assert!(
                        !matches!(error, DataError::Panic { .. }),
                        "byte {at}: {error}"
                    );
                    break;
                }
            }
        }
    }
}

#[test]
fn more_parts_than_samples_in_a_batch_are_refused() {
    let set = Set::write(&[4; 8], 8, 64);
    let catalog = catalog(&set.config(&[(4, 2)]));
    let error = Loader::open(catalog.clone(), Part { index: 0, of: 3 }, 0)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("a batch of 2, but 3 data groups"),
        "{error}"
    );
    assert!(Loader::open(catalog, Part { index: 2, of: 2 }, 0).is_err());
}

#[test]
fn a_writer_refuses_to_mix_two_data_sets() {
    let set = Set::write(&[1; 3], 8, 64);
    let error = ShardWriter::create(set.folder.path(), ShardOptions::default())
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("already holds the shard shard-00000.parquet"),
        "{error}"
    );
}

#[test]
fn an_unfinished_shard_is_never_seen() {
    let folder = tempfile::tempdir().unwrap();
    let options = ShardOptions {
        rows_per_group: 1,
        rows_per_shard: 3,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder.path(), options).unwrap();
    let media = media(&clip(0, 1, [8, 8]));
    let captions = Caption::one("");
    let row = Row::new("", &media, &captions, [1, 8, 8], 0.0);
    (0..5).for_each(|_| writer.push(&row).unwrap());
    drop(writer);
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["shard-00000.parquet"]);
}
