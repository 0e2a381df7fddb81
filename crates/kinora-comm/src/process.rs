//! One rank's part of a run whose ranks are processes: its body, its end, and what failed first.

use crate::link::{Member, World};
use crate::local::{OnStuck, RankFailure, What, unwound};
use crate::{CommError, Transport};
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How a rank is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads of the rank's pool, on which Burn and rayon compute; 0 for one per core.
    pub threads: usize,
    /// Bytes of stack of each thread.
    pub stack: usize,
    /// What becomes of this rank if it does not end after the world has failed.
    pub on_stuck: OnStuck,
}

impl Settings {
    /// A pool of so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            stack: 16 << 20,
            on_stuck: OnStuck::Exit,
        }
    }
}

/// This process's place in a world of processes, as [`crate::tcp::join`] and `mpi::join` give it.
///
/// Dropping it parts from the peers, for which it waits no longer than the deadline. Over MPI that
/// is when MPI is finalized, so report what went wrong before, and let it drop before
/// `std::process::exit`.
#[derive(Debug)]
pub struct Process {
    world: Arc<World>,
    whole: Arc<Member>,
    blob: Vec<u8>,
}

impl Process {
    pub(crate) fn new(world: Arc<World>, blob: Vec<u8>) -> Self {
        let whole = Arc::new(Member::whole(&world));
        Self { world, whole, blob }
    }

    /// The communicator of all ranks.
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.whole.clone()
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.world.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.world.size
    }

    /// The bytes that rank 0 gave to all when the world formed.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Bytes of buffers that this rank has sent to others so far.
    pub fn sent(&self) -> u64 {
        self.world.sent()
    }

    /// The world's first failure as far as this rank knows, for work that cannot see it in a call.
    pub fn failure(&self) -> Option<CommError> {
        self.world.failure().map(|(_, error)| error)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.world.parted() {
            let panics = || Err("it panicked".to_string());
            self.world.end(if thread::panicking() {
                panics()
            } else {
                Ok(())
            });
        }
        self.world.link().close(&self.world);
    }
}

/// Runs this rank's body on a thread of its own with its own pool, and tells the peers how it ended.
/// Returns when the peers know.
///
/// A collective inside a graph may unwind with a [`CommError`] as payload
/// (`std::panic::resume_unwind`); it counts as that error. A body that does not end within the
/// deadline after the world has failed is stuck: see [`Settings::on_stuck`].
///
/// # Errors
/// What failed first in the world, on this rank or another; of another rank it is a [`CommError`]
/// that names it and its cause.
#[expect(
    clippy::result_large_err,
    reason = "it is returned once, at the end of a run"
)]
pub fn run<T, E, F>(process: &Process, settings: &Settings, body: F) -> Result<T, RankFailure<E>>
where
    T: Send + 'static,
    E: fmt::Display + Send + 'static,
    F: FnOnce(Arc<dyn Transport>) -> Result<T, E> + Send + 'static,
{
    let (world, rank) = (&process.world, process.rank());
    let (threads, stack) = (settings.threads, settings.stack);
    let (sender, receiver) = channel();
    let transport = process.transport();
    let work = move || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(stack)
            .thread_name(move |thread| format!("rank {rank} thread {thread}"))
            .build();
        let outcome = match pool {
            Ok(pool) => pool.install(
                || match catch_unwind(AssertUnwindSafe(|| body(transport))) {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(What::Error(error)),
                    Err(payload) => Err(unwound(payload)),
                },
            ),
            Err(error) => Err(What::Panic(format!("no thread pool: {error}"))),
        };
        // The receiver may have given up on this rank.
        let _ = sender.send(outcome);
    };
    thread::Builder::new()
        .name(format!("rank {rank}"))
        .stack_size(stack)
        .spawn(work)
        .expect("the system can start a thread for the rank");

    let mut give_up: Option<Instant> = None;
    let outcome = loop {
        let look = Duration::from_millis(50);
        let wait = give_up.map_or(look, |at| at.saturating_duration_since(Instant::now()));
        match receiver.recv_timeout(wait) {
            Ok(outcome) => break Some(outcome),
            Err(RecvTimeoutError::Timeout) if give_up.is_none() => {}
            Err(_) => break None,
        }
        if give_up.is_none() && world.has_failed() {
            give_up = Some(Instant::now() + world.deadline());
        }
    };
    let failure = match &outcome {
        Some(Ok(_)) => world.end(Ok(())),
        Some(Err(what)) => world.end(Err(what.cause())),
        None => world.end(Err("it was stuck".to_string())),
    };
    let Some((first, error)) = failure else {
        return match outcome {
            Some(Ok(value)) => Ok(value),
            _ => unreachable!("a world without failure has every result"),
        };
    };
    let stuck = if outcome.is_none() {
        vec![rank]
    } else {
        vec![]
    };
    let what = match outcome {
        Some(Err(what)) if first == rank => what.located(&error.lost_at(rank)),
        // Another rank was the first, or this one has swallowed what it met.
        _ => What::Comm(error),
    };
    let failure = RankFailure {
        rank: first,
        what,
        stuck,
    };
    if !failure.stuck.is_empty() && settings.on_stuck == OnStuck::Exit {
        // In one piece, as the reports of several processes may share a terminal.
        let report = format!("error: {failure}\n");
        let _ = std::io::stderr().write_all(report.as_bytes());
        std::process::exit(70);
    }
    Err(failure)
}
