//! Ranks that fail, stray, sleep or end are named in time, and nobody is left waiting for them.

use crate::clips::{Clips, Hook, losses};
use crate::fixture::{Cut, batch, cut, train_config, trainer};
use burn::tensor::DType;
use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::{CommError, Fault, Faulty, Traced, Transport};
use kinora_models::TextToVideo;
use kinora_shard::Sharding;
use kinora_train::{TrainConfig, TrainError, Trainer};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

// What happens at once may take this long on a busy machine; all deadlines that must not play a part
// are longer.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);
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
    body: impl Fn(Trainer<TextToVideo>, Arc<Sharding>) -> Result<T, TrainError> + Send + Sync + 'static,
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
        body(trainer(&train_config(), DType::F32, &sharding), sharding)
    });
    (result, began.elapsed())
}

/// Two steps, of a video batch and of an image batch.
fn two_steps(mut trainer: Trainer<TextToVideo>, sharding: Arc<Sharding>) -> Result<(), TrainError> {
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
    let body = move |mut trainer: Trainer<TextToVideo>, sharding: Arc<Sharding>| {
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
            let mut trainer = trainer(&config, DType::F32, &sharding);
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
            "rank 1 panicked: the preview is on fire\n  last seen at previews of step 8",
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
