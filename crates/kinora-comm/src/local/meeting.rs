//! Where the ranks of one communicator meet, call by call.

use crate::reduce::reduce;
use crate::{Call, Collective, CommError, HostBuffer, Reduce, Whereabouts};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

// All-reduces of more elements than this are worth the trouble of sharing the work.
const SHARED: usize = 4096;

/// One call: what each rank brought.
#[derive(Debug)]
pub(super) struct Meeting {
    inputs: Vec<OnceLock<Input>>,
    // Of a large all-reduce: the parts of its result.
    slices: Vec<OnceLock<Result<HostBuffer, CommError>>>,
    // What a split makes, by color.
    rooms: Mutex<Vec<(usize, Arc<Room>)>>,
}

#[derive(Debug)]
struct Input {
    call: Call,
    // Only the one receiver of an exchange takes it; all others read.
    buffer: RwLock<HostBuffer>,
}

/// The calls of one communicator that are under way.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: String,
    pub(super) members: Vec<usize>,
    calls: Mutex<HashMap<u64, Arrivals>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Arrivals {
    first: (usize, String),
    count: usize,
    meeting: Arc<Meeting>,
}

impl Room {
    pub(super) fn new(name: String, members: Vec<usize>) -> Self {
        Self {
            name,
            members,
            calls: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arrivals>> {
        // Nothing panics while it holds the lock, but a rank's death must not spread this way.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a rank's part of a call.
    ///
    /// # Errors
    /// [`CommError::Mismatch`].
    pub(super) fn bring(
        &self,
        rank: usize,
        sequence: u64,
        call: Call,
        input: HostBuffer,
    ) -> Result<Arc<Meeting>, CommError> {
        let signature = call.signature(input.dtype(), input.len());
        let size = self.members.len();
        let mut calls = self.lock();
        let entry = calls.entry(sequence).or_insert_with(|| Arrivals {
            first: (rank, signature.clone()),
            count: 0,
            meeting: Arc::new(Meeting::new(size)),
        });
        if entry.first.1 != signature {
            return Err(CommError::Mismatch {
                communicator: self.name.clone(),
                sequence,
                first: self.members[entry.first.0],
                first_call: entry.first.1.clone(),
                second: self.members[rank],
                second_call: signature,
                first_seen: Whereabouts::default(),
                second_seen: Whereabouts::default(),
            });
        }
        entry.count += 1;
        let meeting = entry.meeting.clone();
        let buffer = RwLock::new(input);
        let first_time = meeting.inputs[rank].set(Input { call, buffer }).is_ok();
        assert!(first_time, "a rank makes each call once");
        if entry.count == size {
            calls.remove(&sequence);
            drop(calls);
            self.arrived.notify_all();
        }
        Ok(meeting)
    }

    /// Waits a while for the meeting to be complete, or for news of another kind.
    pub(super) fn wait(&self, meeting: &Meeting, at_most: Duration, news: impl Fn() -> bool) {
        let calls = self.lock();
        // Checked under the lock, which every notifier takes, so that nothing is missed in between.
        if !meeting.complete() && !news() {
            let _ = self.arrived.wait_timeout(calls, at_most);
        }
    }

    /// Wakes all who wait, to see what has become of the world.
    pub(super) fn wake(&self) {
        drop(self.lock());
        self.arrived.notify_all();
    }

    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.lock().len()
    }
}

impl Meeting {
    fn new(size: usize) -> Self {
        Self {
            inputs: (0..size).map(|_| OnceLock::new()).collect(),
            slices: (0..size).map(|_| OnceLock::new()).collect(),
            rooms: Mutex::default(),
        }
    }

    pub(super) fn complete(&self) -> bool {
        self.inputs.iter().all(|input| input.get().is_some())
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        let absent = |&i: &usize| self.inputs[i].get().is_none();
        (0..self.inputs.len()).filter(absent)
    }

    /// The room that a split makes for a color; the first of its members to ask makes it.
    pub(super) fn room(&self, color: usize, make: impl FnOnce() -> Arc<Room>) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        match rooms.iter().find(|(other, _)| *other == color) {
            Some((_, room)) => room.clone(),
            None => {
                let room = make();
                rooms.push((color, room.clone()));
                room
            }
        }
    }

    fn input(&self, rank: usize) -> &Input {
        self.inputs[rank].get().expect("the call is complete")
    }

    /// The result of a call that is complete, for the rank at place `rank` of `members`. Each rank
    /// takes its own from the inputs, which are combined in the order of ranks, so no second meeting
    /// is needed and all get the same bits.
    pub(super) fn result(&self, rank: usize, members: &[usize]) -> Result<HostBuffer, CommError> {
        let call = &self.input(rank).call;
        if let Collective::Exchange { to, from, len } = call.collective {
            return self.exchanged(call, rank, to, from, len, members);
        }
        let guards: Vec<_> = (0..members.len())
            .map(|i| {
                let buffer = &self.input(i).buffer;
                buffer.read().unwrap_or_else(PoisonError::into_inner)
            })
            .collect();
        let buffers: Vec<&HostBuffer> = guards.iter().map(|guard| &**guard).collect();
        let mine = buffers[rank];
        let room_for = |len| HostBuffer::with_capacity(mine.dtype(), len);
        match &call.collective {
            Collective::AllReduce { reduce: how } if buffers.len() > 2 && mine.len() > SHARED => {
                self.reduce_together(call, *how, rank, &buffers)
            }
            Collective::AllReduce { reduce: how } => reduce(
                &buffers,
                0..mine.len(),
                *how,
                call.accumulate,
                call,
                "local",
            ),
            Collective::ReduceScatter { reduce: how, lens } => {
                let start: usize = lens[..rank].iter().sum();
                let range = start..start + lens[rank];
                reduce(&buffers, range, *how, call.accumulate, call, "local")
            }
            Collective::AllGather { lens } => {
                let mut out = room_for(lens.iter().sum());
                buffers
                    .iter()
                    .for_each(|part| out.extend(part, 0..part.len()));
                Ok(out)
            }
            Collective::AllToAll { lens } => {
                let mut out = room_for(lens.iter().map(|row| row[rank]).sum());
                for (row, part) in lens.iter().zip(&buffers) {
                    let start: usize = row[..rank].iter().sum();
                    out.extend(part, start..start + row[rank]);
                }
                Ok(out)
            }
            Collective::Broadcast { root } => Ok(buffers[*root].clone()),
            Collective::Barrier => Ok(room_for(0)),
            Collective::Exchange { .. } => unreachable!("handled above"),
        }
    }

    /// An all-reduce whose work the ranks share: each begins with its own slice, and does those of
    /// others that are not there yet, so that none depends on when the others wait for the call.
    fn reduce_together(
        &self,
        call: &Call,
        how: Reduce,
        rank: usize,
        buffers: &[&HostBuffer],
    ) -> Result<HostBuffer, CommError> {
        let (len, size) = (buffers[rank].len(), buffers.len());
        let slice = |i: usize| {
            self.slices[i].get_or_init(|| {
                let range = len * i / size..len * (i + 1) / size;
                reduce(buffers, range, how, call.accumulate, call, "local")
            })
        };
        for i in rank..rank + size {
            let _ = slice(i % size);
        }
        let dtype = call.accumulate.unwrap_or(buffers[rank].dtype());
        let mut out = HostBuffer::with_capacity(dtype, len);
        for i in 0..size {
            let part = slice(i).as_ref().map_err(Clone::clone)?;
            out.extend(part, 0..part.len());
        }
        Ok(out)
    }

    /// What an exchange brings this rank: moved, not copied, as nobody else receives it.
    fn exchanged(
        &self,
        call: &Call,
        rank: usize,
        to: Option<usize>,
        from: Option<usize>,
        len: usize,
        members: &[usize],
    ) -> Result<HostBuffer, CommError> {
        let me = members[rank];
        let world = |peer: Option<usize>| match peer {
            Some(peer) => format!("rank {}", members[peer]),
            None => "nobody".to_string(),
        };
        let wrong = |what| {
            let operation = call.to_string();
            Err(CommError::BadCall { operation, what })
        };
        let views = |peer: usize| match &self.input(peer).call.collective {
            Collective::Exchange { to, from, .. } => (*to, *from),
            other => unreachable!("{other:?} does not meet an exchange"),
        };
        if let Some(to) = to {
            let (_, expected) = views(to);
            if expected != Some(rank) {
                let (to, expected) = (members[to], world(expected));
                return wrong(format!(
                    "rank {me} sends to rank {to}, which receives from {expected}"
                ));
            }
        }
        let Some(from) = from else {
            let mine = &self.input(rank).buffer;
            let dtype = mine.read().unwrap_or_else(PoisonError::into_inner).dtype();
            return Ok(HostBuffer::empty(dtype));
        };
        let (meant, _) = views(from);
        if meant != Some(rank) {
            let (from, meant) = (members[from], world(meant));
            return wrong(format!(
                "rank {me} receives from rank {from}, which sends to {meant}"
            ));
        }
        let buffer = &self.input(from).buffer;
        let mut sent = buffer.write().unwrap_or_else(PoisonError::into_inner);
        if sent.len() != len {
            let (from, sent) = (members[from], sent.len());
            return wrong(format!(
                "rank {from} sends {sent} elements, but rank {me} expects {len}"
            ));
        }
        let dtype = sent.dtype();
        Ok(std::mem::replace(&mut *sent, HostBuffer::empty(dtype)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn news_from_before_the_sleep_are_not_slept_over() {
        let room = Room::new("pair".into(), vec![0, 1]);
        let call = Call::new(Collective::Barrier, "x");
        let meeting = room
            .bring(0, 0, call.clone(), Vec::<u8>::new().into())
            .unwrap();
        let start = Instant::now();
        room.wait(&meeting, Duration::from_secs(20), || true);
        room.bring(1, 0, call, Vec::<u8>::new().into()).unwrap();
        room.wait(&meeting, Duration::from_secs(20), || false);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_receiver_of_an_exchange_gets_the_buffer_itself() {
        let room = Room::new("pair".into(), vec![4, 7]);
        let buffers = [vec![1.0_f32; 3], vec![2.0; 3]];
        let sent = [buffers[0].as_ptr(), buffers[1].as_ptr()];
        let mut meeting = None;
        for (rank, buffer) in buffers.into_iter().enumerate() {
            let peer = Some(1 - rank);
            let exchange = Collective::Exchange {
                to: peer,
                from: peer,
                len: 3,
            };
            let call = Call::new(exchange, "x");
            meeting = Some(room.bring(rank, 0, call, buffer.into()).unwrap());
        }
        for rank in [0, 1] {
            let HostBuffer::F32(got) = meeting.as_ref().unwrap().result(rank, &[4, 7]).unwrap()
            else {
                panic!("an exchange keeps the dtype")
            };
            assert_eq!(got.as_ptr(), sent[1 - rank]);
        }
    }
}
