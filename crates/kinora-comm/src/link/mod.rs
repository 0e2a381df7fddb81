//! Ranks that are processes: all collectives, over whatever carries frames between two processes.
//!
//! [`World`] is one process's end. A call sends each peer of the communicator a token, which carries
//! the call's signature and the elements for that peer, and is complete once the tokens of all have
//! come. So every rank compares its call with every other's, and knows by itself who is missing.
//! Large all-reduces and broadcasts go by slices: each rank makes one slice of the result and sends
//! it to all, so that over `p` ranks an all-reduce of `n` bytes costs each `2 n (p - 1) / p`. Sums add
//! in the order of ranks, at the owner of a slice, hence the bits are those of [`crate::local`].
//!
//! Whoever delivers the last part of a slice makes it, so a rank that does not wait for a call holds
//! up nobody. A thread of each process tells the peers how long the rank itself has been silent.

pub(crate) mod bytes;
pub(crate) mod failure;
pub(crate) mod frame;
mod gathering;
mod member;
mod watch;
mod world;

pub(crate) use member::Member;
pub(crate) use watch::watch;
pub(crate) use world::World;

use frame::Frame;
use std::fmt;
use std::time::Duration;

/// Carries frames to the other processes of a world, in order between each two. What arrives it
/// hands to [`World::deliver`], and [`World::gone`] hears when nothing more will.
pub(crate) trait Link: Send + Sync + fmt::Debug {
    /// The transport's name, for errors.
    fn name(&self) -> &'static str;

    /// Queues a frame; never waits for the peer.
    fn send(&self, to: usize, frame: Frame);

    /// Parts from all peers once this rank's work has ended, waiting no longer than the deadline.
    fn close(&self, world: &World);
}

/// Times that follow from a world's deadline.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    deadline: Duration,
    /// How often a rank tells how it is.
    tick: Duration,
    /// How long a silence is too long: what a rank tells is up to two ticks old.
    late: Duration,
    /// How often one who waits looks around.
    look: Duration,
}

impl Deadlines {
    fn new(deadline: Duration) -> Self {
        let (least, most) = (Duration::from_millis(5), Duration::from_millis(500));
        let tick = (deadline / 8).clamp(least, most);
        Self {
            deadline,
            tick,
            late: deadline + 2 * tick,
            look: (tick / 2).min(Duration::from_millis(50)),
        }
    }
}
