//! Ranks as processes that MPI starts and connects, for clusters whose fabric or launcher is MPI's.
//!
//! All calls to MPI come from one thread, and only point-to-point messages are used: the collectives
//! are those of the processes over TCP, with the same bits, deadlines and errors. Start with
//! `mpirun -n 4 program`.
//!
//! ```no_run
//! use kinora_comm::process::{self, Settings};
//! use kinora_comm::{CommError, Reduce, mpi};
//! let process = mpi::join(std::time::Duration::from_secs(60))?;
//! let sum = process::run(&process, &Settings::new(1), |world| {
//!     world.all_reduce(vec![1.0_f32].into(), Reduce::Sum, "how many")
//! });
//! if let Err(failure) = sum {
//!     eprintln!("error: {failure}");
//!     // MPI is finalized here, or all processes are ended if one does not come.
//!     drop(process);
//!     std::process::exit(1);
//! }
//! # Ok::<(), CommError>(())
//! ```

mod progress;
#[expect(
    unsafe_code,
    reason = "MPI is a C library, whose requests borrow buffers"
)]
mod raw;

use crate::CommError;
use crate::link::frame::Frame;
use crate::link::{Link, World, watch};
use crate::process::Process;
use progress::{Order, Orders, progress};
use raw::Mpi;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

// MPI's own start and end, in which this program has no say.
const PATIENCE: Duration = Duration::from_secs(120);

/// Joins the world of all processes that MPI has started. Once in a process.
///
/// # Errors
/// [`CommError::Refused`] with what MPI answers.
pub fn join(deadline: Duration) -> Result<Process, CommError> {
    let fabric = Fabric::join()?;
    let epoch = fabric.worlds.fetch_add(1, Ordering::Relaxed);
    let (orders, rank, size) = (fabric.orders.clone(), fabric.rank, fabric.size);
    Ok(open(orders, epoch, (rank, size), deadline, Some(fabric)))
}

/// What connects the processes that MPI has started: for programs that form one world after the
/// other. Dropping it ends MPI, together with all other processes.
pub struct Fabric {
    rank: usize,
    size: usize,
    worlds: AtomicU64,
    orders: Arc<Orders>,
    finished: Mutex<Option<Receiver<()>>>,
}

impl Fabric {
    /// Starts MPI. Once in a process.
    ///
    /// # Errors
    /// [`CommError::Refused`] with what MPI answers.
    pub fn join() -> Result<Self, CommError> {
        let refused = |what: String| {
            let address = "MPI".to_string();
            CommError::Refused { address, what }
        };
        let orders = Arc::new(Orders::default());
        let (sender, answer) = channel();
        let (finish, finished) = channel();
        let obeyed = orders.clone();
        let work = move || {
            let mpi = match Mpi::init() {
                Ok(mpi) => mpi,
                Err(what) => {
                    let _ = sender.send(Err(what));
                    return;
                }
            };
            let _ = sender.send(Ok((mpi.rank, mpi.size)));
            // Without this thread every rank would wait in vain.
            if catch_unwind(AssertUnwindSafe(|| progress(&mpi, &obeyed))).is_err() {
                eprintln!(
                    "error: rank {}: what came over MPI could not be dealt with",
                    mpi.rank
                );
                mpi.abort(70);
                std::process::exit(70);
            }
            mpi.finalize();
            let _ = finish.send(());
        };
        let thread = thread::Builder::new().name("MPI".into()).spawn(work);
        thread.map_err(|error| refused(format!("no thread for it: {error}")))?;
        let (rank, size) = answer
            .recv_timeout(PATIENCE)
            .map_err(|_| refused(format!("it did not start within {} s\n  help: start the program with mpirun, and look at what it prints", PATIENCE.as_secs())))?
            .map_err(refused)?;
        Ok(Self {
            rank,
            size,
            worlds: AtomicU64::new(0),
            orders,
            finished: Mutex::new(Some(finished)),
        })
    }

    /// This process among those that MPI has started.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes that MPI has started.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Forms a world of the first `ranks` processes, or of all if there are no more; `None` on those
    /// that are not among them. Every process calls it, in the same order.
    pub fn world(&self, ranks: usize, deadline: Duration) -> Option<Process> {
        let epoch = self.worlds.fetch_add(1, Ordering::Relaxed);
        if self.rank >= ranks {
            self.orders.give(Order::Shut(epoch));
            return None;
        }
        let place = (self.rank, ranks.min(self.size));
        let orders = self.orders.clone();
        Some(open(orders, epoch, place, deadline, None))
    }

    /// Ends MPI, which waits for all processes; gives up when that takes too long.
    fn finish(&self) {
        let finished = self
            .finished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(finished) = finished else { return };
        self.orders.give(Order::Finish);
        if finished.recv_timeout(PATIENCE).is_err() {
            eprintln!(
                "error: rank {}: MPI did not end within {} s, as another process has not",
                self.rank,
                PATIENCE.as_secs()
            );
            std::process::exit(70);
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.rank, self.size)
    }
}

fn open(
    orders: Arc<Orders>,
    epoch: u64,
    (rank, size): (usize, usize),
    deadline: Duration,
    sole: Option<Fabric>,
) -> Process {
    let channel = Channel {
        orders: orders.clone(),
        epoch,
        sole: Mutex::new(sole),
    };
    let world = Arc::new(World::new(rank, size, deadline, Arc::new(channel)));
    orders.give(Order::Open(epoch, world.clone()));
    watch(&world);
    Process::new(world, vec![])
}

/// What carries one world's frames.
#[derive(Debug)]
struct Channel {
    orders: Arc<Orders>,
    epoch: u64,
    // What ends with this world.
    sole: Mutex<Option<Fabric>>,
}

impl Link for Channel {
    fn name(&self) -> &'static str {
        "mpi"
    }

    fn send(&self, to: usize, frame: Frame) {
        self.orders.give(Order::Send(to, self.epoch, frame));
    }

    fn close(&self, world: &World) {
        // The peers wait for an answer to their goodbyes, and MPI ends only with all processes.
        let outcome = world.wait_for_goodbyes();
        let sole = self
            .sole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (Err(missing), Some(_)) = (outcome, &sole) {
            let rank = world.rank;
            let report = format!(
                "error: rank {rank}: ranks {missing:?} do not end; MPI ends all processes\n"
            );
            let _ = std::io::stderr().write_all(report.as_bytes());
            self.orders.give(Order::Abort(70));
            // The order ends this process too.
            thread::sleep(world.deadline());
            std::process::exit(70);
        }
        self.orders.give(Order::Shut(self.epoch));
        // MPI ends here, if nothing else needs it.
        drop(sole);
    }
}
