//! What goes wrong is said, by name and in time: no rank is left waiting, and no file is believed
//! that is not whole.

use crate::clips::{Clips, Hook, data, losses, rows};
use crate::fixture::{Cut, batch, cut, text, train_config, video};
use crate::program::Place;
use burn::tensor::{DType, Device};
use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::{CommError, Fault, Faulty, Traced, Transport};
use kinora_data::{DataError, Row, ShardOptions, ShardWriter};
use kinora_media::encode_mp4;
use kinora_shapes::{Scene, Split};
use kinora_shard::Sharding;
use kinora_train::{TrainConfig, TrainError, Trainer};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

// What happens at once may take this long on a busy machine; all deadlines that must not play a part
// are longer.
const AT_ONCE: Duration = Duration::from_secs(10);
const FAR: Duration = Duration::from_secs(60);

type Failure = RankFailure<TrainError>;

fn meshes() -> [Cut; 3] {
    [
        cut("tp 2 with seq", 1, 2, true),
        cut("replicate 2", 2, 1, false),
        cut("tp 2 with seq x replicate 2", 2, 2, true),
    ]
}

/// Runs `body` on every rank with what `wrap` makes of its transport, and measures how long it takes.
fn run<T: Send + 'static>(
    cut: &Cut,
    deadline: Duration,
    wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
    body: impl Fn(Trainer, Arc<Sharding>) -> Result<T, TrainError> + Send + Sync + 'static,
) -> (Result<Vec<T>, Failure>, Duration) {
    let world = World {
        deadline,
        on_stuck: OnStuck::Leak,
        ..World::new(cut.mesh.ranks(), 1)
    };
    let (mesh, plan) = (cut.mesh, cut.plan.clone());
    let began = Instant::now();
    let result = local::run(&world, move |transport| {
        let sharding = Sharding::new(wrap(transport), mesh, plan.clone())?;
        let device = (&Device::flex(), DType::F32);
        body(
            Trainer::new(&train_config(), &video(), &text(), 3, device, &sharding),
            sharding,
        )
    });
    (result, began.elapsed())
}

/// Two steps, of a video batch and of an image batch.
fn two_steps(mut trainer: Trainer, sharding: Arc<Sharding>) -> Result<(), TrainError> {
    for step in 0..2 {
        trainer.train(&batch(step, &sharding))?;
    }
    Ok(())
}

/// Rank 1 goes wrong at its call `at`, while all train two steps.
fn at_call(cut: &Cut, deadline: Duration, at: u64, fault: Fault) -> (Failure, Duration) {
    let wrap = move |transport: Arc<dyn Transport>| -> Arc<dyn Transport> {
        match transport.rank() {
            1 => Arc::new(Faulty::new(transport, at, fault.clone())),
            _ => transport,
        }
    };
    let (result, took) = run(cut, deadline, wrap, two_steps);
    match result {
        Ok(_) => panic!("{}: nobody noticed the fault at call {at}", cut.name),
        Err(failure) => (failure, took),
    }
}

/// Rank 1's calls in two steps.
fn calls(cut: &Cut) -> u64 {
    let traced: Arc<Mutex<Option<Traced>>> = Arc::default();
    let kept = traced.clone();
    let wrap = move |transport: Arc<dyn Transport>| -> Arc<dyn Transport> {
        if transport.rank() != 1 {
            return transport;
        }
        let transport = Traced::new(transport);
        *kept.lock().unwrap() = Some(transport.clone());
        Arc::new(transport)
    };
    run(cut, FAR, wrap, two_steps).0.unwrap();
    let traced = traced.lock().unwrap().take().expect("rank 1 has run");
    traced.traffic().values().map(|traffic| traffic.calls).sum()
}

/// About a dozen of a mesh's calls, the first and the last among them.
fn some_calls(cut: &Cut) -> impl Iterator<Item = u64> {
    let calls = calls(cut);
    assert!(calls >= 4, "{}: {calls} calls", cut.name);
    (0..calls)
        .step_by((calls as usize / 12).max(1))
        .chain([calls - 1])
}

/// The collective's error, whether it came out of a graph or not.
fn comm(failure: &Failure) -> &CommError {
    match &failure.what {
        What::Comm(error) | What::Error(TrainError::Comm(error)) => error,
        other => panic!("not between ranks: {other:?}"),
    }
}

