//! A transport that counts what passes through it.

use crate::{Buffer, Call, Collective, CommError, Pending, Transport};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What one rank has sent, by kind of collective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Calls.
    pub calls: u64,
    /// Bytes that this rank passed in.
    pub payload: u64,
    /// Bytes that this rank sends by the usual algorithms, over `p` ranks: `2 n (p - 1) / p` for an
    /// all-reduce of `n` bytes; every part but its successor's for an all-gather, and every part but
    /// its own for a reduce-scatter, both round a ring; what is for others for an all-to-all and an
    /// exchange; the buffer once for the root of a broadcast, and nothing for the others, which do
    /// not know its length beforehand.
    pub ring: u64,
}

/// Counts the calls of a communicator and of all that are split off it.
#[derive(Clone, Debug)]
pub struct Traced {
    inner: Arc<dyn Transport>,
    counts: Arc<Mutex<BTreeMap<&'static str, Traffic>>>,
}

impl Traced {
    /// Counts from now on.
    pub fn new(inner: Arc<dyn Transport>) -> Self {
        Self {
            inner,
            counts: Arc::default(),
        }
    }

    /// What has been counted, by kind of collective.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn account(call: &Call, buffer: &Buffer, rank: usize, size: usize) -> (&'static str, Traffic) {
    let width = buffer.dtype().size() as u64;
    let payload = buffer.len() as u64 * width;
    let peers = size as u64 - 1;
    let total = |lens: &[usize]| lens.iter().sum::<usize>() as u64 * width;
    let (kind, ring) = match &call.collective {
        Collective::AllReduce { .. } => ("all-reduce", 2 * payload * peers / size as u64),
        Collective::AllGather { lens } => {
            // A rank passes on every part but its successor's.
            (
                "all-gather",
                total(lens) - lens[(rank + 1) % size] as u64 * width,
            )
        }
        Collective::ReduceScatter { lens, .. } => {
            ("reduce-scatter", total(lens) - lens[rank] as u64 * width)
        }
        Collective::AllToAll { lens } => (
            "all-to-all",
            total(&lens[rank]) - lens[rank][rank] as u64 * width,
        ),
        Collective::Broadcast { .. } => ("broadcast", payload * u64::from(peers > 0)),
        Collective::Exchange { to, .. } => {
            ("exchange", if *to == Some(rank) { 0 } else { payload })
        }
        Collective::Barrier => ("barrier", 0),
    };
    (
        kind,
        Traffic {
            calls: 1,
            payload,
            ring: if size == 1 { 0 } else { ring },
        },
    )
}

impl Transport for Traced {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn members(&self) -> &[usize] {
        self.inner.members()
    }

    fn device(&self) -> Option<usize> {
        self.inner.device()
    }

    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        call.check(&input, self.rank(), self.size())?;
        let (kind, more) = account(&call, &input, self.rank(), self.size());
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(kind).or_default();
            count.calls += more.calls;
            count.payload += more.payload;
            count.ring += more.ring;
        }
        self.inner.start(call, input)
    }

    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError> {
        let part = self.inner.split(color, name)?;
        let counts = self.counts.clone();
        Ok(part.map(|inner| Arc::new(Self { inner, counts }) as Arc<dyn Transport>))
    }

    fn heartbeat(&self) {
        self.inner.heartbeat();
    }

    fn at(&self, place: &str) {
        self.inner.at(place);
    }

    fn health(&self) -> Result<(), CommError> {
        self.inner.health()
    }

    fn abort(&self, reason: &str) {
        self.inner.abort(reason);
    }
}
