//! A group of ranks, or just this one.

use kinora_comm::{Buffer, CommError, HostBuffer, Reduce, Transport};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

// Well below any sensible deadline.
const BEAT: Duration = Duration::from_secs(1);

/// The ranks that take part in a collective. A group of one rank communicates nothing.
#[derive(Clone, Default)]
pub struct Group {
    transport: Option<Arc<dyn Transport>>,
}

impl Group {
    /// The group of this rank alone.
    pub fn alone() -> Self {
        Self::default()
    }

    /// The group that a communicator spans.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport: (transport.size() > 1).then_some(transport),
        }
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.transport
            .as_ref()
            .map_or(1, |transport| transport.size())
    }

    /// This rank's place in the group.
    pub fn rank(&self) -> usize {
        self.transport
            .as_ref()
            .map_or(0, |transport| transport.rank())
    }

    /// The communicator, unless the group is this rank alone.
    pub fn transport(&self) -> Option<&Arc<dyn Transport>> {
        self.transport.as_ref()
    }

    /// Parts the group: ranks of the same color form a new one. Every rank calls it.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn split(&self, color: usize, name: &str) -> Result<Self, CommError> {
        let Some(transport) = &self.transport else {
            return Ok(Self::alone());
        };
        let part = transport.split(Some(color), name)?;
        Ok(part.map_or_else(Self::alone, Self::new))
    }

    /// The sum over the group of a few host numbers, for norms and counts.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn sum(&self, values: Vec<f64>, label: &'static str) -> Result<Vec<f64>, CommError> {
        let Some(transport) = &self.transport else {
            return Ok(values);
        };
        let sums = transport.all_reduce(HostBuffer::F64(values).into(), Reduce::Sum, label)?;
        match sums {
            Buffer::Host(HostBuffer::F64(sums)) => Ok(sums),
            other => unreachable!("an all-reduce of f64 returned {other:?}"),
        }
    }

    /// Bytes of the first rank, on every rank; what the others pass is ignored.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn broadcast(
        &self,
        buffer: HostBuffer,
        label: &'static str,
    ) -> Result<HostBuffer, CommError> {
        self.broadcast_from(buffer, 0, label)
    }

    /// Bytes of rank `root`, on every rank; what the others pass is ignored.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn broadcast_from(
        &self,
        buffer: HostBuffer,
        root: usize,
        label: &'static str,
    ) -> Result<HostBuffer, CommError> {
        let Some(transport) = &self.transport else {
            return Ok(buffer);
        };
        let sent = if transport.rank() == root {
            buffer
        } else {
            HostBuffer::empty(buffer.dtype())
        };
        match transport.broadcast(sent.into(), root, label)? {
            Buffer::Host(buffer) => Ok(buffer),
            other => unreachable!("a broadcast of a host buffer returned {other:?}"),
        }
    }

    /// Waits for every rank of the group.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn barrier(&self, label: &'static str) -> Result<(), CommError> {
        match &self.transport {
            Some(transport) => transport.barrier(label),
            None => Ok(()),
        }
    }

    /// Does something long that makes no call itself, such as waiting for a disk, and gives signs of
    /// life meanwhile. What is done must have an end of its own.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(transport) = &self.transport else {
            return work();
        };
        let (done, waiting) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while waiting.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                    transport.heartbeat();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Says where this rank is, for reports of what others wait for.
    pub fn at(&self, place: &str) {
        if let Some(transport) = &self.transport {
            transport.at(place);
        }
    }

    /// Says that this rank is alive while it does something long.
    pub fn heartbeat(&self) {
        if let Some(transport) = &self.transport {
            transport.heartbeat();
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Some(t) => write!(f, "{} {}/{}", t.name(), t.rank(), t.size()),
            None => f.write_str("alone"),
        }
    }
}