#[test]
fn a_rank_that_panics_at_any_call_ends_all() {
    for cut in meshes() {
        for at in some_calls(&cut) {
            let fault = Fault::Panic(format!("call {at} is on fire"));
            let (failure, took) = at_call(&cut, FAR, at, fault);
            let message = failure.to_string();
            assert_eq!(
                message,
                format!("rank 1 panicked: call {at} is on fire"),
                "{}",
                cut.name
            );
            assert!(took < AT_ONCE, "{}: {took:?} until all had ended", cut.name);
        }
    }
}

#[test]
fn a_call_that_fails_on_one_rank_ends_all() {
    for cut in meshes() {
        for at in some_calls(&cut) {
            let error = CommError::Aborted {
                rank: 1,
                reason: format!("call {at} is cut off"),
            };
            let (failure, took) = at_call(&cut, FAR, at, Fault::Error(error.clone()));
            assert_eq!((failure.rank, comm(&failure)), (1, &error), "{}", cut.name);
            assert!(
                failure.stuck.is_empty() && took < AT_ONCE,
                "{}: {took:?}",
                cut.name
            );
        }
    }
}

#[test]
fn a_rank_that_makes_another_call_is_a_mismatch() {
    for cut in meshes() {
        for at in some_calls(&cut) {
            let (failure, took) = at_call(&cut, FAR, at, Fault::Astray);
            let error = comm(&failure);
            let CommError::Mismatch {
                first,
                second,
                first_call,
                second_call,
                ..
            } = error
            else {
                panic!("{}, call {at}: {error}", cut.name);
            };
            assert!([first, second].contains(&&1), "{}: {error}", cut.name);
            assert!(
                first_call.contains("astray") != second_call.contains("astray"),
                "{error}"
            );
            assert!(
                failure.stuck.is_empty() && took < AT_ONCE,
                "{}: {took:?}",
                cut.name
            );
        }
    }
}

/// What rank 0 saw when rank 1 panicked between two steps.
#[test]
fn the_peers_of_a_lost_rank_know_it_inside_the_graph() {
    let seen: Arc<Mutex<Option<CommError>>> = Arc::default();
    let kept = seen.clone();
    let body = move |mut trainer: Trainer, sharding: Arc<Sharding>| {
        trainer.train(&batch(0, &sharding))?;
        if sharding.rank() == 1 {
            panic!("the lights went out");
        }
        let step = AssertUnwindSafe(|| trainer.train(&batch(1, &sharding)));
        match catch_unwind(step) {
            Ok(result) => result.map(|_| ()),
            Err(payload) => {
                *kept.lock().unwrap() = payload.downcast_ref::<CommError>().cloned();
                resume_unwind(payload)
            }
        }
    };
    let (result, took) = run(
        &cut("tp 2 with seq", 1, 2, true),
        FAR,
        |transport| transport,
        body,
    );
    let failure = result.unwrap_err();
    assert_eq!(failure.to_string(), "rank 1 panicked: the lights went out");
    assert!(took < AT_ONCE, "{took:?}");
    let seen = seen
        .lock()
        .unwrap()
        .take()
        .expect("rank 0 unwound out of the graph");
    let CommError::PeerLost {
        rank,
        operation,
        cause,
        ..
    } = &seen
    else {
        panic!("{seen}")
    };
    assert_eq!(*rank, 1);
    assert!(
        !operation.contains("loss"),
        "it should unwind before the graph is done: {operation}"
    );
    assert!(cause.contains("the lights went out"), "{cause}");
}

#[test]
fn a_rank_that_sleeps_past_the_deadline_is_late() {
    let deadline = Duration::from_millis(1500);
    for cut in [
        cut("tp 2 with seq", 1, 2, true),
        cut("replicate 2", 2, 1, false),
    ] {
        let at = calls(&cut) / 2;
        let nap = Duration::from_millis(2300);
        let (failure, took) = at_call(&cut, deadline, at, Fault::Delay(nap));
        let error = comm(&failure);
        assert!(
            matches!(error, CommError::Late { rank: 1, .. }),
            "{}: {error}",
            cut.name
        );
        let message = failure.to_string();
        assert!(message.contains("rank 1 is late at "), "{message}");
        assert!(message.contains("help: "), "{message}");
        // It wakes before it is given up.
        assert!(
            failure.stuck.is_empty() && took >= nap,
            "{}: {took:?}, {message}",
            cut.name
        );
    }
}

