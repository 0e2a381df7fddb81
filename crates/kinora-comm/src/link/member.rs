//! One rank's end of a communicator of processes.

use super::frame::{Address, child};
use super::gathering::{Gathering, Room};
use super::world::{Sleeper, World};
use crate::{Buffer, Call, Collective, CommError, HostBuffer, Pending, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Member {
    world: Arc<World>,
    room: Arc<Room>,
    calls: AtomicU64,
}

struct Waiting {
    world: Arc<World>,
    room: Arc<Room>,
    address: Address,
    operation: String,
}

impl Member {
    /// The communicator of all.
    pub(crate) fn whole(world: &Arc<World>) -> Self {
        let room = Room {
            id: 0,
            name: "world".into(),
            members: (0..world.size).collect(),
            place: world.rank,
            transport: world.link().name(),
        };
        Self {
            world: world.clone(),
            room: Arc::new(room),
            calls: 0.into(),
        }
    }

    fn begin(&self, call: Call, input: HostBuffer) -> Result<Waiting, CommError> {
        let sequence = self.calls.fetch_add(1, Ordering::Relaxed);
        let operation = call.to_string();
        let address = self.world.begin(&self.room, sequence, call, input)?;
        Ok(Waiting {
            world: self.world.clone(),
            room: self.room.clone(),
            address,
            operation,
        })
    }
}

impl Transport for Member {
    fn rank(&self) -> usize {
        self.room.place
    }

    fn size(&self) -> usize {
        self.room.members.len()
    }

    fn name(&self) -> &str {
        &self.room.name
    }

    fn members(&self) -> &[usize] {
        &self.room.members
    }

    fn start(&self, call: Call, input: Buffer) -> Result<Box<dyn Pending>, CommError> {
        call.check(&input, self.rank(), self.size())?;
        let Buffer::Host(input) = input else {
            return Err(CommError::Unsupported {
                operation: call.to_string(),
                transport: self.room.transport,
                what: "device buffers".into(),
            });
        };
        Ok(Box::new(self.begin(call, input)?))
    }

    fn split(
        &self,
        color: Option<usize>,
        name: &str,
    ) -> Result<Option<Arc<dyn Transport>>, CommError> {
        let number = color.map_or(-1, |color| color as i64);
        let lens = vec![1; self.size()];
        let call = Call::new(Collective::AllGather { lens }, format!("split {name}"));
        let waiting = self.begin(call, vec![number].into())?;
        let parent = waiting.address;
        let Buffer::Host(HostBuffer::I64(colors)) = Box::new(waiting).wait()? else {
            unreachable!("a gather keeps the element type");
        };
        let Some(color) = color else {
            return Ok(None);
        };
        let same = |&i: &usize| colors[i] == color as i64;
        let places: Vec<usize> = (0..self.size()).filter(same).collect();
        let place = places.iter().position(|&i| i == self.room.place);
        let members: Vec<usize> = places.iter().map(|&i| self.room.members[i]).collect();
        let room = Room {
            id: child(parent, color),
            name: format!("{name}{members:?}"),
            members,
            place: place.expect("a rank has its own color"),
            transport: self.room.transport,
        };
        Ok(Some(Arc::new(Self {
            world: self.world.clone(),
            room: Arc::new(room),
            calls: 0.into(),
        })))
    }

    fn heartbeat(&self) {
        self.world.beat();
    }

    fn at(&self, place: &str) {
        self.world.at(place);
    }

    fn health(&self) -> Result<(), CommError> {
        let calls = self.calls.load(Ordering::Relaxed);
        self.world.failed(&self.room.name, calls, "between calls")
    }

    fn abort(&self, reason: &str) {
        let (rank, reason) = (self.world.rank, reason.to_string());
        self.world.fail(rank, CommError::Aborted { rank, reason });
    }
}

impl Waiting {
    /// Waits for all that the result is made of.
    fn gather(&self) -> Result<Gathering, CommError> {
        let world = &*self.world;
        let sequence = self.address.sequence;
        let failed = || world.failed(&self.room.name, sequence, &self.operation);
        let (since, address) = (Instant::now(), self.address);
        let sleeper = Sleeper { since, address };
        let mut state = world.lock();
        if let Some(gathering) = world.take(&mut state, address) {
            return Ok(gathering);
        }
        // A rank that waits is alive: only those that it waits for can be late.
        world.waiting.fetch_add(1, Ordering::Relaxed);
        state.sleepers.push(sleeper.clone());
        let outcome = loop {
            if let Some(gathering) = world.take(&mut state, address) {
                break Ok(gathering);
            }
            if world.has_failed() {
                drop(state);
                let error = failed();
                state = world.lock();
                if let Err(error) = error {
                    break Err(error);
                }
                continue;
            }
            match world.verdict(&mut state, &sleeper) {
                Some(error) => world.fail_in(&mut state, world.rank, error),
                None => state = world.sleep(state, world.deadlines.look),
            }
        };
        let ours = |other: &Sleeper| other.address == address;
        state.sleepers.retain(|other| !ours(other));
        drop(state);
        world.beat();
        world.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }
}

impl Pending for Waiting {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        let gathering = self.gather()?;
        self.world.beat();
        let result = gathering.result();
        result
            .map(Buffer::Host)
            .inspect_err(|error| self.world.fail(self.world.rank, error.clone()))
    }

    fn ready(&self) -> bool {
        self.world.has_failed() || self.world.complete(self.address)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.world.forget(self.address);
    }
}
