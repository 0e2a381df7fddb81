//! What one process knows of its world: the calls under way, the peers' signs of life and ends, and
//! the first failure.

use super::frame::{Address, Body, Frame, Message, Wait, fingerprint, shorten};
use super::gathering::{Gathering, Mine, Room, Work};
use super::{Deadlines, Link};
use crate::{Call, CommError, HostBuffer, Whereabouts};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

// In larger worlds a rank's place goes with its regular signs of life.
const TOLD_AT_ONCE: usize = 64;

/// One process's end of a world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(super) deadlines: Deadlines,
    link: Arc<dyn Link>,
    start: Instant,
    // Milliseconds from `start` to this rank's last sign of life.
    beat: AtomicU64,
    pub(super) waiting: AtomicUsize,
    has_failed: AtomicBool,
    sent: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) calls: HashMap<Address, Gathering>,
    pub(super) peers: Vec<Peer>,
    pub(super) sleepers: Vec<Sleeper>,
    /// When this process last looked at the clock, to know of times in which it did not run.
    pub(super) ticked: Instant,
    /// Since when ranks have seemed to wait in a circle.
    pub(super) circle: Option<Instant>,
    // Whether the peers do not know yet where this rank is.
    untold: bool,
    failure: Option<(usize, CommError)>,
    // The failure as a call of this rank met it.
    met: Option<CommError>,
    // Whether this rank has said goodbye.
    parted: bool,
}

/// What is known of a rank.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its last sign of life.
    pub(super) beat: Instant,
    /// When its process was last heard, whatever its rank does.
    pub(super) heard: Instant,
    pub(super) ended: bool,
    pub(super) gone: bool,
    seen: bool,
    /// Its waits, and when it told them.
    pub(super) waits: Vec<(Instant, Wait)>,
    /// Where it said last that it was; for this rank's own, what it said itself.
    seen_at: Whereabouts,
}

/// A call that a thread of this rank waits for.
#[derive(Clone, Debug)]
pub(super) struct Sleeper {
    pub(super) since: Instant,
    pub(super) address: Address,
}

impl State {
    /// An error with what is known of the places of the ranks in it.
    fn locate(&self, error: CommError) -> CommError {
        let peer = |rank: usize| self.peers.get(rank);
        error.locate(|rank| peer(rank).map_or_else(Whereabouts::default, |it| it.seen_at.clone()))
    }
}

