//! The promises of the order: each sample once an epoch, the same global batches for any ranks,
//! threads and prefetch, from any step on, of one data set or of a mixture.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kinora_data::{
    Bucket, Caption, Catalog, DataConfig, Loader, Part, Row, SampleId, SetConfig, ShardOptions,
    ShardWriter,
};
use kinora_media::{Clip, encode_mp4, encode_png};
use proptest::prelude::*;
use tempfile::TempDir;

/// Media of so many frames, made once.
fn media(frames: usize) -> Vec<u8> {
    use std::sync::{Mutex, OnceLock};
    static MADE: OnceLock<Mutex<HashMap<usize, Vec<u8>>>> = OnceLock::new();
    let made = MADE.get_or_init(Mutex::default);
    let mut made = made.lock().unwrap();
    let make = || {
        let clip = Clip {
            frames,
            height: 16,
            width: 16,
            fps: 8.0,
            rgb: vec![99; frames * 16 * 16 * 3],
        };
        match frames {
            1 => encode_png(&clip.rgb, 16, 16).unwrap(),
            _ => encode_mp4(&clip).unwrap(),
        }
    };
    made.entry(frames).or_insert_with(make).clone()
}

fn write(folder: &Path, name: &str, frames: &[usize], per_group: usize, per_shard: usize) {
    let options = ShardOptions {
        rows_per_group: per_group,
        rows_per_shard: per_shard,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(&folder.join(name), options).unwrap();
    for (number, &frames) in frames.iter().enumerate() {
        let key = format!("{name}-{number}");
        let captions = Caption::one(key.clone());
        let bytes = media(frames);
        let row = Row::new(&key, &bytes, &captions, [frames, 16, 16], 8.0);
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
}

/// A case: data sets of rows with some frames, their weights, batches of images and videos, a seed.
#[derive(Clone, Debug)]
struct Case {
    sets: Vec<(Vec<usize>, f64)>,
    weighted: bool,
    batches: [usize; 2],
    rows: [usize; 2],
    seed: u64,
    ratio: Option<f64>,
}

fn cases(sets: usize) -> impl Strategy<Value = Case> {
    let frames = prop::collection::vec(prop_oneof![Just(1usize), Just(4), Just(5)], 6..40);
    (
        prop::collection::vec((frames, 0.2..3.0_f64), sets),
        any::<bool>(),
        [8..12usize, 8..12usize],
        [1..7usize, 5..17usize],
        0..1000u64,
        prop::option::of(0.2..0.8_f64),
    )
        .prop_map(|(mut sets, weighted, batches, rows, seed, ratio)| {
            for (frames, _) in &mut sets {
                frames.extend([1, 4]);
            }
            Case {
                sets,
                weighted,
                batches,
                rows,
                seed,
                ratio,
            }
        })
}

struct Made {
    _folder: TempDir,
    config: DataConfig,
    rows: usize,
}

fn make(case: &Case) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let mut sets = Vec::new();
    for (number, (frames, weight)) in case.sets.iter().enumerate() {
        let name = format!("set{number}");
        write(folder.path(), &name, frames, case.rows[0], case.rows[1]);
        sets.push(SetConfig {
            paths: vec![folder.path().join(&name).to_string_lossy().into_owned()],
            name,
            weight: case.weighted.then_some(*weight),
            columns: None,
        });
    }
    let config = DataConfig {
        sets,
        image_ratio: case.ratio,
        seed: case.seed,
        workers: 0,
        ..DataConfig::new(
            vec![],
            vec![
                Bucket::new(1, 16, 16, case.batches[0]),
                Bucket::new(4, 16, 16, case.batches[1]),
            ],
        )
    };
    Made {
        _folder: folder,
        config,
        rows: case.sets.iter().map(|(frames, _)| frames.len()).sum(),
    }
}

/// What a step takes: its bucket's frames and, by position, the samples with their epochs and captions.
type Step = (usize, BTreeMap<u64, (SampleId, u64, String)>);

/// The steps of one part of the batches, from a step on.
fn steps(config: &DataConfig, part: Part, from: u64, count: usize) -> Vec<Step> {
    let catalog = Arc::new(Catalog::open(config).unwrap());
    let mut loader = Loader::open(catalog, part, from).unwrap();
    (0..count)
        .map(|at| {
            let batch = loader.next().unwrap();
            assert_eq!(batch.step, from + at as u64);
            let samples = batch.samples.into_iter();
            let samples = samples.map(|s| (s.position, (s.id, s.epoch, s.caption)));
            (batch.bucket.frames, samples.collect())
        })
        .collect()
}

/// The same steps, put together from all parts.
fn together(config: &DataConfig, parts: usize, from: u64, count: usize) -> Vec<Step> {
    let mut whole: Vec<Step> = Vec::new();
    for index in 0..parts {
        let part = steps(config, Part { index, of: parts }, from, count);
        if whole.is_empty() {
            whole = part;
            continue;
        }
        for ((frames, samples), (other, more)) in whole.iter_mut().zip(part) {
            assert_eq!(*frames, other, "all data groups draw from one bucket");
            for (position, sample) in more {
                let before = samples.insert(position, sample);
                assert!(before.is_none(), "position {position} was drawn twice");
            }
        }
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn each_sample_once_an_epoch(case in cases(1)) {
        let made = make(&case);
        // So many steps that every bucket begins its third epoch.
        let all = steps(&made.config, Part::WHOLE, 0, 60);
        let mut seen: HashMap<(usize, u64), Vec<SampleId>> = HashMap::new();
        for (frames, samples) in &all {
            for (id, epoch, _) in samples.values() {
                seen.entry((*frames, *epoch)).or_default().push(id.clone());
            }
        }
        let count = |image: bool| {
            case.sets[0].0.iter().filter(|&&frames| (frames == 1) == image).count()
        };
        for ((frames, epoch), ids) in &seen {
            let distinct: HashSet<_> = ids.iter().collect();
            prop_assert_eq!(distinct.len(), ids.len(), "epoch {} of {} frames", epoch, frames);
            let last = seen.keys().filter(|key| key.0 == *frames).map(|key| key.1).max();
            if Some(*epoch) < last {
                prop_assert_eq!(ids.len(), count(*frames == 1), "epoch {} of {} frames", epoch, frames);
            }
        }
        prop_assert_eq!(count(true) + count(false), made.rows);
    }

    #[test]
    fn batches_do_not_know_ranks_threads_or_prefetch(case in cases(2), workers in 1..4usize, prefetch in 1..9usize) {
        let made = make(&case);
        let whole = steps(&made.config, Part::WHOLE, 0, 12);
        for parts in [1, 2, 3, 4, 8] {
            prop_assert_eq!(&together(&made.config, parts, 0, 12), &whole, "{} data groups", parts);
        }
        let busy = DataConfig { workers, prefetch, ..made.config.clone() };
        prop_assert_eq!(&steps(&busy, Part::WHOLE, 0, 12), &whole);
        prop_assert_eq!(&together(&busy, 3, 0, 12), &whole);
        // Ranks of one data group ask for the same part, and get the same.
        let part = Part { index: 1, of: 2 };
        prop_assert_eq!(steps(&busy, part, 0, 12), steps(&made.config, part, 0, 12));
    }

    #[test]
    fn a_run_resumes_anywhere_twice_and_on_other_ranks(case in cases(2), second in 0..8u64) {
        let made = make(&case);
        let whole = steps(&made.config, Part::WHOLE, 0, 24);
        for from in 0..16 {
            let resumed = steps(&made.config, Part::WHOLE, from, 8);
            prop_assert_eq!(&resumed[..], &whole[from as usize..][..8], "from step {}", from);
        }
        // Stopped at 5 of two ranks, again some steps on of four, and on with three.
        let mut pieces = together(&made.config, 2, 0, 5);
        pieces.extend(together(&made.config, 4, 5, second as usize));
        pieces.extend(together(&made.config, 3, 5 + second, 24 - 5 - second as usize));
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn a_mixture_keeps_its_weights_and_its_epochs(case in cases(3)) {
        let made = make(&case);
        let all = steps(&made.config, Part::WHOLE, 0, 150);
        let mut drawn = [0.0; 3];
        let mut seen: HashMap<(usize, usize, u64), HashSet<String>> = HashMap::new();
        for (frames, samples) in &all {
            for (_, epoch, caption) in samples.values() {
                let set: usize = caption[3..4].parse().unwrap();
                drawn[set] += 1.0;
                let fresh = seen.entry((set, *frames, *epoch)).or_default().insert(caption.clone());
                prop_assert!(fresh, "{} twice in epoch {}", caption, epoch);
            }
        }
        if case.ratio.is_some() {
            return Ok(());
        }
        // Without a ratio of images, the shares of samples are the weights, as far as chance in the
        // choice of buckets lets them be.
        let weight = |set: usize| match case.weighted {
            true => case.sets[set].1,
            false => case.sets[set].0.len() as f64,
        };
        let total: f64 = (0..3).map(weight).sum();
        let sum: f64 = drawn.iter().sum();
        for (set, drawn) in drawn.iter().enumerate() {
            let (got, wanted) = (drawn / sum, weight(set) / total);
            prop_assert!((got - wanted).abs() < 0.12, "set {}: {} of {}", set, got, wanted);
        }
    }
}

#[test]
fn what_changed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", &[4; 30], 5, 10);
    let path = folder.path().join("a").to_string_lossy().into_owned();
    let config = DataConfig::new(vec![path], vec![Bucket::new(4, 16, 16, 4)]);
    let identity = |config: &DataConfig| Catalog::open(config).unwrap().identity();
    let was = identity(&config);
    assert_eq!(was.changes(&was), Vec::<String>::new());
    let copy = serde_json::from_str(&serde_json::to_string(&was).unwrap()).unwrap();
    assert_eq!(was, copy);

    let seeded = DataConfig {
        seed: 7,
        ..config.clone()
    };
    assert_eq!(
        was.changes(&identity(&seeded)),
        ["it was seed 0", "it is seed 7"]
    );

    std::fs::remove_dir_all(folder.path().join("a")).unwrap();
    write(folder.path(), "a", &[4; 18], 5, 10);
    let is = identity(&config);
    assert_ne!(was.fingerprint(), is.fingerprint());
    let changes = was.changes(&is).join("\n");
    for words in [
        "it was 30 of 4 frames of 16x16 in batches of 4",
        "it is 18 of 4 frames of 16x16 in batches of 4",
        "shard-00001.parquet had 10 rows and has 8",
        "shard-00002.parquet is gone",
    ] {
        assert!(changes.contains(words), "{changes}");
    }

    // The same rows and bytes in other groups come in another order.
    std::fs::remove_dir_all(folder.path().join("a")).unwrap();
    write(folder.path(), "a", &[4; 18], 3, 10);
    let regrouped = identity(&config);
    let changes = is.changes(&regrouped).join("\n");
    assert!(changes.contains("shard-00000.parquet"), "{changes}");
}
