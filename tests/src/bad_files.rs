//! Files that are bad or torn: clips are skipped, counted and named, and nothing is believed that is not
//! whole.

use crate::clips::{Clips, Hook, data, losses, rows};
use crate::faults::AT_ONCE;
use crate::fixture::cut;
use crate::program::Place;
use burn::tensor::DType;
use kinora_comm::local::What;
use kinora_data::{Caption, DataError, Row, ShardOptions, ShardWriter};
use kinora_media::encode_mp4;
use kinora_shapes::{Scene, Split};
use kinora_train::TrainError;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// 24 videos, of which these rows are no videos; the first of them is cut short.
fn with_bad_clips(bad: &'static [u64]) -> Clips {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("data");
    let options = ShardOptions {
        name: "clips".into(),
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(&at, options).unwrap();
    let (world, scenes) = (kinora_shapes::World::default(), Scene::of(Split::Seen));
    for index in 0..24 {
        let sample = world.video_sample(&scenes, 5, index);
        let media = match (index, encode_mp4(&sample.clip).unwrap()) {
            (index, media) if bad.first() == Some(&index) => media[..media.len() / 2].to_vec(),
            (index, _) if bad.contains(&index) => b"this is no video".to_vec(),
            (_, media) => media,
        };
        let clip = &sample.clip;
        let size = [clip.frames, clip.height, clip.width];
        let captions = Caption::one(sample.caption.clone());
        let key = format!("clip {index}");
        let row = Row::new(&key, &media, &captions, size, clip.fps);
        writer.push(&row).unwrap();
    }
    writer.finish().unwrap();
    let mut config = data(&at);
    config.buckets.truncate(1);
    (config.image_ratio, config.max_bad) = (None, 0.5);
    Clips::of(folder, &config)
}

/// The skips that a run's notes name, sorted.
fn skips(run: &Path) -> Vec<String> {
    let notes = fs::read_to_string(run.join("notes.log")).unwrap();
    let skip = |line: &str| {
        line.split_once(": skipped ")
            .map(|(_, skip)| skip.to_string())
    };
    let mut skips: Vec<String> = notes.lines().filter_map(skip).collect();
    skips.sort();
    skips
}

#[test]
fn clips_that_cannot_be_decoded_are_skipped_counted_and_named() {
    let clips = with_bad_clips(&[3, 17]);
    let mut found = vec![];
    for cut in [
        cut("one rank", 1, 1, false),
        cut("tp 2", 1, 2, true),
        cut("replicate 2", 2, 1, false),
    ] {
        clips.train(cut.name, &cut, DType::F32, Hook::None).unwrap();
        let run = clips.run(cut.name);
        let skips = skips(&run);
        for bad in ["clips-00000.parquet:3: ", "clips-00000.parquet:17: "] {
            let named = skips
                .iter()
                .any(|skip| skip.starts_with(bad) && skip.len() > bad.len());
            assert!(named, "{}: {bad} is not among {skips:?}", cut.name);
        }
        let rows = rows(&run);
        assert_eq!(rows.len(), 12);
        let counted = rows[11]["skipped"].as_u64().unwrap();
        assert_eq!(counted, skips.len() as u64, "{}: {skips:?}", cut.name);
        found.push(skips);
    }
    assert!(
        found.iter().all(|skips| skips == &found[0]),
        "meshes differ: {found:?}"
    );
}

#[test]
fn too_many_of_them_stop_the_run() {
    let clips = with_bad_clips(&[3, 5, 8, 13, 17, 20]).with(|data| data.max_bad = 0.02);
    for cut in [cut("tp 2", 1, 2, true), cut("replicate 2", 2, 1, false)] {
        let began = Instant::now();
        let failure = clips
            .train(cut.name, &cut, DType::F32, Hook::None)
            .unwrap_err();
        let What::Error(TrainError::Data(DataError::TooManyBad { shard, limit, .. })) =
            &failure.what
        else {
            panic!("{}: {failure}", cut.name);
        };
        assert_eq!((shard.as_str(), *limit), ("clips-00000.parquet", 0.02));
        let message = failure.to_string();
        assert!(
            message.contains("help: ") && message.contains("data.max_bad"),
            "{message}"
        );
        assert!(failure.stuck.is_empty() && began.elapsed() < 2 * AT_ONCE);
    }
}

/// Makes the data of `smoke.toml`.
fn make_data(place: &Place) {
    let data = ["data", "make", "shapes", "-q", "--out", "datasets/smoke"];
    place.succeed(&[&data[..], &["--videos", "48", "--images", "24"]].concat());
}

#[test]
fn data_that_cannot_be_read_is_refused_before_anything_is_written() {
    let place = Place::new();
    make_data(&place);
    place.refuse(
        &["train", "smoke.toml", "--set", "data.columns.caption=title"],
        &[
            "images-00000.parquet",
            "\"title\"",
            "caption",
            "data.columns",
            "help: ",
        ],
    );
    place.write_own("datasets/smoke");
    let shard = place.at("datasets/smoke/videos-00000.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..7]).unwrap();
    let words = [
        "manifest.json says that the shard videos-00000.parquet has",
        "but it has 7 bytes",
        "help: ",
    ];
    place.refuse(&["train", "own.toml"], &words);
    fs::remove_file(place.at("datasets/smoke/manifest.json")).unwrap();
    for len in [0, 7, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&shard, &bytes[..len]).unwrap();
        let words = [
            "datasets/smoke/videos-00000.parquet is damaged or cut off",
            "help: ",
        ];
        place.refuse(&["train", "own.toml"], &words);
        place.refuse(&["data", "inspect", "own.toml"], &words);
        // The data set that [shapes] describes is known to be another.
        place.refuse(&["train", "smoke.toml"], &["datasets/smoke", "help: "]);
    }
    assert_eq!(place.holds(), ["datasets", "own.toml", "smoke.toml"]);
}

#[test]
fn a_killed_run_goes_on_and_a_torn_checkpoint_is_refused() {
    let place = Place::new();
    make_data(&place);
    let steps = [
        "--set",
        "train.steps=40",
        "--set",
        "train.checkpoint_every=8",
    ];
    let train = |out: &str| {
        let out = format!("run.out={out}");
        let args: Vec<String> = [
            "train",
            "smoke.toml",
            "-q",
            "--set",
            &out,
            "--set",
            "train.preview_every=20",
        ]
        .iter()
        .chain(&steps)
        .map(ToString::to_string)
        .collect();
        args
    };
    let straight = train("straight");
    place.succeed(&straight.iter().map(String::as_str).collect::<Vec<_>>());

    let killed = train("killed");
    let killed: Vec<&str> = killed.iter().map(String::as_str).collect();
    let metrics = place.at("killed/metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    // Before the first checkpoint, between two, and behind some.
    for least in [2, 11, 27] {
        let mut run = place.start(&killed);
        run.wait_until(|| lines() >= least);
        run.kill();
    }
    let said = place.succeed(&killed);
    assert!(
        said.contains("from step ") && said.contains(" to 40 "),
        "{said}"
    );
    let (got, want) = (losses(&place.at("killed")), losses(&place.at("straight")));
    assert_eq!(
        got.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        (1..=40).collect::<Vec<_>>()
    );
    assert_eq!(got, want);

    let part = place.at("killed/checkpoints/step-00000040/rank-00001.safetensors");
    let whole = fs::read(&part).unwrap();
    let generate = [
        "generate",
        "killed",
        "-q",
        "-p",
        "a red circle",
        "-o",
        "video.mp4",
    ];
    let more = [&killed[..], &["--set", "train.steps=48"]].concat();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, word) in [
        (&whole[..whole.len() - 1], "bytes, but"),
        (&flipped[..], "checksum"),
    ] {
        fs::write(&part, bytes).unwrap();
        let words = ["rank-00001.safetensors", word, "help: "];
        place.refuse(&["inspect", "killed"], &words);
        place.refuse(&generate, &words);
        place.refuse(&more, &words);
        assert!(!place.at("video.mp4").exists());
    }
    fs::remove_file(&part).unwrap();
    place.refuse(&more, &["rank-00001.safetensors is missing", "help: "]);
    // The checkpoint before it is whole, and what came later is done again.
    fs::remove_dir_all(part.parent().unwrap()).unwrap();
    let said = place.succeed(&killed);
    assert!(said.contains("from step 32 to 40"), "{said}");
    assert_eq!(losses(&place.at("killed")), want);
}
