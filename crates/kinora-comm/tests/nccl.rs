//! The NCCL transport over a stand-in for NCCL and the CUDA driver, whose devices are host memory: the
//! conformance suite on device buffers, and what becomes of calls that NCCL never ends.

use kinora_comm::conformance::{self, Check, OnDevice, Outcome};
use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::nccl::{Device, Library, Setup, join, join_with};
use kinora_comm::{
    Buffer, Call, Collective, CommError, DeviceBuffer, HostBuffer, Reduce, Transport,
};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

// What the stand-in takes for a wish; see its first lines.
const BREAKS: usize = 60013;
const STALLS: usize = 60029;
const SLOW: u64 = 0x51;
const SLOW_FOR: Duration = Duration::from_millis(300);

/// The stand-in, compiled once; or nothing, said aloud, if there is no C compiler.
fn standin() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/nccl.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
        std::fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libnccl.so.2");
        let compiler = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-pthread", "-O1", "-Wall", "-Wextra", "-o",
            ])
            .args([&library, &source])
            .output();
        match compiler {
            Err(error) => {
                eprintln!("NOT TESTED: the NCCL transport, as `cc` does not start: {error}");
                None
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success(),
                    "the stand-in does not compile:\n{text}"
                );
                Some(library)
            }
        }
    });
    built.as_deref()
}

fn setup(standin: &Path, rank: usize, deadline: Duration) -> Result<Setup, CommError> {
    let device = Device::open(Some(standin), rank)?;
    Ok(Setup {
        library: Library::open(Some(standin))?,
        memory: Arc::new(device.clone()),
        device,
        deadline,
    })
}

fn world(ranks: usize, deadline: Duration) -> World {
    World {
        deadline,
        on_stuck: OnStuck::Leak,
        ..World::new(ranks, 1)
    }
}

/// A rank's end of the world, and its device.
struct Rank {
    transport: Arc<dyn Transport>,
    device: Arc<Device>,
}

impl Rank {
    fn join(
        control: Arc<dyn Transport>,
        standin: &Path,
        deadline: Duration,
    ) -> Result<Self, CommError> {
        let setup = setup(standin, control.rank(), deadline)?;
        let device = setup.device.clone();
        let transport = join_with(control, setup)?;
        Ok(Self { transport, device })
    }

    fn on_device(&self) -> Arc<dyn Transport> {
        let (up, down) = (self.device.clone(), self.device.clone());
        Arc::new(OnDevice::new(
            self.transport.clone(),
            move |buffer| up.upload(buffer),
            move |buffer| down.download(buffer),
        ))
    }

    fn upload(&self, buffer: impl Into<HostBuffer>) -> Result<DeviceBuffer, CommError> {
        self.device.upload(&buffer.into())
    }

    fn sum(&self, len: usize) -> Result<Buffer, CommError> {
        let input = self.upload(vec![1.0_f32; len])?;
        self.transport
            .all_reduce(Buffer::Device(input), Reduce::Sum, "gradients")
    }
}

fn spawn(
    check: &'static Check,
    ranks: usize,
    standin: &'static Path,
    on_device: bool,
) -> Vec<Option<Outcome>> {
    let outcomes = Arc::new(Mutex::new(vec![None; ranks]));
    let found = outcomes.clone();
    let _ = local::run(&world(ranks, check.deadline), move |control| {
        let rank = control.rank();
        let joined = Rank::join(control, standin, check.deadline)?;
        let transport = if on_device {
            joined.on_device()
        } else {
            joined.transport.clone()
        };
        let outcome = check.run(&transport);
        found.lock().unwrap()[rank] = Some(outcome.clone());
        outcome
    });
    outcomes.lock().unwrap().clone()
}

#[test]
fn device_buffers_conform() {
    let Some(standin) = standin() else { return };
    // NCCL adds in its own order and dtype, and does not look for NaN.
    let except = [
        "sums in a wider dtype come back in it",
        "half precision adds up in single and is rounded once",
        "sums add in the order of ranks",
        "the largest and the smallest are NaN if one is",
    ];
    conformance::run(&except, |check, ranks| spawn(check, ranks, standin, true))
        .unwrap_or_else(|wrongs| panic!("{wrongs}"));
}

#[test]
fn host_buffers_conform() {
    let Some(standin) = standin() else { return };
    conformance::run(&[], |check, ranks| spawn(check, ranks, standin, false))
        .unwrap_or_else(|wrongs| panic!("{wrongs}"));
}

