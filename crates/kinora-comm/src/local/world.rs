//! Starting ranks as threads, watching them, and telling which one was the first to fail.

use super::meeting::Room;
use super::member::Member;
use super::watch::Shared;
use crate::{CommError, Transport, Whereabouts};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How ranks are started.
#[derive(Clone, Debug)]
pub struct World {
    /// How many.
    pub ranks: usize,
    /// Threads of each rank's pool, on which Burn and rayon compute; 0 for one per core.
    pub threads: usize,
    /// How long a rank may give no sign of life while others wait for it.
    pub deadline: Duration,
    /// Bytes of stack of each thread.
    pub stack: usize,
    /// What becomes of a rank that does not end after the others have failed.
    pub on_stuck: OnStuck,
}

impl World {
    /// `ranks` ranks of `threads` threads each, with a deadline of a minute.
    pub fn new(ranks: usize, threads: usize) -> Self {
        Self {
            ranks,
            threads,
            deadline: Duration::from_secs(60),
            stack: 16 << 20,
            on_stuck: OnStuck::Exit,
        }
    }
}

/// What becomes of a rank that does not end after the others have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStuck {
    /// The process exits with code 70, after naming the rank.
    Exit,
    /// It is left behind, and reported.
    Leak,
}

/// The first failure of a world.
#[derive(Debug)]
pub struct RankFailure<E> {
    /// The rank that failed first.
    pub rank: usize,
    /// How.
    pub what: What<E>,
    /// Ranks that did not end afterwards.
    pub stuck: Vec<usize>,
}

/// How a rank failed.
#[derive(Debug)]
pub enum What<E> {
    /// Its body returned an error.
    Error(E),
    /// It panicked: with this text, and a line for where it was last seen, if it ever said.
    Panic(String),
    /// A collective inside a graph failed.
    Comm(CommError),
}

impl<E: fmt::Display> What<E> {
    pub(crate) fn cause(&self) -> String {
        match self {
            What::Error(error) => format!("it failed: {error}"),
            What::Panic(text) => format!("it panicked: {text}"),
            What::Comm(error) => format!("it failed: {error}"),
        }
    }

    /// A panic knows nothing of places; all else says them itself.
    pub(crate) fn located(self, seen: &Whereabouts) -> Self {
        match (self, seen.place()) {
            (What::Panic(text), Some(place)) => {
                What::Panic(format!("{text}\n  last seen at {place}"))
            }
            (what, _) => what,
        }
    }
}

impl<E: fmt::Display> fmt::Display for RankFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Error(error) => write!(f, "rank {}: {error}", self.rank)?,
            What::Panic(text) => write!(f, "rank {} panicked: {text}", self.rank)?,
            What::Comm(error) => write!(f, "rank {}: {error}", self.rank)?,
        }
        if self.stuck.is_empty() {
            return Ok(());
        }
        write!(f, "\n  ranks {:?} did not end afterwards", self.stuck)
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for RankFailure<E> {}

/// Runs `body` on every rank, each on its own thread with its own pool, and returns their results in
/// order. A panic, an error or a failed collective of one rank ends all others.
///
/// A collective inside a graph may unwind with a [`CommError`] as payload
/// (`std::panic::resume_unwind`); it counts as that error.
///
/// # Errors
/// The first failure: a rank that only failed because a peer was lost is not reported.
#[expect(
    clippy::result_large_err,
    reason = "it is returned once, at the end of a run"
)]
pub fn run<T, E, F>(world: &World, body: F) -> Result<Vec<T>, RankFailure<E>>
where
    T: Send + 'static,
    E: fmt::Display + Send + 'static,
    F: Fn(Arc<dyn Transport>) -> Result<T, E> + Send + Sync + 'static,
{
    let shared = Arc::new(Shared::new(world));
    let room = Arc::new(Room::new("world".into(), (0..world.ranks).collect()));
    shared.watch(&room);
    let body = Arc::new(body);
    let (sender, receiver) = channel();
    for rank in 0..world.ranks {
        let (shared, room, body) = (shared.clone(), room.clone(), body.clone());
        let (sender, threads, stack) = (sender.clone(), world.threads, world.stack);
        let work = move || {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .stack_size(stack)
                .thread_name(move |thread| format!("rank {rank} thread {thread}"))
                .build();
            let outcome = match pool {
                Ok(pool) => pool.install(|| {
                    let world = shared.clone();
                    let member = Member {
                        world,
                        room,
                        rank,
                        calls: AtomicU64::new(0),
                    };
                    let run = AssertUnwindSafe(|| body(Arc::new(member)));
                    match catch_unwind(run) {
                        Ok(Ok(value)) => Ok(value),
                        Ok(Err(error)) => Err(What::Error(error)),
                        Err(payload) => Err(unwound(payload)),
                    }
                }),
                Err(error) => Err(What::Panic(format!("no thread pool: {error}"))),
            };
            match &outcome {
                Ok(_) => shared.end(rank),
                Err(what) => shared.lose(rank, what.cause()),
            }
            // The receiver may have given up on this rank.
            let _ = sender.send((rank, outcome));
        };
        let name = format!("rank {rank}");
        thread::Builder::new()
            .name(name)
            .stack_size(world.stack)
            .spawn(work)
            .expect("the system can start a thread for each rank");
    }
    drop(sender);

    let mut outcomes: Vec<Option<Result<T, What<E>>>> = (0..world.ranks).map(|_| None).collect();
    let mut give_up: Option<Instant> = None;
    while outcomes.iter().any(Option::is_none) {
        let wait = give_up.map_or(Duration::from_millis(200), |at| {
            at.saturating_duration_since(Instant::now())
        });
        match receiver.recv_timeout(wait) {
            Ok((rank, outcome)) => outcomes[rank] = Some(outcome),
            Err(RecvTimeoutError::Timeout) if give_up.is_none() => {}
            Err(_) => break,
        }
        if give_up.is_none() && shared.has_failed() {
            give_up = Some(Instant::now() + world.deadline);
        }
    }
    let stuck: Vec<usize> = (0..world.ranks)
        .filter(|&rank| outcomes[rank].is_none())
        .collect();
    let failure = shared.take_failure();
    let Some((rank, first)) = failure else {
        return Ok(outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Some(Ok(value)) => value,
                _ => unreachable!("a world without failure has every result"),
            })
            .collect());
    };
    let what = match outcomes[rank].take() {
        Some(Err(what)) => what.located(&first.lost_at(rank)),
        // The rank that reported the failure has swallowed it, or is stuck itself.
        _ => What::Comm(first),
    };
    let failure = RankFailure { rank, what, stuck };
    if !failure.stuck.is_empty() && world.on_stuck == OnStuck::Exit {
        eprintln!("error: {failure}");
        std::process::exit(70);
    }
    Err(failure)
}

/// What a body that unwound has met.
pub(crate) fn unwound<E>(payload: Box<dyn Any + Send>) -> What<E> {
    match payload.downcast::<CommError>() {
        Ok(error) => What::Comm(*error),
        Err(payload) => What::Panic(match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => match payload.downcast::<&'static str>() {
                Ok(text) => (*text).to_string(),
                Err(_) => "with a payload that is no text".to_string(),
            },
        }),
    }
}
