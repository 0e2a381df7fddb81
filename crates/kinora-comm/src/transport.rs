//! The interface of all transports.

use crate::{Buffer, Call, Collective, CommError, Reduce};
use std::fmt;
use std::sync::Arc;

/// One rank's end of a communicator.
///
/// Ranks in calls and results are the communicator's, from 0; [`Transport::members`] gives the
/// world's. All reductions add in the order of ranks, so that every rank gets the same bits.
pub trait Transport: Send + Sync + fmt::Debug {
    /// This rank within the communicator.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// The communicator's name, for errors.
    fn name(&self) -> &str;

    /// The members' ranks in the world, in order.
    fn members(&self) -> &[usize];

    /// The number of the device whose buffers it takes as they are; host buffers it takes either way.
    /// The same answer, a device or none, on all ranks.
    fn device(&self) -> Option<usize> {
        None
    }

    /// Begins a collective, without waiting for the peers. Several may be under way; they are matched
    /// by the order in which they were started, and may be waited for in any.
    ///
    /// # Errors
    /// If the buffer does not fit the call, or the world has failed.
    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError>;

    /// Parts the communicator: ranks of the same color form a new one, in order of rank; a rank
    /// without color joins none. Every member calls it.
    ///
    /// # Errors
    /// Those of a collective.
    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError>;

    /// Says that this rank is alive while it does something long between calls.
    fn heartbeat(&self);

    /// Says where this rank is in its work, such as `step 118, samples 472..476`, of which at most 200
    /// characters are kept. The errors of a rank that is late or lost, disagrees with another or waits
    /// in a circle hold what it said last. It counts for all communicators of the world, and is a sign
    /// of life. By default it does nothing.
    ///
    /// Between processes it costs a small frame to each peer when the place changes, so it is meant for
    /// steps rather than calls. In worlds of more than 64 ranks it goes with the next regular sign of
    /// life instead, at most an eighth of the deadline (and half a second) later, so that of a process
    /// that is killed or frozen meanwhile the peers know the place before.
    fn at(&self, _place: &str) {}

    /// The world's failure, if this rank knows of one. It asks nobody and does not wait.
    ///
    /// # Errors
    /// The failure.
    fn health(&self) -> Result<(), CommError> {
        Ok(())
    }

    /// Ends every wait of every rank of the world.
    fn abort(&self, reason: &str);
}

/// A collective under way. Dropping it leaves its result unread; the peers are not held up.
pub trait Pending: Send {
    /// Waits for the result.
    ///
    /// # Errors
    /// If the ranks disagree, one is late or lost, or the world has failed.
    fn wait(self: Box<Self>) -> Result<Buffer, CommError>;

    /// Whether [`Pending::wait`] would return at once.
    fn ready(&self) -> bool;
}

impl dyn Transport {
    fn run(
        &self,
        collective: Collective,
        buffer: Buffer,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.start(Call::new(collective, label), buffer)?.wait()
    }

    /// Starts and waits for [`Collective::AllReduce`].
    ///
    /// # Errors
    /// Those of [`Pending::wait`], as for all of the following.
    pub fn all_reduce(
        &self,
        buffer: Buffer,
        reduce: Reduce,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::AllReduce { reduce }, buffer, label)
    }

    /// Starts and waits for [`Collective::AllGather`].
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn all_gather(
        &self,
        buffer: Buffer,
        lens: Vec<usize>,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::AllGather { lens }, buffer, label)
    }

    /// Starts and waits for [`Collective::ReduceScatter`].
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn reduce_scatter(
        &self,
        buffer: Buffer,
        reduce: Reduce,
        lens: Vec<usize>,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::ReduceScatter { reduce, lens }, buffer, label)
    }

    /// Starts and waits for [`Collective::AllToAll`]; `lens[from][to]`.
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn all_to_all(
        &self,
        buffer: Buffer,
        lens: Vec<Vec<usize>>,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::AllToAll { lens }, buffer, label)
    }

    /// Starts and waits for [`Collective::Exchange`]: sends to rank `to`, and receives `len` elements
    /// from rank `from`.
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn exchange(
        &self,
        buffer: Buffer,
        to: Option<usize>,
        from: Option<usize>,
        len: usize,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::Exchange { to, from, len }, buffer, label)
    }

    /// Starts and waits for [`Collective::Broadcast`].
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn broadcast(
        &self,
        buffer: Buffer,
        root: usize,
        label: &'static str,
    ) -> Result<Buffer, CommError> {
        self.run(Collective::Broadcast { root }, buffer, label)
    }

    /// Starts and waits for [`Collective::Barrier`].
    ///
    /// # Errors
    /// See [`Pending::wait`].
    pub fn barrier(&self, label: &'static str) -> Result<(), CommError> {
        let nothing = Buffer::from(Vec::<u8>::new());
        self.run(Collective::Barrier, nothing, label).map(|_| ())
    }
}