/// What each rank's part in `body` came to, in a world whose failure is not of interest.
fn each<T: Send + 'static>(
    ranks: usize,
    deadline: Duration,
    standin: &'static Path,
    body: impl Fn(&Rank) -> T + Send + Sync + 'static,
) -> Vec<Option<T>> {
    let found: Arc<Mutex<Vec<Option<T>>>> =
        Arc::new(Mutex::new((0..ranks).map(|_| None).collect()));
    let outcomes = found.clone();
    let outcome = local::run(&world(ranks, Duration::from_secs(20)), move |control| {
        let rank = Rank::join(control, standin, deadline)?;
        let value = body(&rank);
        found.lock().unwrap()[rank.transport.rank()] = Some(value);
        Ok::<_, CommError>(())
    });
    if let Err(RankFailure { stuck, .. }) = outcome {
        assert_eq!(stuck, [0; 0], "ranks are stuck");
    }
    std::mem::take(&mut *outcomes.lock().unwrap())
}

#[test]
fn an_asynchronous_error_ends_all_ranks() {
    let Some(standin) = standin() else { return };
    let start = Instant::now();
    let errors = each(4, Duration::from_secs(20), standin, |rank| {
        rank.sum(100).unwrap();
        let error = rank.sum(BREAKS).unwrap_err();
        // And it stays so.
        (error, rank.sum(3).unwrap_err())
    });
    for (rank, errors) in errors.into_iter().enumerate() {
        let (error, again) = errors.expect("it came back");
        assert_eq!(again, error);
        let reason = match error {
            CommError::Native {
                place,
                operation,
                what,
            } if rank == 1 => {
                assert_eq!(
                    (place.as_str(), operation.as_str()),
                    ("rank 1", "all-reduce \"gradients\"")
                );
                what
            }
            CommError::Aborted { rank: 1, reason } if rank != 1 => reason,
            other => panic!("rank {rank}: {other}"),
        };
        assert!(reason.contains("remote process exited"), "{reason}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_call_that_never_ends_meets_the_deadline() {
    let Some(standin) = standin() else { return };
    let start = Instant::now();
    let deadline = Duration::from_millis(700);
    let errors = each(3, deadline, standin, |rank| rank.sum(STALLS).unwrap_err());
    let took = start.elapsed();
    let texts: Vec<String> = errors
        .into_iter()
        .map(|error| error.unwrap().to_string())
        .collect();
    assert!(
        texts
            .iter()
            .all(|text| text.contains("has not finished it 0.7 s after all")),
        "{texts:?}"
    );
    assert!(
        took >= deadline && took < Duration::from_secs(8),
        "{took:?}"
    );
}

#[test]
fn a_rank_that_is_lost_within_a_call_is_named() {
    let Some(standin) = standin() else { return };
    let start = Instant::now();
    let errors = each(4, Duration::from_secs(20), standin, |rank| {
        let input = rank.upload(vec![1.0_f32; STALLS]).unwrap();
        let call = Call::new(
            Collective::AllReduce {
                reduce: Reduce::Sum,
            },
            "gradients",
        );
        let pending = rank.transport.start(call, Buffer::Device(input)).unwrap();
        rank.transport.barrier("all have started it").unwrap();
        if rank.transport.rank() == 2 {
            resume_unwind(Box::new("on purpose"));
        }
        pending.wait().unwrap_err()
    });
    for (rank, error) in errors
        .into_iter()
        .enumerate()
        .filter(|(rank, _)| *rank != 2)
    {
        match error.expect("it came back") {
            CommError::PeerLost { rank: 2, cause, .. } => {
                assert!(cause.contains("on purpose"), "{cause}")
            }
            other => panic!("rank {rank}: {other}"),
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_mismatch_names_both_calls() {
    let Some(standin) = standin() else { return };
    let errors = each(4, Duration::from_secs(20), standin, |rank| {
        rank.sum(if rank.transport.rank() == 3 { 5 } else { 6 })
            .unwrap_err()
    });
    for error in errors {
        let Some(CommError::Mismatch {
            sequence: 0,
            first_call,
            second_call,
            ..
        }) = error
        else {
            panic!("{error:?}")
        };
        let mut calls = [first_call, second_call];
        calls.sort();
        let wanted =
            [5, 6].map(|len| format!("all-reduce Sum of {len} x F32 \"gradients\" on a device"));
        assert_eq!(calls, wanted);
    }
}

#[test]
fn a_buffer_that_is_still_being_made_is_waited_for() {
    let Some(standin) = standin() else { return };
    let found = each(2, Duration::from_secs(20), standin, |rank| {
        rank.sum(8).unwrap();
        let start = Instant::now();
        rank.sum(8).unwrap();
        let quick = start.elapsed();
        let mut input = rank.upload(vec![2_i32; 8]).unwrap();
        input.stream = SLOW;
        let start = Instant::now();
        let output = rank
            .transport
            .all_reduce(Buffer::Device(input), Reduce::Sum, "slow")
            .unwrap();
        let Buffer::Device(output) = output else {
            panic!("{output:?}")
        };
        assert_eq!(
            rank.device.download(&output).unwrap(),
            vec![4_i32; 8].into()
        );
        (quick, start.elapsed())
    });
    for times in found {
        let (quick, slow) = times.unwrap();
        assert!(quick < SLOW_FOR && slow >= SLOW_FOR, "{quick:?}, {slow:?}");
    }
}

#[test]
fn results_outlive_their_communicator() {
    let Some(standin) = standin() else { return };
    let found = each(3, Duration::from_secs(20), standin, |rank| {
        let part = rank.transport.split(Some(0), "part").unwrap().unwrap();
        let input = rank.upload(vec![1_i64; 4]).unwrap();
        let output = part
            .all_reduce(Buffer::Device(input), Reduce::Sum, "x")
            .unwrap();
        drop(part);
        let Buffer::Device(output) = output else {
            panic!("{output:?}")
        };
        assert_eq!(output.stream, 0);
        rank.device.download(&output).unwrap()
    });
    assert!(
        found
            .into_iter()
            .all(|found| found == Some(vec![3_i64; 4].into()))
    );
}

#[test]
fn buffers_of_other_devices_are_refused() {
    let Some(standin) = standin() else { return };
    let found = each(1, Duration::from_secs(20), standin, |rank| {
        let mut input = rank.upload(vec![1.0_f32]).unwrap();
        input.device = 3;
        rank.transport
            .all_reduce(Buffer::Device(input), Reduce::Sum, "x")
            .unwrap_err()
    });
    let text = found[0].as_ref().unwrap().to_string();
    assert_eq!(text, "all-reduce \"x\": a buffer on device 3, not 0");
}

#[test]
fn libraries_are_found_by_file_and_by_folder() {
    let Some(standin) = standin() else { return };
    for path in [standin, standin.parent().unwrap()] {
        assert_eq!(Library::open(Some(path)).unwrap().version(), "2.23.4");
    }
    let error = Device::open(Some(standin), 99).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("CUDA device 99 was asked for, but there are 8\n  help: "),
        "{error}"
    );
}

#[test]
fn a_missing_library_says_how_to_get_it() {
    let outcome = local::run(&world(1, Duration::from_secs(20)), |control| {
        let nowhere = Path::new("/nowhere/libnccl.so.2");
        join(control, 0, Some(nowhere), Duration::from_secs(1)).map(drop)
    });
    let What::Error(error @ CommError::Missing { .. }) = outcome.unwrap_err().what else {
        panic!("another failure")
    };
    let text = error.to_string();
    assert!(
        text.starts_with("NCCL (libnccl.so.2) cannot be opened (/nowhere/libnccl.so.2: "),
        "{text}"
    );
    assert!(
        text.contains("help: pip install nvidia-nccl-cu13"),
        "{text}"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = Device::open(Some(folder), 0).unwrap_err().to_string();
    assert!(
        text.contains("libcuda.so.1: ") && text.contains("install NVIDIA's driver"),
        "{text}"
    );
}

#[test]
fn over_tcp() {
    use kinora_comm::process::{self, Settings};
    use kinora_comm::tcp::Rendezvous;
    let Some(standin) = standin() else { return };
    let except = [
        "sums in a wider dtype come back in it",
        "half precision adds up in single and is rounded once",
        "sums add in the order of ranks",
        "the largest and the smallest are NaN if one is",
    ];
    let spawn = |check: &'static Check, ranks: usize| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let outcomes: Arc<Mutex<Vec<Option<Outcome>>>> = Arc::new(Mutex::new(vec![None; ranks]));
        std::thread::scope(|scope| {
            for rank in 0..ranks {
                let (address, found) = (&address, outcomes.clone());
                scope.spawn(move || {
                    let mut rendezvous = Rendezvous::new(address, rank, ranks, check.deadline);
                    rendezvous.patience = Duration::from_secs(20);
                    let process = rendezvous.join().unwrap();
                    let settings = Settings {
                        on_stuck: OnStuck::Leak,
                        ..Settings::new(1)
                    };
                    let _ = process::run(&process, &settings, move |control| {
                        let joined = Rank::join(control, standin, check.deadline)?;
                        let outcome = check.run(&joined.on_device());
                        found.lock().unwrap()[rank] = Some(outcome.clone());
                        outcome
                    });
                });
            }
        });
        outcomes.lock().unwrap().clone()
    };
    conformance::run(&except, spawn).unwrap_or_else(|wrongs| panic!("{wrongs}"));
}
