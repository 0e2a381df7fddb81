//! The transport of threads: the conformance suite, random calls, and how worlds end.

mod scripts;

use kinora_comm::conformance::{self, Check, Outcome, exercise};
use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::{
    Buffer, Call, Collective, CommError, DeviceBuffer, Dtype, Fault, Faulty, HostBuffer, Reduce,
    Traced, Traffic, Transport,
};
use proptest::prelude::*;
use scripts::scripts;
use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

fn world(ranks: usize) -> World {
    let deadline = Duration::from_secs(20);
    World {
        deadline,
        on_stuck: OnStuck::Leak,
        ..World::new(ranks, 1)
    }
}

/// Runs a check on the ranks of a world of threads, behind a wrapper.
fn spawn(
    check: &'static Check,
    ranks: usize,
    wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + Sync + 'static,
) -> Vec<Option<Outcome>> {
    let outcomes = Arc::new(Mutex::new(vec![None; ranks]));
    let world = World {
        deadline: check.deadline,
        ..world(ranks)
    };
    let found = outcomes.clone();
    // What the world makes of it is tested below; here each rank's own view counts.
    let _ = local::run(&world, move |transport| {
        let transport = wrap(transport);
        let outcome = check.run(&transport);
        found.lock().unwrap()[transport.rank()] = Some(outcome.clone());
        outcome
    });
    outcomes.lock().unwrap().clone()
}

#[test]
fn conforms() {
    let spawn = |check, ranks| spawn(check, ranks, |transport| transport);
    conformance::run(&[], spawn).unwrap_or_else(|wrongs| panic!("{wrongs}"));
}

#[test]
fn wrappers_conform() {
    let spawn = |check, ranks| {
        spawn(check, ranks, |transport| {
            let faulty = Faulty::new(transport, u64::MAX, Fault::Astray);
            Arc::new(Traced::new(Arc::new(faulty)))
        })
    };
    conformance::run(&[], spawn).unwrap_or_else(|wrongs| panic!("{wrongs}"));
}