#[test]
fn a_rank_that_never_wakes_is_left_behind_by_name() {
    let deadline = Duration::from_millis(800);
    let cut = cut("tp 2 with seq", 1, 2, true);
    let (failure, took) = at_call(&cut, deadline, 2, Fault::Delay(Duration::from_secs(20)));
    assert!(
        matches!(comm(&failure), CommError::Late { rank: 1, .. }),
        "{failure}"
    );
    assert_eq!(failure.stuck, [1]);
    assert!(
        failure.to_string().contains("ranks [1] did not end"),
        "{failure}"
    );
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_nap_within_the_deadline_is_forgiven() {
    let wrap = |transport: Arc<dyn Transport>| -> Arc<dyn Transport> {
        match transport.rank() {
            1 => Arc::new(Faulty::new(
                transport,
                5,
                Fault::Delay(Duration::from_millis(300)),
            )),
            _ => transport,
        }
    };
    let (result, took) = run(&cut("tp 2 with seq", 1, 2, true), FAR, wrap, two_steps);
    result.unwrap();
    assert!(
        took >= Duration::from_millis(300),
        "the fault did not happen: {took:?}"
    );
}

/// Ranks that do not do the same work, as a bug would make them.
#[test]
fn ranks_that_part_ways_are_told() {
    let tp = cut("tp 2 with seq", 1, 2, true);
    let mismatch = |failure: Failure| {
        assert!(
            matches!(comm(&failure), CommError::Mismatch { .. }),
            "{failure}"
        );
        let message = failure.to_string();
        assert!(
            message.contains("ranks") && message.contains("disagree"),
            "{message}"
        );
    };
    // Rank 1 has the images of the next step where rank 0 has videos.
    let (result, took) = run(
        &tp,
        FAR,
        |transport| transport,
        |mut trainer, sharding| {
            trainer
                .train(&batch(sharding.rank() as u64, &sharding))
                .map(|_| ())
        },
    );
    mismatch(result.unwrap_err());
    assert!(took < AT_ONCE, "{took:?}");
    // Rank 1 cuts the batch in two.
    let (result, took) = run(
        &tp,
        FAR,
        |transport| transport,
        |_, sharding| {
            let config = TrainConfig {
                accumulate: 1 + sharding.rank(),
                ..train_config()
            };
            let device = (&Device::flex(), DType::F32);
            let mut trainer = Trainer::new(&config, &video(), &text(), 3, device, &sharding);
            trainer.train(&batch(0, &sharding)).map(|_| ())
        },
    );
    mismatch(result.unwrap_err());
    assert!(took < AT_ONCE, "{took:?}");
    // Rank 1 is content with one step.
    let (result, took) = run(
        &tp,
        FAR,
        |transport| transport,
        |mut trainer, sharding| {
            for step in 0..2 - sharding.rank() as u64 {
                trainer.train(&batch(step, &sharding))?;
            }
            Ok(())
        },
    );
    let failure = result.unwrap_err();
    assert!(
        matches!(comm(&failure), CommError::PeerLost { rank: 1, .. }),
        "{failure}"
    );
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_panic_in_the_loop_ends_all() {
    let clips = Clips::make();
    for cut in [
        cut("tp 2 with seq", 1, 2, true),
        cut("replicate 2", 2, 1, false),
    ] {
        let began = Instant::now();
        let failure = clips
            .train(cut.name, &cut, DType::F32, Hook::Panic(8))
            .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "rank 1 panicked: the preview is on fire",
            "{}",
            cut.name
        );
        assert!(began.elapsed() < 2 * AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(
            losses(&clips.run(cut.name)).len(),
            8,
            "what was done is on record"
        );
    }
}

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
        writer
            .push(Row {
                media: &media,
                caption: &sample.caption,
                frames: clip.frames,
                height: clip.height,
                width: clip.width,
                fps: clip.fps,
                meta: None,
            })
            .unwrap();
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
