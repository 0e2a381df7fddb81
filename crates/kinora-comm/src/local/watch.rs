//! What the ranks of a world know of one another: signs of life, ends, and the first failure.

use super::meeting::Room;
use super::member::Place;
use super::world::World;
use crate::{CommError, Whereabouts};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

// Peers that compute the same thing arrive within microseconds; longer waits must leave the core to
// whoever else needs it.
const SPIN: Duration = Duration::from_micros(20);

/// What the ranks of a world share besides their rooms.
#[derive(Debug)]
pub(super) struct Shared {
    deadline: Duration,
    /// How long to look out for peers before sleeping.
    pub(super) spin: Duration,
    start: Instant,
    // Milliseconds from `start` to each rank's last sign of life.
    beats: Vec<AtomicU64>,
    ended: Vec<AtomicBool>,
    // Where each rank said last that it was.
    places: Vec<Mutex<Whereabouts>>,
    has_failed: AtomicBool,
    // Counts failures and ends, so that a rank about to sleep sees that it has missed one.
    news: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failure: Option<(usize, CommError)>,
    rooms: Vec<Weak<Room>>,
    sleepers: Vec<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    rank: usize,
    since: Instant,
    place: Arc<Place>,
}

impl Shared {
    pub(super) fn new(world: &World) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            // With fewer cores than ranks, the peer may need the one that this rank would burn.
            spin: if world.ranks <= cores {
                SPIN
            } else {
                Duration::ZERO
            },
            deadline: world.deadline,
            start: Instant::now(),
            beats: (0..world.ranks).map(|_| AtomicU64::new(0)).collect(),
            ended: (0..world.ranks).map(|_| AtomicBool::new(false)).collect(),
            places: (0..world.ranks).map(|_| Mutex::default()).collect(),
            has_failed: AtomicBool::new(false),
            news: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, rank: usize) {
        self.beats[rank].store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long a rank has given no sign of life, if that is too long for one who waits since `since`.
    pub(super) fn late(&self, rank: usize, since: Instant) -> Option<Duration> {
        let beat = Duration::from_millis(self.beats[rank].load(Ordering::Relaxed));
        let silent = self
            .start
            .elapsed()
            .saturating_sub(beat)
            .min(since.elapsed());
        (silent > self.deadline).then_some(silent)
    }

    /// Notes where a rank says that it is.
    pub(super) fn place(&self, rank: usize, place: &str) {
        let place = Whereabouts::at(place);
        *self.places[rank]
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn seen(&self, rank: usize) -> Whereabouts {
        let place = self.places[rank].lock();
        place.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn ended(&self, rank: usize) -> bool {
        self.ended[rank].load(Ordering::Acquire)
    }

    pub(super) fn end(&self, rank: usize) {
        self.ended[rank].store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// The world's failure, as one who is doing `operation` sees it.
    pub(super) fn failed(
        &self,
        communicator: &str,
        sequence: u64,
        operation: &str,
    ) -> Result<(), CommError> {
        if !self.has_failed() {
            return Ok(());
        }
        let state = self.lock();
        let Some((_, error)) = &state.failure else {
            return Ok(());
        };
        Err(match error {
            CommError::PeerLost {
                rank, cause, seen, ..
            } => CommError::PeerLost {
                rank: *rank,
                operation: operation.to_string(),
                communicator: communicator.to_string(),
                sequence,
                cause: cause.clone(),
                seen: seen.clone(),
            },
            other => other.clone(),
        })
    }

    /// Records the world's first failure, as rank `rank` met it, and wakes all. Returns the error
    /// with what is known of the places of the ranks in it.
    pub(super) fn fail(&self, rank: usize, error: CommError) -> CommError {
        let error = error.locate(|rank| self.seen(rank));
        let mut state = self.lock();
        state.failure.get_or_insert_with(|| (rank, error.clone()));
        self.has_failed.store(true, Ordering::Release);
        drop(state);
        self.wake();
        error
    }

    pub(super) fn take_failure(&self) -> Option<(usize, CommError)> {
        self.lock().failure.take()
    }

    /// Records that a rank has ended badly.
    pub(super) fn lose(&self, rank: usize, cause: String) {
        let nothing = String::new;
        self.fail(
            rank,
            CommError::PeerLost {
                rank,
                operation: nothing(),
                communicator: nothing(),
                sequence: 0,
                cause,
                seen: Whereabouts::default(),
            },
        );
        self.end(rank);
    }

    /// A number that changes with every failure and every end of a rank.
    pub(super) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.news.fetch_add(1, Ordering::Release);
        let rooms: Vec<Arc<Room>> = self.lock().rooms.iter().filter_map(Weak::upgrade).collect();
        rooms.iter().for_each(|room| room.wake());
    }

    /// Adds a room to those that are woken.
    pub(super) fn watch(&self, room: &Arc<Room>) {
        let mut state = self.lock();
        state.rooms.retain(|room| room.strong_count() > 0);
        state.rooms.push(Arc::downgrade(room));
    }

    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.lock().rooms.len()
    }

    /// Lists a rank as asleep in a call, for [`Shared::deadlock`].
    pub(super) fn list(&self, rank: usize, since: Instant, place: &Arc<Place>) {
        let place = place.clone();
        self.lock().sleepers.push(Sleeper { rank, since, place });
    }

    /// Ends what [`Shared::list`] began.
    pub(super) fn unlist(&self, place: &Arc<Place>) {
        self.lock()
            .sleepers
            .retain(|sleeper| !Arc::ptr_eq(&sleeper.place, place));
    }

    /// Whether rank `me`, which waits at `place`, does so in vain, because all that it waits for wait
    /// themselves, directly or not, for one of them. Such a circle never opens again once it is
    /// closed; but a rank may have a second thread that is about to open it, hence the deadline.
    pub(super) fn deadlock(&self, me: usize, place: &Place) -> Option<CommError> {
        let state = self.lock();
        let asleep = |rank: usize| {
            state.sleepers.iter().filter(move |sleeper| {
                sleeper.rank == rank
                    && sleeper.since.elapsed() > self.deadline
                    && !sleeper.place.meeting.complete()
            })
        };
        let mut reached = vec![me];
        let mut next = 0;
        while let Some(&rank) = reached.get(next) {
            asleep(rank).next()?;
            for missing in asleep(rank).flat_map(|sleeper| sleeper.place.missing()) {
                if !reached.contains(&missing) {
                    reached.push(missing);
                }
            }
            next += 1;
        }
        let second = place.missing().next()?;
        Some(CommError::Deadlock {
            first: me,
            first_call: place.to_string(),
            second,
            second_call: asleep(second).next()?.place.to_string(),
            first_seen: Whereabouts::default(),
            second_seen: Whereabouts::default(),
        })
    }
}