#[test]
fn the_suite_finds_faults() {
    // Of two ranks one makes its third call another than it should.
    let astray = |check: &'static Check, ranks| {
        if check.name != "all-reduce" {
            return vec![
                if check.falls.is_some() {
                    None
                } else {
                    Some(Ok(()))
                };
                ranks
            ];
        }
        spawn(check, ranks, |transport| match transport.rank() {
            1 => Arc::new(Faulty::new(transport, 2, Fault::Astray)),
            _ => transport,
        })
    };
    let wrongs = conformance::run(&[], astray).unwrap_err();
    assert!(
        wrongs.contains("\"all-reduce\" on 2 ranks: rank 0"),
        "{wrongs}"
    );
    assert!(
        // Whichever of the two came first.
        wrongs.contains("ranks 0 and 1 disagree at call 2")
            || wrongs.contains("ranks 1 and 0 disagree at call 2"),
        "{wrongs}"
    );
    assert!(!wrongs.contains("on 1 ranks: rank 0: a call"), "{wrongs}");
    let wrongs = conformance::run(&["no such check"], astray).unwrap_err();
    assert_eq!(wrongs, "no check is named \"no such check\"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_calls_agree_with_the_reference((ranks, steps, orders) in scripts(5)) {
        let outcome = local::run(&world(ranks), move |transport| {
            exercise(&transport, &steps, &orders[transport.rank()])
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }

    #[test]
    fn random_calls_agree_in_parts((ranks, steps, orders) in scripts(5), parts in 1..4_usize) {
        // As many worlds in one, each of `ranks` ranks, with the colors in turn.
        let outcome = local::run(&world(ranks * parts), move |transport| {
            let part = transport.split(Some(transport.rank() % parts), "part")?;
            let part = part.expect("every rank has a color");
            exercise(&part, &steps, &orders[part.rank()])
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

fn sum(transport: &Arc<dyn Transport>) -> Result<Buffer, CommError> {
    transport.all_reduce(vec![1.0_f32].into(), Reduce::Sum, "sum")
}

#[test]
fn results_come_in_the_order_of_ranks() {
    let squares = local::run(&world(4), |transport| {
        transport.barrier("all")?;
        Ok::<_, CommError>(transport.rank() * transport.rank())
    });
    assert_eq!(squares.unwrap(), [0, 1, 4, 9]);
}

#[test]
fn every_rank_has_a_pool_of_its_own() {
    let all = Arc::new(Barrier::new(3));
    let world = World {
        threads: 2,
        ..world(3)
    };
    let threads = local::run(&world, move |_| {
        let mine: HashSet<_> = rayon::broadcast(|_| thread::current().id())
            .into_iter()
            .collect();
        // The pools exist at the same time, so that no thread can be counted twice.
        all.wait();
        Ok::<_, CommError>((rayon::current_num_threads(), mine))
    });
    let threads = threads.unwrap();
    let union: HashSet<_> = threads.iter().flat_map(|(_, mine)| mine).collect();
    assert!(
        threads
            .iter()
            .all(|(size, mine)| *size == 2 && mine.len() == 2),
        "{threads:?}"
    );
    assert_eq!(union.len(), 6, "{threads:?}");
}

#[test]
fn a_world_of_one_rank_needs_nobody() {
    let outcome = local::run(&world(1), |transport| {
        sum(&transport)?;
        let part = transport.split(Some(7), "part")?.expect("it has a color");
        part.broadcast(vec![5_i64].into(), 0, "alone")
    });
    let found = outcome.unwrap().remove(0);
    assert!(
        matches!(&found, Buffer::Host(HostBuffer::I64(x)) if x == &[5]),
        "{found:?}"
    );
}

fn failure<T: std::fmt::Debug>(
    outcome: Result<T, RankFailure<CommError>>,
) -> RankFailure<CommError> {
    let failure = outcome.unwrap_err();
    assert!(failure.stuck.is_empty(), "{failure}");
    failure
}

#[test]
fn a_panic_is_reported_with_its_text_and_not_what_it_led_to() {
    for lost in 0..3 {
        let outcome = local::run(&world(3), move |transport| {
            sum(&transport)?;
            if transport.rank() == lost {
                resume_unwind(Box::new(format!("rank {lost} had enough")));
            }
            // The others' panics are of the second order too.
            match sum(&transport) {
                Err(error) if transport.rank() == 2 => resume_unwind(Box::new(error)),
                other => other,
            }
        });
        let failure = failure(outcome);
        assert_eq!(failure.rank, lost);
        let What::Panic(text) = &failure.what else {
            panic!("{failure}")
        };
        assert_eq!(text, &format!("rank {lost} had enough"));
    }
}

#[test]
fn panics_in_pool_threads_count() {
    let outcome = local::run(
        &World {
            threads: 2,
            ..world(2)
        },
        |transport| {
            if transport.rank() == 1 {
                rayon::join(|| resume_unwind(Box::new("in a join")), || 0);
            }
            sum(&transport)
        },
    );
    let failure = failure(outcome);
    assert_eq!(failure.to_string(), "rank 1 panicked: in a join");
}

#[test]
fn an_error_is_reported_and_not_what_it_led_to() {
    let outcome = local::run(&world(3), |transport| {
        sum(&transport).map_err(|error| error.to_string())?;
        if transport.rank() == 1 {
            return Err("the disk is full".to_string());
        }
        sum(&transport).map_err(|error| error.to_string())
    });
    let failure = outcome.unwrap_err();
    assert_eq!(
        (failure.rank, failure.to_string().as_str()),
        (1, "rank 1: the disk is full")
    );
}

#[test]
fn an_error_that_unwinds_is_an_error() {
    let outcome = local::run(&world(2), |transport| {
        let label = if transport.rank() == 0 {
            "gradient"
        } else {
            "norm"
        };
        let call = Call::new(Collective::Barrier, label);
        let result = transport
            .start(call, Vec::<u8>::new().into())
            .and_then(|it| it.wait());
        // As an operation inside a graph has to.
        result.map_err(|error| resume_unwind(Box::new(error)))
    });
    let failure = failure::<Vec<Buffer>>(outcome);
    let What::Comm(CommError::Mismatch {
        first_call,
        second_call,
        ..
    }) = &failure.what
    else {
        panic!("{failure}")
    };
    let mut calls = [first_call.as_str(), second_call.as_str()];
    calls.sort();
    assert_eq!(calls, ["barrier \"gradient\"", "barrier \"norm\""]);
}

#[test]
fn a_failure_that_all_ranks_ignore_is_reported() {
    let outcome = local::run(&world(2), |transport| {
        transport.abort("enough");
        let _ = sum(&transport);
        Ok::<_, CommError>(())
    });
    let failure = failure(outcome);
    let What::Comm(CommError::Aborted { rank, reason }) = &failure.what else {
        panic!("{failure}")
    };
    assert_eq!((*rank, reason.as_str()), (failure.rank, "enough"));
}

#[test]
fn peers_of_a_lost_rank_know_at_once() {
    // Many times over, as a wake-up that is missed now and then would cost only a little each time.
    let (mut slow, rounds) = (0, 200);
    for round in 0..rounds {
        let lost = Arc::new(Mutex::new(None));
        let known = Arc::new(Mutex::new(None));
        let (when_lost, when_known) = (lost.clone(), known.clone());
        let outcome = local::run(&world(2), move |transport| {
            let started = transport.barrier("start");
            if transport.rank() == 1 {
                started?;
                // Around the time at which the other goes to sleep.
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(round) {}
                *when_lost.lock().unwrap() = Some(Instant::now());
                resume_unwind(Box::new("gone"));
            }
            // A peer that was gone before this rank had left the barrier is known from there.
            let result = started.and_then(|()| sum(&transport).map(drop));
            *when_known.lock().unwrap() = Some(Instant::now());
            result
        });
        assert_eq!(failure(outcome).rank, 1);
        let (lost, known) = (
            lost.lock().unwrap().unwrap(),
            known.lock().unwrap().unwrap(),
        );
        slow += usize::from(known.saturating_duration_since(lost) > Duration::from_millis(30));
    }
    // A busy machine may be slow a few times.
    assert!(
        slow < 10,
        "{slow} of {rounds} times the loss was known late"
    );
}

#[test]
fn a_stuck_rank_is_reported_and_left_behind() {
    let release = Arc::new(AtomicBool::new(false));
    let deadline = Duration::from_millis(300);
    let start = Instant::now();
    let stuck = release.clone();
    let outcome = local::run(
        &World {
            deadline,
            ..world(3)
        },
        move |transport| {
            while transport.rank() == 1 && !stuck.load(Ordering::Acquire) {
                sleep(Duration::from_millis(5));
            }
            sum(&transport)
        },
    );
    let took = start.elapsed();
    release.store(true, Ordering::Release);
    let failure = outcome.unwrap_err();
    assert_eq!(failure.stuck, [1], "{failure}");
    let What::Error(CommError::Late { rank: 1, .. }) = &failure.what else {
        panic!("{failure}")
    };
    // Once to find it late, and once more to find that it does not end.
    assert!(took < 4 * deadline, "{took:?}");
}

const STUCK: &str = "KINORA_TEST_STUCK";

#[test]
fn a_stuck_rank_takes_the_process_down() {
    if std::env::var_os(STUCK).is_some() {
        let deadline = Duration::from_millis(200);
        let world = World {
            deadline,
            on_stuck: OnStuck::Exit,
            ..world(2)
        };
        let _ = local::run(&world, |transport| {
            if transport.rank() == 1 {
                sleep(Duration::from_secs(60));
            }
            sum(&transport)
        });
        unreachable!("the process has ended");
    }
    let name = "a_stuck_rank_takes_the_process_down";
    let itself = std::env::current_exe().unwrap();
    let start = Instant::now();
    let output = std::process::Command::new(itself)
        .args(["--exact", name, "--nocapture"])
        .env(STUCK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(70), "{text}");
    assert!(text.contains("ranks [1] did not end"), "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn device_buffers_are_refused() {
    let outcome = local::run(&world(1), |transport| {
        let device = DeviceBuffer {
            ptr: 0,
            len: 1,
            dtype: Dtype::F32,
            device: 0,
            stream: 0,
            keep: Arc::new(()),
        };
        transport.all_reduce(Buffer::Device(device), Reduce::Sum, "on a device")
    });
    let failure = failure(outcome);
    let text =
        "rank 0: all-reduce \"on a device\": the local transport does not take device buffers";
    assert_eq!(failure.to_string(), text);
}

#[test]
fn traced_counts_what_a_ring_would_send() {
    let traffic = local::run(&world(4), |transport| {
        let traced = Traced::new(transport);
        let counted: Arc<dyn Transport> = Arc::new(traced.clone());
        let (rank, lens) = (counted.rank(), vec![1, 2, 3, 4]);
        let f32s = |len| Buffer::from(vec![0.0_f32; len]);
        counted.all_reduce(f32s(8), Reduce::Sum, "a")?;
        counted.all_reduce(Buffer::from(vec![0.0_f64; 8]), Reduce::Sum, "b")?;
        counted.all_gather(f32s(lens[rank]), lens.clone(), "c")?;
        counted.reduce_scatter(f32s(10), Reduce::Sum, lens.clone(), "d")?;
        counted.all_to_all(f32s(10), vec![lens; 4], "e")?;
        counted.broadcast(f32s(if rank == 2 { 6 } else { 0 }), 2, "f")?;
        let (next, last) = ((rank + 1) % 4, (rank + 3) % 4);
        counted.exchange(f32s(5), Some(next), Some(last), 5, "g")?;
        counted.exchange(f32s(5), Some(rank), Some(rank), 5, "to itself")?;
        counted.barrier("h")?;
        // A part counts with the whole, by its own number of ranks.
        let pair = counted
            .split(Some(rank / 2), "pair")?
            .expect("it has a color");
        pair.all_reduce(f32s(100), Reduce::Sum, "i")?;
        let alone = counted.split(Some(rank), "alone")?.expect("it has a color");
        alone.all_gather(f32s(3), vec![3], "j")?;
        // A call that is refused is not one.
        counted
            .all_gather(f32s(1), vec![9; 4], "refused")
            .unwrap_err();
        Ok::<_, CommError>(traced.traffic())
    });
    let count = |calls, payload, ring| Traffic {
        calls,
        payload,
        ring,
    };
    for (rank, traffic) in traffic.unwrap().into_iter().enumerate() {
        let (mine, next) = (4 * (rank as u64 + 1), 4 * ((rank as u64 + 1) % 4 + 1));
        let root = u64::from(rank == 2) * 24;
        let expected = [
            // 2 (p - 1) / p of 32 and 64 bytes over four ranks, and of 400 bytes over two.
            ("all-reduce", count(3, 32 + 64 + 400, 48 + 96 + 400)),
            ("all-gather", count(2, mine + 12, 40 - next)),
            ("reduce-scatter", count(1, 40, 40 - mine)),
            ("all-to-all", count(1, 40, 40 - mine)),
            ("broadcast", count(1, root, root)),
            ("exchange", count(2, 40, 20)),
            ("barrier", count(1, 0, 0)),
        ];
        assert_eq!(traffic, expected.into(), "rank {rank}");
    }
}

/// What becomes of two ranks if the second has a fault at its third call.
#[expect(
    clippy::result_large_err,
    reason = "it is returned once, at the end of a test"
)]
fn with_fault(fault: Fault, deadline: Duration) -> Result<Vec<()>, RankFailure<CommError>> {
    local::run(
        &World {
            deadline,
            ..world(2)
        },
        move |transport| {
            let transport: Arc<dyn Transport> = match transport.rank() {
                1 => Arc::new(Faulty::new(transport, 2, fault.clone())),
                _ => transport,
            };
            let part = transport.split(Some(0), "part")?.expect("it has a color");
            // Calls of a part count too.
            for on in [&transport, &part, &part, &transport] {
                sum(on)?;
            }
            Ok(())
        },
    )
}

#[test]
fn faults_happen_at_their_call() {
    let long = Duration::from_secs(20);
    let error = CommError::BadCall {
        operation: "sum".into(),
        what: "as told".into(),
    };
    let failed = failure(with_fault(Fault::Error(error.clone()), long));
    assert!(
        matches!(&failed.what, What::Error(found) if *found == error),
        "{failed}"
    );
    assert_eq!(failed.rank, 1);

    let failed = failure(with_fault(Fault::Astray, long));
    let What::Error(CommError::Mismatch {
        sequence,
        communicator,
        ..
    }) = &failed.what
    else {
        panic!("{failed}")
    };
    assert_eq!((*sequence, communicator.as_str()), (1, "part[0, 1]"));

    let pause = Duration::from_millis(700);
    let start = Instant::now();
    with_fault(Fault::Delay(pause), long).unwrap();
    assert!(start.elapsed() >= pause);
    let failed = failure(with_fault(Fault::Delay(pause), Duration::from_millis(400)));
    assert!(
        matches!(&failed.what, What::Error(CommError::Late { rank: 1, .. })),
        "{failed}"
    );
    assert_eq!(failed.rank, 0);
}

#[test]
fn a_panic_on_purpose_is_a_panic() {
    let failed = failure(with_fault(
        Fault::Panic("as told".into()),
        Duration::from_secs(20),
    ));
    assert_eq!(failed.to_string(), "rank 1 panicked: as told");
}

#[test]
fn the_report_of_a_hang_says_where_the_laggard_is() {
    let deadline = Duration::from_millis(300);
    let world = World {
        deadline,
        ..world(4)
    };
    let outcome = local::run(&world, move |transport| {
        let rank = transport.rank();
        let group = transport.split(Some(rank % 2), "fsdp")?.expect("a color");
        for step in 117..119 {
            let samples = step * 4;
            transport.at(&format!("step {step}, samples {samples}..{}", samples + 4));
            group.barrier("begin")?;
            if rank == 3 && step == 118 {
                sleep(deadline * 8 / 5);
            }
            // The others of the run do not wait for it, and may have ended when it is found late.
            if rank % 2 == 1 {
                group.barrier("block gradients")?;
            }
        }
        Ok::<_, CommError>(())
    });
    let failed = failure(outcome);
    let text = "rank 1: rank 3 is late at barrier \"block gradients\" (call 3 of communicator fsdp[1, 3]), last seen at step 118, samples 472..476: no sign of life for 0.";
    assert!(failed.to_string().starts_with(text), "{failed}");
}

#[test]
fn the_report_of_a_panic_says_where_the_rank_was() {
    let outcome = local::run(&world(2), |transport| {
        transport.at("step 3");
        transport.at("saving step 4");
        if transport.rank() == 1 {
            resume_unwind(Box::new("had enough"));
        }
        sum(&transport)
    });
    let failed = failure(outcome);
    let text = "rank 1 panicked: had enough\n  last seen at saving step 4";
    assert_eq!(failed.to_string(), text);
}