impl World {
    pub(crate) fn new(rank: usize, size: usize, deadline: Duration, link: Arc<dyn Link>) -> Self {
        let now = Instant::now();
        let peer = |_| Peer {
            beat: now,
            heard: now,
            ended: false,
            gone: false,
            seen: false,
            waits: vec![],
            seen_at: Whereabouts::default(),
        };
        let state = State {
            calls: HashMap::new(),
            peers: (0..size).map(peer).collect(),
            sleepers: vec![],
            ticked: now,
            circle: None,
            untold: false,
            failure: None,
            met: None,
            parted: false,
        };
        Self {
            rank,
            size,
            deadlines: Deadlines::new(deadline),
            link,
            start: now,
            beat: 0.into(),
            waiting: 0.into(),
            has_failed: false.into(),
            sent: 0.into(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, but a rank's death must not spread this way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, at_most);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// Bytes of buffers that this rank has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadlines.deadline
    }

    pub(super) fn beat(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.beat.store(now, Ordering::Relaxed);
    }

    /// How long ago this rank gave its last sign of life; waiting is one.
    pub(super) fn silence(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(beat)
    }

    pub(super) fn send(&self, to: usize, frame: Frame) {
        let bytes = frame.body.bytes().len() as u64;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.link.send(to, frame);
    }

    /// Tells all peers whose process is still there.
    pub(super) fn tell(&self, state: &State, message: &Message) {
        for (rank, peer) in state.peers.iter().enumerate() {
            if rank != self.rank && !peer.gone {
                self.link.send(rank, Frame::new(message, Body::none()));
            }
        }
    }

    /// Notes where this rank is, and tells the peers.
    pub(super) fn at(&self, place: &str) {
        self.beat();
        let place = Whereabouts::at(place);
        let mut state = self.lock();
        let own = &mut state.peers[self.rank].seen_at;
        if *own == place {
            return;
        }
        *own = place;
        state.untold = true;
        if self.size <= TOLD_AT_ONCE {
            self.tell_place(&mut state);
        }
    }

    /// Tells the peers where this rank is, if they do not know.
    pub(super) fn tell_place(&self, state: &mut State) {
        if std::mem::take(&mut state.untold) {
            let place = state.peers[self.rank].seen_at.clone();
            self.tell(state, &Message::At(place));
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// The world's first failure, as far as this process knows, and the rank that met it.
    pub(crate) fn failure(&self) -> Option<(usize, CommError)> {
        failure(&self.lock())
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
        let mut state = self.lock();
        let Some((_, error)) = &state.failure else {
            return Ok(());
        };
        let error = match error {
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
        };
        state.met.get_or_insert_with(|| error.clone());
        Err(error)
    }

    /// Records the world's first failure, as rank `rank` met it, and tells all.
    pub(crate) fn fail(&self, rank: usize, error: CommError) {
        let mut state = self.lock();
        self.fail_in(&mut state, rank, error);
    }

    pub(super) fn fail_in(&self, state: &mut State, rank: usize, error: CommError) {
        if state.failure.is_some() {
            return;
        }
        let error = state.locate(error);
        // Whoever hears of it passes it on before it ends itself, so that nobody takes that end for
        // the beginning.
        self.tell(state, &Message::Fail(rank, error.clone()));
        state.failure = Some((rank, error));
        self.has_failed.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Records that a rank has ended badly.
    pub(crate) fn lose(&self, rank: usize, cause: String) {
        self.fail(rank, lost(rank, cause));
    }

    /// Makes a call, without waiting for anything.
    pub(super) fn begin(
        &self,
        room: &Arc<Room>,
        sequence: u64,
        call: Call,
        input: HostBuffer,
    ) -> Result<Address, CommError> {
        self.beat();
        self.failed(&room.name, sequence, &call.to_string())?;
        let signature = call.signature(input.dtype(), input.len());
        let (room, input) = (room.clone(), Arc::new(input));
        let mine = Mine {
            room,
            sequence,
            call,
            signature: shorten(&signature),
            fingerprint: fingerprint(&signature),
            input,
        };
        let (address, frames) = (mine.address(), mine.frames());
        let mut state = self.lock();
        for (to, frame) in frames {
            self.send(to, frame);
        }
        let gathering = state.calls.entry(address).or_default();
        assert!(gathering.mine().is_none(), "a rank makes each call once");
        gathering.set_mine(mine);
        if let Some(error) = gathering.mismatch() {
            let error = state.locate(error);
            self.fail_in(&mut state, self.rank, error.clone());
            return Err(error);
        }
        self.advance(state, address);
        Ok(address)
    }

    /// Does what has become possible in a call.
    fn advance(&self, mut state: MutexGuard<'_, State>, address: Address) {
        let Some(gathering) = state.calls.get_mut(&address) else {
            return;
        };
        if let Some(work) = gathering.work() {
            drop(state);
            self.make(&work);
            return;
        }
        if gathering.complete() {
            if gathering.unread {
                state.calls.remove(&address);
            }
            self.changed.notify_all();
        }
    }

    fn make(&self, work: &Work) {
        let slice = match work.make() {
            Ok(slice) => slice,
            Err(error) => return self.fail(self.rank, error),
        };
        let mut state = self.lock();
        for (to, frame) in work.frames(&slice) {
            self.send(to, frame);
        }
        if let Some(gathering) = state.calls.get_mut(&work.address()) {
            gathering.set_made(slice);
        }
        self.advance(state, work.address());
        // One who has ended but for this slice may be waiting.
        self.changed.notify_all();
    }

    /// Takes a complete call out.
    pub(super) fn take(&self, state: &mut State, address: Address) -> Option<Gathering> {
        let complete = state.calls.get(&address).is_some_and(Gathering::complete);
        if complete {
            state.calls.remove(&address)
        } else {
            None
        }
    }

    pub(super) fn complete(&self, address: Address) -> bool {
        self.lock()
            .calls
            .get(&address)
            .is_some_and(Gathering::complete)
    }

    /// Says that nobody will wait for a call.
    pub(super) fn forget(&self, address: Address) {
        let mut state = self.lock();
        if let Some(gathering) = state.calls.get_mut(&address) {
            gathering.unread = true;
            if gathering.complete() && !gathering.owes() {
                state.calls.remove(&address);
            }
        }
    }

    /// Hands over a frame that has arrived.
    pub(crate) fn deliver(&self, from: usize, header: &[u8], body: HostBuffer) {
        let Some(message) = Message::read(header) else {
            return self.lose(from, "it sent what no rank would send".to_string());
        };
        let now = Instant::now();
        let mut state = self.lock();
        let peer = &mut state.peers[from];
        peer.heard = now;
        match message {
            Message::Token(address, token) if token.place < self.size => {
                peer.beat = now;
                let gathering = state.calls.entry(address).or_default();
                gathering.bring_token(token, body);
                if let Some(error) = gathering.mismatch() {
                    return self.fail_in(&mut state, self.rank, error);
                }
                self.advance(state, address);
            }
            Message::Slice(address, place) if place < self.size => {
                let gathering = state.calls.entry(address).or_default();
                gathering.bring_slice(place, Arc::new(body));
                self.advance(state, address);
            }
            Message::Token(..) | Message::Slice(..) => {
                let cause = "it sent a place that no communicator has".to_string();
                self.fail_in(&mut state, from, lost(from, cause));
            }
            Message::Beat(age, waits) => {
                // What has come since may be younger.
                peer.beat = peer.beat.max(now.checked_sub(age).unwrap_or(now));
                peer.waits = waits.into_iter().map(|wait| (now, wait)).collect();
            }
            Message::At(place) => peer.seen_at = place,
            Message::Fail(rank, error) => self.fail_in(&mut state, rank, error),
            Message::Goodbye => {
                peer.ended = true;
                let seen = Frame::new(&Message::Seen, Body::none());
                self.link.send(from, seen);
                self.changed.notify_all();
            }
            Message::Seen => {
                peer.seen = true;
                self.changed.notify_all();
            }
        }
    }

    /// Says that a part of a large buffer has arrived: its sender is neither late nor gone.
    pub(crate) fn arriving(&self, from: usize) {
        let now = Instant::now();
        let mut state = self.lock();
        let peer = &mut state.peers[from];
        (peer.heard, peer.beat) = (now, now);
    }

    /// Says that nothing will come from a rank any more.
    pub(crate) fn gone(&self, from: usize, cause: String) {
        let mut state = self.lock();
        state.peers[from].gone = true;
        if !state.peers[from].ended && !state.parted {
            self.fail_in(&mut state, from, lost(from, cause));
        }
        self.changed.notify_all();
    }

    /// Ends this rank's work, well or with a cause, and makes sure within a moment that its peers
    /// know. Returns the world's first failure: what others meet after a goodbye is not this rank's.
    pub(crate) fn end(&self, outcome: Result<(), String>) -> Option<(usize, CommError)> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(cause) = outcome {
            self.lose(self.rank, cause);
        }
        let until = Instant::now() + self.deadline();
        let mut state = self.lock();
        // Peers may need a slice of a call that nobody here has waited for.
        while !self.has_failed() && Instant::now() < until {
            let ended = |rank: &usize| state.peers[*rank].ended;
            let hopeful = |gathering: &Gathering| {
                let mine = gathering.mine();
                let rank = |place: usize| mine.map_or(0, |mine| mine.room.members[place]);
                gathering.owes() && !gathering.missing().into_iter().map(rank).any(|r| ended(&r))
            };
            if !state.calls.values().any(hopeful) {
                break;
            }
            state = self.sleep(state, self.deadlines.look);
        }
        if !state.parted {
            state.parted = true;
            self.tell_place(&mut state);
            self.tell(&state, &Message::Goodbye);
        }
        let failure = failure(&state);
        let until = Instant::now() + self.deadline().min(Duration::from_secs(2));
        let settled = |peer: &Peer| peer.seen || peer.gone;
        let all = |state: &State| {
            let mut peers = state.peers.iter().enumerate();
            peers.all(|(rank, peer)| rank == self.rank || settled(peer))
        };
        while !all(&state) && Instant::now() < until {
            state = self.sleep(state, self.deadlines.look);
        }
        drop(state);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        failure
    }

    /// Whether this rank has said goodbye.
    pub(crate) fn parted(&self) -> bool {
        self.lock().parted
    }

    /// Waits until every peer has said goodbye, or its process is gone. Gives up once the world has
    /// failed for half as long again as the deadline, or a process has been silent for so long; and names who
    /// is missing.
    #[cfg(feature = "mpi")]
    pub(crate) fn wait_for_goodbyes(&self) -> Result<(), Vec<usize>> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            let absent = |rank: &usize| {
                let peer = &state.peers[*rank];
                *rank != self.rank && !peer.ended && !peer.gone
            };
            let missing: Vec<usize> = (0..self.size).filter(absent).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let silent = |rank: &usize| {
                let heard = state.peers[*rank].heard.elapsed();
                heard.min(start.elapsed()) > self.deadlines.late
            };
            // A rank that is stuck gives itself up after the deadline, and reports before that.
            let given_up = self.has_failed() && start.elapsed() > self.deadline() * 3 / 2;
            if given_up || missing.iter().any(silent) {
                return Err(missing);
            }
            state = self.sleep(state, self.deadlines.look);
        }
    }
}

/// The first failure, as a call of this rank met it, if one has.
fn failure(state: &State) -> Option<(usize, CommError)> {
    let (rank, error) = state.failure.clone()?;
    let met = state.met.clone().unwrap_or(match error {
        CommError::PeerLost {
            rank, cause, seen, ..
        } => CommError::PeerLost {
            rank,
            operation: "its work".to_string(),
            communicator: "world".to_string(),
            sequence: 0,
            cause,
            seen,
        },
        other => other,
    });
    Some((rank, met))
}

/// A rank that ended badly, before anyone has met it in a call.
fn lost(rank: usize, cause: String) -> CommError {
    let nothing = String::new;
    CommError::PeerLost {
        rank,
        operation: nothing(),
        communicator: nothing(),
        sequence: 0,
        cause,
        seen: Whereabouts::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::watch;

    /// Notes what is sent to whom.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(usize, Message)>>);

    impl Link for Noted {
        fn name(&self) -> &'static str {
            "noted"
        }

        fn send(&self, to: usize, frame: Frame) {
            let message = Message::read(&frame.header).expect("it has just been written");
            self.0.lock().unwrap().push((to, message));
        }

        fn close(&self, _: &World) {}
    }

    impl Noted {
        /// Who has been told of a place since the last time, and which.
        fn told(&self) -> Vec<(usize, Message)> {
            let told = |(_, message): &(usize, Message)| matches!(message, Message::At(_));
            self.0.lock().unwrap().drain(..).filter(told).collect()
        }
    }

    fn world(size: usize, deadline: Duration) -> (Arc<Noted>, Arc<World>) {
        let noted = Arc::new(Noted::default());
        let world = World::new(1, size, deadline, noted.clone());
        (noted, Arc::new(world))
    }

    fn at(place: &str) -> Message {
        Message::At(Whereabouts::at(place))
    }

    #[test]
    fn a_place_is_told_once_and_at_once() {
        let (noted, world) = world(3, Duration::from_secs(20));
        world.at("step 1");
        assert_eq!(noted.told(), [(0, at("step 1")), (2, at("step 1"))]);
        world.at("step 1");
        assert_eq!(noted.told(), []);
        world.at("step 2");
        assert_eq!(noted.told(), [(0, at("step 2")), (2, at("step 2"))]);
        // Signs of life do not repeat it.
        watch(&world);
        let start = Instant::now();
        while !matches!(noted.0.lock().unwrap().last(), Some((2, Message::Beat(..)))) {
            assert!(start.elapsed() < Duration::from_secs(20), "no sign of life");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(noted.told(), []);
    }

    #[test]
    fn in_a_large_world_the_last_place_goes_with_the_next_sign_of_life() {
        let size = TOLD_AT_ONCE + 1;
        let (noted, world) = world(size, Duration::from_secs(20));
        for step in 0..10 {
            world.at(&format!("step {step}"));
        }
        assert_eq!(noted.told(), []);
        let others = || (0..size).filter(|&rank| rank != 1);
        world.tell_place(&mut world.lock());
        let expected: Vec<_> = others().map(|rank| (rank, at("step 9"))).collect();
        assert_eq!(noted.told(), expected);
        // What is not told yet goes before a goodbye; the one who left may be needed by others.
        world.at("step 10");
        let seen = Frame::new(&Message::Seen, Body::none()).header;
        for rank in others() {
            world.deliver(rank, &seen, HostBuffer::zeros(crate::Dtype::U8, 0));
        }
        world.end(Ok(()));
        let sent = noted.0.lock().unwrap().clone();
        let to_last = sent.iter().filter(|(to, _)| *to == size - 1);
        let messages: Vec<_> = to_last.map(|(_, message)| message.clone()).collect();
        assert_eq!(messages, [at("step 10"), Message::Goodbye]);
    }

    #[test]
    fn what_a_rank_said_is_in_the_error_that_all_are_told() {
        let (noted, world) = world(3, Duration::from_secs(20));
        let header = Frame::new(&at("step 7"), Body::none()).header;
        world.deliver(2, &header, HostBuffer::zeros(crate::Dtype::U8, 0));
        world.gone(2, "its connection broke".into());
        let expected = CommError::PeerLost {
            rank: 2,
            operation: String::new(),
            communicator: String::new(),
            sequence: 0,
            cause: "its connection broke".into(),
            seen: Whereabouts::at("step 7"),
        };
        let sent = noted.0.lock().unwrap().clone();
        assert_eq!(sent, [(0, Message::Fail(2, expected))]);
    }
}
