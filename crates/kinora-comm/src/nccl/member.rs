//! One rank's end of a communicator whose device buffers go over NCCL.

use super::Setup;
use super::communicator::{Communicator, Fate};
use crate::{Buffer, Call, Collective, CommError, DeviceBuffer, HostBuffer, Pending, Transport};
use std::fmt;
use std::sync::Arc;

/// The label of the barrier that ends the forming of communicators.
pub(super) const FORMED: &str = "NCCL communicators are formed";

pub(super) struct Member {
    setup: Setup,
    fate: Arc<Fate>,
    // The caller's calls; and those that set up NCCL, which are not counted among them.
    calls: Arc<dyn Transport>,
    aside: Arc<dyn Transport>,
    communicator: Arc<Communicator>,
}

/// A call under way.
struct Waiting {
    communicator: Arc<Communicator>,
    number: u64,
}

/// A barrier that was given a buffer of a device.
struct Passed {
    barrier: Box<dyn Pending>,
    buffer: DeviceBuffer,
}

impl Member {
    /// Makes an NCCL communicator of the members of `calls` and `aside`, which are the same.
    pub(super) fn form(
        setup: Setup,
        fate: Arc<Fate>,
        calls: Arc<dyn Transport>,
        aside: Arc<dyn Transport>,
    ) -> Result<Self, CommError> {
        let id = if aside.rank() == 0 {
            setup.library.unique_id().map_err(|what| {
                aside.abort(&what);
                CommError::Native {
                    operation: format!("forming {}", calls.name()),
                    place: format!("rank {}", calls.members()[0]),
                    what,
                }
            })?
        } else {
            vec![]
        };
        let id = aside.broadcast(id.into(), 0, "identity of an NCCL communicator")?;
        let Buffer::Host(HostBuffer::U8(id)) = id else {
            unreachable!("a broadcast keeps the kind of its buffer");
        };
        let communicator = Communicator::join(&setup, fate.clone(), calls.clone(), &id)?;
        Ok(Self {
            setup,
            fate,
            calls,
            aside,
            communicator: Arc::new(communicator),
        })
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup {
            library, device, ..
        } = &self.setup;
        write!(f, "{library:?} on {device:?} beside {:?}", self.calls)
    }
}

impl Transport for Member {
    fn rank(&self) -> usize {
        self.calls.rank()
    }

    fn size(&self) -> usize {
        self.calls.size()
    }

    fn name(&self) -> &str {
        self.calls.name()
    }

    fn members(&self) -> &[usize] {
        self.calls.members()
    }

    fn device(&self) -> Option<usize> {
        Some(self.setup.device.number())
    }

    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        call.check(&input, self.rank(), self.size())?;
        self.fate.check()?;
        let buffer = match input {
            Buffer::Host(_) => return self.calls.start(call, input),
            Buffer::Device(buffer) => buffer,
        };
        let own = self.setup.device.number();
        if buffer.device != own {
            return Err(CommError::BadCall {
                operation: call.to_string(),
                what: format!("a buffer on device {}, not {own}", buffer.device),
            });
        }
        if call.collective == Collective::Barrier {
            let barrier = self.calls.start(call, Vec::<u8>::new().into())?;
            return Ok(Box::new(Passed { barrier, buffer }));
        }
        let number = self.communicator.begin(call, buffer)?;
        Ok(Box::new(Waiting {
            communicator: self.communicator.clone(),
            number,
        }))
    }

    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError> {
        self.fate.check()?;
        let parts = (
            self.calls.split(color, name)?,
            self.aside.split(color, name)?,
        );
        let part = match parts {
            (Some(calls), Some(aside)) => {
                let part = Self::form(self.setup.clone(), self.fate.clone(), calls, aside)?;
                Some(Arc::new(part) as Arc<dyn Transport>)
            }
            _ => None,
        };
        // Or a part that is quick, and fails at once, would take down those that are still forming.
        self.aside.barrier(FORMED)?;
        Ok(part)
    }

    fn heartbeat(&self) {
        self.calls.heartbeat();
        self.communicator.go_on();
    }

    fn at(&self, place: &str) {
        self.calls.at(place);
    }

    fn health(&self) -> Result<(), CommError> {
        self.fate.check()?;
        self.calls.health()
    }

    fn abort(&self, reason: &str) {
        self.calls.abort(reason);
    }
}

impl Pending for Waiting {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        self.communicator.finish(self.number).map(Buffer::Device)
    }

    fn ready(&self) -> bool {
        self.communicator.ready(self.number)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.communicator.abandon(self.number);
    }
}

impl Pending for Passed {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        self.barrier.wait()?;
        Ok(Buffer::Device(self.buffer))
    }

    fn ready(&self) -> bool {
        self.barrier.ready()
    }
}
