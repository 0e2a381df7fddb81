//! Who is late, who has ended, and who waits in a circle.

use super::frame::{Message, Wait};
use super::gathering::Mine;
use super::world::{Sleeper, State, World};
use crate::{CommError, Whereabouts};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

/// Tells the peers regularly how this rank is, until the world is dropped. The thread that does it
/// is no sign of life of the rank: it passes on when the last one was.
pub(crate) fn watch(world: &Arc<World>) {
    let (weak, tick) = (Arc::downgrade(world), world.deadlines.tick);
    let work = move || {
        while let Some(world) = Weak::upgrade(&weak) {
            world.tick();
            drop(world);
            thread::sleep(tick);
        }
    };
    thread::Builder::new()
        .name(format!("signs of rank {}", world.rank))
        .spawn(work)
        .expect("the system can start a thread for each world");
}

pub(super) fn describe(mine: &Mine) -> String {
    let (call, sequence, name) = (&mine.call, mine.sequence, &mine.room.name);
    format!("{call} (call {sequence} of communicator {name})")
}

impl World {
    fn tick(&self) {
        let tick = self.deadlines.tick;
        let mut state = self.lock();
        // While this process did not run, it could not hear anyone: that time does not count.
        let gap = state.ticked.elapsed();
        if gap > 2 * tick {
            for peer in &mut state.peers {
                peer.beat += gap - tick;
                peer.heard += gap - tick;
            }
        }
        state.ticked = Instant::now();
        let old = |sleeper: &&Sleeper| sleeper.since.elapsed() > self.deadlines.deadline / 2;
        let waits: Vec<Wait> = state
            .sleepers
            .iter()
            .filter(old)
            .filter_map(|sleeper| self.wait_of(&state, sleeper))
            .collect();
        self.tell_place(&mut state);
        self.tell(&state, &Message::Beat(self.silence(), waits));
    }

    /// A wait of this rank, if something is still missing.
    fn wait_of(&self, state: &State, sleeper: &Sleeper) -> Option<Wait> {
        let gathering = state.calls.get(&sleeper.address)?;
        let mine = gathering.mine()?;
        let rank = |place: usize| mine.room.members[place];
        let missing: Vec<usize> = gathering.missing().into_iter().map(rank).collect();
        let since = sleeper.since.elapsed();
        (!missing.is_empty()).then(|| Wait {
            place: describe(mine),
            since,
            missing,
        })
    }

    /// What keeps a call from ever completing, if that is known.
    pub(super) fn verdict(&self, state: &mut State, sleeper: &Sleeper) -> Option<CommError> {
        // A process that did not run for a while must first hear what has come meanwhile.
        if state.ticked.elapsed() > 2 * self.deadlines.tick {
            return None;
        }
        let gathering = state.calls.get(&sleeper.address)?;
        let mine = gathering.mine()?;
        for place in gathering.missing() {
            let rank = mine.room.members[place];
            let peer = &state.peers[rank];
            let (communicator, sequence) = (mine.room.name.clone(), mine.sequence);
            let operation = mine.call.to_string();
            if peer.ended {
                return Some(CommError::PeerLost {
                    rank,
                    operation,
                    communicator,
                    sequence,
                    cause: "its work had ended".to_string(),
                    seen: Whereabouts::default(),
                });
            }
            let waited = peer.beat.elapsed().min(sleeper.since.elapsed());
            if waited > self.deadlines.late && rank != self.rank {
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
        let circle = self.circle(state, sleeper);
        if circle.is_none() {
            state.circle = None;
            return None;
        }
        // What the ranks tell is a little old: a circle must still be there when all have spoken
        // again.
        let since = *state.circle.get_or_insert_with(Instant::now);
        circle.filter(|_| since.elapsed() > 3 * self.deadlines.tick)
    }

    /// Whether this rank waits in vain, because all that it waits for wait themselves, directly or
    /// not, for one of them. Such a circle never opens again once it is closed; but a rank may have
    /// a second thread that is about to open it, hence the deadline.
    fn circle(&self, state: &State, sleeper: &Sleeper) -> Option<CommError> {
        let deadline = self.deadlines.deadline;
        let asleep = |rank: usize| -> Vec<Wait> {
            let waits: Vec<Wait> = if rank == self.rank {
                let own = state.sleepers.iter();
                own.filter_map(|sleeper| self.wait_of(state, sleeper))
                    .collect()
            } else {
                let told = state.peers[rank].waits.iter();
                told.map(|(_, wait)| wait.clone()).collect()
            };
            waits
                .into_iter()
                .filter(|wait| wait.since > deadline)
                .collect()
        };
        let mut reached = vec![self.rank];
        let mut next = 0;
        while let Some(&rank) = reached.get(next) {
            let waits = asleep(rank);
            if waits.is_empty() {
                return None;
            }
            for missing in waits.into_iter().flat_map(|wait| wait.missing) {
                if missing < self.size && !reached.contains(&missing) {
                    reached.push(missing);
                }
            }
            next += 1;
        }
        let own = self.wait_of(state, sleeper)?;
        let second = *own.missing.first()?;
        Some(CommError::Deadlock {
            first: self.rank,
            first_call: own.place,
            second,
            second_call: asleep(second).into_iter().next()?.place,
            first_seen: Whereabouts::default(),
            second_seen: Whereabouts::default(),
        })
    }
}
