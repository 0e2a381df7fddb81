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

#[cfg(test)]
mod tests {
    use super::*;
    use kinora_comm::local::{self, World};
    use kinora_comm::{Buffer, CommError, Reduce, Traced, Transport};
    use std::sync::Arc;

    /// Every rule against what the traced transport counts, on one to four ranks with uneven parts.
    #[test]
    fn the_traced_transport_counts_the_same_bytes() {
        for size in 1..5_usize {
            let world = World::new(size, 1);
            let wrong = local::run(&world, move |transport| {
                let traced = Traced::new(transport);
                let ranks: Arc<dyn Transport> = Arc::new(traced.clone());
                let rank = ranks.rank();
                let lens: Vec<usize> = (0..size).map(|i| 5 + 3 * i * i).collect();
                let to = |from: usize, to: usize| 1 + 2 * from + 7 * to;
                let f32s = |len: usize| Buffer::from(vec![0.0_f32; len]);
                let bytes = |len: usize| len * size_of::<f32>();
                let total: usize = lens.iter().sum();

                ranks.all_reduce(f32s(11), Reduce::Sum, "a")?;
                ranks.all_gather(f32s(lens[rank]), lens.clone(), "b")?;
                ranks.reduce_scatter(f32s(total), Reduce::Sum, lens.clone(), "c")?;
                let table = (0..size).map(|i| (0..size).map(|j| to(i, j)).collect());
                let mine = (0..size).map(|peer| to(rank, peer)).sum();
                ranks.all_to_all(f32s(mine), table.collect(), "d")?;
                let (next, last) = ((rank + 1) % size, (rank + size - 1) % size);
                if size > 1 {
                    ranks.exchange(f32s(9), Some(next), Some(last), 9, "e")?;
                }
                ranks.broadcast(f32s(if rank == 0 { 6 } else { 0 }), 0, "f")?;

                let part = |i: usize| bytes(lens[i]);
                let mut rules = vec![
                    (Kind::AllReduce, all_reduce(bytes(11), size)),
                    (Kind::AllGather, all_gather(part, rank, size)),
                    (Kind::ReduceScatter, reduce_scatter(part, rank, size)),
                    (
                        Kind::AllToAll,
                        all_to_all(|peer| bytes(to(rank, peer)), rank, size),
                    ),
                ];
                // Alone, nobody is there to be sent to: the estimate has no such rows at all.
                if size > 1 {
                    rules.push((Kind::Exchange, exchange(bytes(9))));
                    rules.push((Kind::Broadcast, broadcast(bytes(6), rank)));
                }
                let counted = traced.traffic();
                let differ = rules.into_iter().filter(|(kind, rule)| {
                    let found = counted[kind.to_string().as_str()];
                    (found.payload, found.ring) != (rule.payload, rule.ring)
                });
                Ok::<_, CommError>(
                    differ
                        .map(|(kind, rule)| format!("{kind} on rank {rank} of {size}: {rule:?}"))
                        .collect::<Vec<_>>(),
                )
            });
            let wrong: Vec<String> = wrong
                .expect("no rank fails")
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(wrong, Vec::<String>::new());
        }
    }
}
