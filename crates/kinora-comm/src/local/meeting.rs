//! Where the ranks of one communicator meet, call by call.

use crate::reduce::reduce;
use crate::{Call, Collective, CommError, HostBuffer};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// One call: what each rank brought.
#[derive(Debug)]
pub(super) struct Meeting {
    inputs: Vec<OnceLock<Input>>,
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
    /// computes its own from all inputs, in the order of ranks, so no second meeting is needed and
    /// all get the same bits.
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
            Collective::AllReduce { reduce: how } => {
                reduce(&buffers, 0..mine.len(), *how, call.accumulate, call)
            }
            Collective::ReduceScatter { reduce: how, lens } => {
                let start: usize = lens[..rank].iter().sum();
                let range = start..start + lens[rank];
                reduce(&buffers, range, *how, call.accumulate, call)
            }
            Collective::AllGather { lens } => {
                let mut out = room_for(lens.iter().sum());
                buffers.iter().for_each(|part| out.extend(part, 0..part.len()));
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
            return wrong(format!("rank {me} receives from rank {from}, which sends to {meant}"));
        }
        let buffer = &self.input(from).buffer;
        let mut sent = buffer.write().unwrap_or_else(PoisonError::into_inner);
        if sent.len() != len {
            let (from, sent) = (members[from], sent.len());
            return wrong(format!("rank {from} sends {sent} elements, but rank {me} expects {len}"));
        }
        let dtype = sent.dtype();
        Ok(std::mem::replace(&mut *sent, HostBuffer::empty(dtype)))
    }
}
