//! What can go wrong between ranks.

use crate::Whereabouts;
use std::time::Duration;
use thiserror::Error;

/// A collective that failed. Ranks are those of the world.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommError {
    /// Two ranks came to the same call of a communicator with different intentions.
    #[error(
        "ranks {first} and {second} disagree at call {sequence} of communicator {communicator}:\n  rank {first}: {first_call}{first_seen}\n  rank {second}: {second_call}{second_seen}\n  help: every rank must make the same calls in the same order"
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
        /// Where the first was last seen.
        first_seen: Whereabouts,
        /// Where the second was last seen.
        second_seen: Whereabouts,
    },
    /// A rank ended, failed or panicked while others needed it.
    #[error(
        "lost rank {rank} at {operation} (call {sequence} of communicator {communicator}){seen}: {cause}"
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
        /// Where it was last seen.
        seen: Whereabouts,
    },
    /// A rank gave no sign of life for as long as the deadline.
    #[error("rank {rank} is late at {operation} (call {sequence} of communicator {communicator}){seen}: no sign of life for {:.1} s\n  help: if it only does something slow, raise run.deadline", waited.as_secs_f64())]
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
        /// Where it was last seen.
        seen: Whereabouts,
    },
    /// Ranks wait for one another in a circle, each in another call.
    #[error(
        "rank {first} waits at {first_call} for rank {second}, which waits at {second_call}: no rank can go on{}{}\n  help: calls of different communicators must be made in the same order on all ranks",
        line(*first, first_seen), line(*second, second_seen)
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
        /// Where the first was last seen.
        first_seen: Whereabouts,
        /// Where the second was last seen.
        second_seen: Whereabouts,
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

/// A line of its own for a rank whose place is known.
fn line(rank: usize, seen: &Whereabouts) -> String {
    match seen.place() {
        Some(_) => format!("\n  rank {rank}{seen}"),
        None => String::new(),
    }
}

impl CommError {
    /// Adds where the ranks that it blames were last seen, if `seen` knows and it does not yet say.
    pub(crate) fn locate(mut self, seen: impl Fn(usize) -> Whereabouts) -> Self {
        let add = |rank: usize, to: &mut Whereabouts| {
            if to.place().is_none() {
                *to = seen(rank);
            }
        };
        match &mut self {
            CommError::PeerLost { rank, seen, .. } | CommError::Late { rank, seen, .. } => {
                add(*rank, seen);
            }
            CommError::Mismatch {
                first,
                second,
                first_seen,
                second_seen,
                ..
            }
            | CommError::Deadlock {
                first,
                second,
                first_seen,
                second_seen,
                ..
            } => {
                add(*first, first_seen);
                add(*second, second_seen);
            }
            _ => {}
        }
        self
    }

    /// Where `lost` was last seen, if it is the rank that this is about.
    pub(crate) fn lost_at(&self, lost: usize) -> Whereabouts {
        match self {
            CommError::PeerLost { rank, seen, .. } if *rank == lost => seen.clone(),
            _ => Whereabouts::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(rank: usize) -> Whereabouts {
        match rank {
            7 => Whereabouts::default(),
            rank => Whereabouts::at(&format!("step {rank}")),
        }
    }

    #[test]
    fn errors_say_where_ranks_were_and_read_as_before_where_nobody_knows() {
        let text = |text: &str| text.to_string();
        let late = |rank, seen| CommError::Late {
            rank,
            operation: text("barrier \"x\""),
            communicator: text("fsdp[1, 3]"),
            sequence: 88,
            waited: Duration::from_millis(60_200),
            seen,
        };
        let help = "\n  help: if it only does something slow, raise run.deadline";
        let unknown = late(7, Whereabouts::default()).locate(places);
        let said = format!(
            "rank 7 is late at barrier \"x\" (call 88 of communicator fsdp[1, 3]): no sign of life for 60.2 s{help}"
        );
        assert_eq!(unknown.to_string(), said);
        let known = late(3, Whereabouts::default()).locate(places);
        let said = format!(
            "rank 3 is late at barrier \"x\" (call 88 of communicator fsdp[1, 3]), last seen at step 3: no sign of life for 60.2 s{help}"
        );
        assert_eq!(known.to_string(), said);
        // What the rank itself has said last is not overwritten by what another heard.
        let told = late(3, Whereabouts::at("saving step 4"));
        assert_eq!(told.clone().locate(places), told);

        let circle = |second| CommError::Deadlock {
            first: 1,
            first_call: text("a"),
            second,
            second_call: text("b"),
            first_seen: Whereabouts::default(),
            second_seen: Whereabouts::default(),
        };
        let help = "\n  help: calls of different communicators must be made in the same order on all ranks";
        let said =
            format!("rank 1 waits at a for rank 7, which waits at b: no rank can go on{help}");
        assert_eq!(circle(7).to_string(), said);
        let said = format!(
            "rank 1 waits at a for rank 2, which waits at b: no rank can go on\n  rank 1, last seen at step 1\n  rank 2, last seen at step 2{help}"
        );
        assert_eq!(circle(2).locate(places).to_string(), said);
    }

    #[test]
    fn errors_stay_small() {
        // They are the Err of every call, by value.
        assert!(size_of::<CommError>() < 128, "{}", size_of::<CommError>());
    }
}
