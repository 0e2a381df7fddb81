//! What one call of a collective moves, by the rules of `kinora-comm`'s traced transport.

use serde::Serialize;
use std::fmt;

/// A collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The sum, everywhere.
    AllReduce,
    /// The parts, everywhere.
    AllGather,
    /// The sum, each rank its part.
    ReduceScatter,
    /// To each rank its own.
    AllToAll,
    /// To one rank, from one rank.
    Exchange,
    /// From the first rank to all.
    Broadcast,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::AllReduce => "all-reduce",
            Kind::AllGather => "all-gather",
            Kind::ReduceScatter => "reduce-scatter",
            Kind::AllToAll => "all-to-all",
            Kind::Exchange => "exchange",
            Kind::Broadcast => "broadcast",
        })
    }
}

/// Bytes that one rank passes in, and that it sends by the usual algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub payload: u64,
    pub ring: u64,
}

/// Over `size` ranks, of `bytes` on each.
pub(super) fn all_reduce(bytes: usize, size: usize) -> Bytes {
    let payload = bytes as u64;
    Bytes {
        payload,
        ring: 2 * payload * (size as u64 - 1) / size as u64,
    }
}

/// Of parts of `bytes(rank)`: a rank passes on every part but its successor's.
pub(super) fn all_gather(bytes: impl Fn(usize) -> usize, rank: usize, size: usize) -> Bytes {
    let total: usize = (0..size).map(&bytes).sum();
    gathered(total, bytes(rank), bytes((rank + 1) % size), size)
}

/// The same where the total is known.
pub(super) fn gathered(total: usize, own: usize, successor: usize, size: usize) -> Bytes {
    Bytes {
        payload: own as u64,
        ring: if size == 1 {
            0
        } else {
            (total - successor) as u64
        },
    }
}

/// To parts of `bytes(rank)`: a rank sends on every part but its own.
pub(super) fn reduce_scatter(bytes: impl Fn(usize) -> usize, rank: usize, size: usize) -> Bytes {
    scattered((0..size).map(&bytes).sum(), bytes(rank), size)
}

/// The same where the total is known.
pub(super) fn scattered(total: usize, own: usize, size: usize) -> Bytes {
    Bytes {
        payload: total as u64,
        ring: if size == 1 { 0 } else { (total - own) as u64 },
    }
}

/// Of `bytes(peer)` for each peer.
pub(super) fn all_to_all(bytes: impl Fn(usize) -> usize, rank: usize, size: usize) -> Bytes {
    let total: usize = (0..size).map(&bytes).sum();
    Bytes {
        payload: total as u64,
        ring: (total - bytes(rank)) as u64,
    }
}

/// Of `bytes` to another rank.
pub(super) fn exchange(bytes: usize) -> Bytes {
    Bytes {
        payload: bytes as u64,
        ring: bytes as u64,
    }
}

/// Of `bytes` from rank 0; the others do not know the length beforehand.
pub(super) fn broadcast(bytes: usize, rank: usize) -> Bytes {
    let payload = if rank == 0 { bytes as u64 } else { 0 };
    Bytes {
        payload,
        ring: payload,
    }
}
