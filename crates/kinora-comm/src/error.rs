//! What can go wrong between ranks.

use std::time::Duration;
use thiserror::Error;

/// A collective that failed. Ranks are those of the world.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommError {
    /// Two ranks came to the same call of a communicator with different intentions.
    #[error(
        "ranks {first} and {second} disagree at call {sequence} of communicator {communicator}:\n  rank {first}: {first_call}\n  rank {second}: {second_call}\n  help: every rank must make the same calls in the same order"
    )]
    Mismatch {
        /// The communicator.
        communicator: String,
        /// The call's number in it, from 0.
        sequence: u64,
        /// The rank that came first.
        first: usize,
        /// What it meant.
        first_call: String,
        /// The rank that differs.
        second: usize,
        /// What it meant.
        second_call: String,
    },
    /// A rank ended, failed or panicked while others needed it.
    #[error(
        "lost rank {rank} at {operation} (call {sequence} of communicator {communicator}): {cause}"
    )]
    PeerLost {
        /// The rank that is gone.
        rank: usize,
        /// What the others were doing.
        operation: String,
        /// The communicator.
        communicator: String,
        /// The call's number in it.
        sequence: u64,
        /// What became of it.
        cause: String,
    },
    /// A rank gave no sign of life for as long as the deadline.
    #[error("rank {rank} is late at {operation} (call {sequence} of communicator {communicator}): no sign of life for {:.1} s\n  help: if it only does something slow, raise run.deadline", waited.as_secs_f64())]
    Late {
        /// The rank that is missing.
        rank: usize,
        /// What the others wait for.
        operation: String,
        /// The communicator.
        communicator: String,
        /// The call's number in it.
        sequence: u64,
        /// Since its last sign of life.
        waited: Duration,
    },
    /// Ranks wait for one another in a circle, each in another call.
    #[error(
        "rank {first} waits at {first_call} for rank {second}, which waits at {second_call}: no rank can go on\n  help: calls of different communicators must be made in the same order on all ranks"
    )]
    Deadlock {
        /// A rank of the circle.
        first: usize,
        /// Where it waits.
        first_call: String,
        /// The rank that it waits for.
        second: usize,
        /// Where that one waits.
        second_call: String,
    },
    /// A rank asked all to stop.
    #[error("rank {rank} stopped the run: {reason}")]
    Aborted {
        /// The rank.
        rank: usize,
        /// Its reason.
        reason: String,
    },
    /// A buffer whose length does not fit the call.
    #[error(
        "{operation}: rank {rank} of the communicator must pass {wanted} elements, but passes {found}"
    )]
    BadLength {
        /// The call.
        operation: String,
        /// The rank within the communicator.
        rank: usize,
        /// The length that the call asks for.
        wanted: usize,
        /// The buffer's.
        found: usize,
    },
    /// A call that makes no sense on this communicator.
    #[error("{operation}: {what}")]
    BadCall {
        /// The call.
        operation: String,
        /// What is wrong with it.
        what: String,
    },
    /// Ranks that did not come where a world was to form.
    #[error("ranks {ranks:?} did not come to {address} within {:.0} s{}\n  help: look at what became of them; if they only start slowly, wait longer", waited.as_secs_f64(), if why.is_empty() { String::new() } else { format!(" ({why})") })]
    Absent {
        /// Those that are missing.
        ranks: Vec<usize>,
        /// Where they should have come.
        address: String,
        /// How long the others waited.
        waited: Duration,
        /// What was seen of them, or nothing.
        why: String,
    },
    /// A world that cannot form.
    #[error("no world forms at {address}: {what}")]
    Refused {
        /// Where the ranks meet.
        address: String,
        /// Why not, and what to do.
        what: String,
    },
    /// Something that this transport cannot do.
    #[error("{operation}: the {transport} transport does not take {what}")]
    Unsupported {
        /// The call.
        operation: String,
        /// The transport.
        transport: &'static str,
        /// What it cannot do.
        what: String,
    },
    /// A library or a device that the transport needs is not there, or does not serve.
    #[error("{what}\n  help: {help}")]
    Missing {
        /// What was looked for, and what was found instead.
        what: String,
        /// How to get it.
        help: String,
    },
    /// The library beneath a transport reports an error, or gives no answer.
    #[error("{operation} on {place}: {what}")]
    Native {
        /// The call.
        operation: String,
        /// The rank or the device that met it.
        place: String,
        /// The library's words.
        what: String,
    },
}
