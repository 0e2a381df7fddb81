//! One rank's end of a communicator of threads.

use super::meeting::{Meeting, Room};
use super::watch::Shared;
use crate::{Buffer, Call, Collective, CommError, HostBuffer, Pending, Transport, Whereabouts};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

// How often a sleeping rank looks whether a peer is late.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) world: Arc<Shared>,
    pub(super) room: Arc<Room>,
    pub(super) rank: usize,
    pub(super) calls: AtomicU64,
}

/// A call of a communicator, as one of its ranks waits in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) room: Arc<Room>,
    pub(super) meeting: Arc<Meeting>,
    sequence: u64,
    operation: String,
}

struct Waiting {
    world: Arc<Shared>,
    place: Arc<Place>,
    rank: usize,
}

impl Member {
    fn world_rank(&self) -> usize {
        self.room.members[self.rank]
    }

    fn begin(&self, call: Call, input: HostBuffer) -> Result<Waiting, CommError> {
        self.heartbeat();
        let sequence = self.calls.fetch_add(1, Ordering::Relaxed);
        let operation = call.to_string();
        self.world.failed(&self.room.name, sequence, &operation)?;
        let meeting = self
            .room
            .bring(self.rank, sequence, call, input)
            .map_err(|error| self.world.fail(self.world_rank(), error))?;
        let (world, room) = (self.world.clone(), self.room.clone());
        let place = Arc::new(Place {
            room,
            meeting,
            sequence,
            operation,
        });
        Ok(Waiting {
            world,
            place,
            rank: self.rank,
        })
    }
}

impl Transport for Member {
    fn rank(&self) -> usize {
        self.rank
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
        call.check(&input, self.rank, self.size())?;
        let Buffer::Host(input) = input else {
            return Err(CommError::Unsupported {
                operation: call.to_string(),
                transport: "local",
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
        let meeting = waiting.place.meeting.clone();
        let Buffer::Host(HostBuffer::I64(colors)) = Box::new(waiting).wait()? else {
            unreachable!("a gather keeps the element type");
        };
        let Some(color) = color else {
            return Ok(None);
        };
        let same = |&i: &usize| colors[i] == color as i64;
        let ranks: Vec<usize> = (0..self.size()).filter(same).collect();
        let rank = ranks
            .iter()
            .position(|&i| i == self.rank)
            .expect("a rank has its own color");
        let members: Vec<usize> = ranks.iter().map(|&i| self.room.members[i]).collect();
        let room = meeting.room(color, || {
            let room = Arc::new(Room::new(format!("{name}{members:?}"), members));
            self.world.watch(&room);
            room
        });
        let world = self.world.clone();
        Ok(Some(Arc::new(Member {
            world,
            room,
            rank,
            calls: AtomicU64::new(0),
        })))
    }

    fn heartbeat(&self) {
        self.world.beat(self.world_rank());
    }

    fn at(&self, place: &str) {
        self.heartbeat();
        self.world.place(self.world_rank(), place);
    }

    fn health(&self) -> Result<(), CommError> {
        let calls = self.calls.load(Ordering::Relaxed);
        self.world.failed(&self.room.name, calls, "between calls")
    }

    fn abort(&self, reason: &str) {
        let rank = self.world_rank();
        self.world.fail(
            rank,
            CommError::Aborted {
                rank,
                reason: reason.to_string(),
            },
        );
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            operation,
            room,
            ..
        } = self;
        write!(
            f,
            "{operation} (call {sequence} of communicator {})",
            room.name
        )
    }
}

impl Place {
    /// The world ranks that have not come yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        self.meeting.missing().map(|i| self.room.members[i])
    }
}

impl Waiting {
    fn world_rank(&self) -> usize {
        self.place.room.members[self.rank]
    }

    /// Waits for all peers to make the call.
    fn wait_for_peers(&self) -> Result<(), CommError> {
        let (world, place) = (&self.world, &*self.place);
        let failed = || world.failed(&place.room.name, place.sequence, &place.operation);
        let started = Instant::now();
        while !place.meeting.complete() {
            if started.elapsed() > world.spin {
                world.list(self.world_rank(), started, &self.place);
                let outcome = self.sleep_until_complete(started, failed);
                world.unlist(&self.place);
                return outcome;
            }
            failed()?;
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn sleep_until_complete(
        &self,
        started: Instant,
        failed: impl Fn() -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        let (world, place, me) = (&self.world, &*self.place, self.world_rank());
        loop {
            let news = world.news();
            if place.meeting.complete() {
                return Ok(());
            }
            failed()?;
            if let Some(error) = self.verdict(started) {
                world.fail(me, error);
                continue;
            }
            // A rank that waits is alive: only those that it waits for can be late.
            world.beat(me);
            place
                .room
                .wait(&place.meeting, LOOK, || world.news() != news);
        }
    }

    /// What keeps this call from ever completing, if that is known.
    fn verdict(&self, started: Instant) -> Option<CommError> {
        let place = &*self.place;
        for rank in place.missing() {
            let (communicator, sequence) = (place.room.name.clone(), place.sequence);
            let operation = place.operation.clone();
            // A rank may have arrived since it was found missing, and then have ended.
            if self.world.ended(rank) && place.missing().any(|missing| missing == rank) {
                let cause = "its work had ended".to_string();
                return Some(CommError::PeerLost {
                    rank,
                    operation,
                    communicator,
                    sequence,
                    cause,
                    seen: Whereabouts::default(),
                });
            }
            if let Some(waited) = self.world.late(rank, started) {
                return Some(CommError::Late {
                    rank,
                    operation,
                    communicator,
                    sequence,
                    waited,
                    seen: Whereabouts::default(),
                });
            }
        }
        self.world.deadlock(self.world_rank(), place)
    }
}

impl Pending for Waiting {
    fn wait(self: Box<Self>) -> Result<Buffer, CommError> {
        self.wait_for_peers()?;
        let me = self.world_rank();
        self.world.beat(me);
        let result = self
            .place
            .meeting
            .result(self.rank, &self.place.room.members);
        result
            .map(Buffer::Host)
            .map_err(|error| self.world.fail(me, error))
    }

    fn ready(&self) -> bool {
        self.place.meeting.complete() || self.world.has_failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reduce;
    use crate::local::World;

    #[test]
    fn long_runs_keep_neither_calls_nor_rooms() {
        let world = Arc::new(Shared::new(&World::new(1, 1)));
        let room = Arc::new(Room::new("world".into(), vec![0]));
        world.watch(&room);
        let member = Member {
            world: world.clone(),
            room: room.clone(),
            rank: 0,
            calls: 0.into(),
        };
        let member: Arc<dyn Transport> = Arc::new(member);
        for i in 0..1000 {
            let part = member.split(Some(i), "part").unwrap().unwrap();
            part.all_reduce(vec![1.0_f32].into(), Reduce::Sum, "x")
                .unwrap();
            member
                .start(
                    Call::new(Collective::Barrier, "left"),
                    Vec::<u8>::new().into(),
                )
                .unwrap();
        }
        assert_eq!(room.under_way(), 0);
        assert!(world.watched() <= 2, "{} rooms are kept", world.watched());
    }
}
