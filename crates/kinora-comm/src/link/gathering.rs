//! One call of a communicator, as one of its ranks gathers what the others bring.

use super::frame::{Address, Body, Frame, Message, Token};
use crate::reduce::reduce;
use crate::{Call, Collective, CommError, HostBuffer, Whereabouts};
use std::ops::Range;
use std::sync::Arc;

// Of more elements than this, ranks send slices, and the owner of a slice sends on what it makes of
// it; of fewer, everything goes to everyone, which takes one trip instead of two.
const SHARED: usize = 4096;

/// A communicator.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) id: u128,
    pub(super) name: String,
    /// World ranks.
    pub(super) members: Vec<usize>,
    /// This rank's place among them.
    pub(super) place: usize,
    /// The transport's name.
    pub(super) transport: &'static str,
}

/// What this rank brought to a call.
#[derive(Clone, Debug)]
pub(super) struct Mine {
    pub(super) room: Arc<Room>,
    pub(super) sequence: u64,
    pub(super) call: Call,
    pub(super) signature: String,
    pub(super) fingerprint: u64,
    pub(super) input: Arc<HostBuffer>,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    mine: Option<Mine>,
    // By place; this rank's own stays empty.
    tokens: Vec<Option<(Token, Arc<HostBuffer>)>>,
    slices: Vec<Option<Arc<HostBuffer>>>,
    // Whether this rank's slice is being made, and whether it is on its way.
    making: bool,
    made: bool,
    /// Whether nobody waits for the result any more.
    pub(super) unread: bool,
}

/// The making of a slice, which is done without holding up anything else.
#[derive(Debug)]
pub(super) struct Work {
    mine: Mine,
    parts: Vec<Arc<HostBuffer>>,
}

/// Elements of slice `place` of `size`.
fn slice(len: usize, place: usize, size: usize) -> Range<usize> {
    // In this order the product of a length and a rank cannot overflow.
    let edge = |i: usize| len / size * i + (len % size * i) / size;
    edge(place)..edge(place + 1)
}

/// Part `place` of consecutive parts of these lengths.
fn part(lens: &[usize], place: usize) -> Range<usize> {
    let start: usize = lens[..place].iter().sum();
    start..start + lens[place]
}

fn copy(from: &HostBuffer, range: Range<usize>) -> HostBuffer {
    let mut to = HostBuffer::with_capacity(from.dtype(), range.len());
    to.extend(from, range);
    to
}

fn sliced(len: usize, size: usize) -> bool {
    // Between two ranks a slice and its sum are as long as the whole.
    len > SHARED && size > 2
}

impl Mine {
    pub(super) fn address(&self) -> Address {
        let (communicator, sequence) = (self.room.id, self.sequence);
        Address {
            communicator,
            sequence,
        }
    }

    fn size(&self) -> usize {
        self.room.members.len()
    }

    /// The world ranks of the others.
    fn peers(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let others = move |(place, _): &(usize, &usize)| *place != self.room.place;
        let members = self.room.members.iter().enumerate();
        members.filter(others).map(|(place, &rank)| (place, rank))
    }

    /// Elements of this rank's buffer that go to a peer with the token.
    fn range_for(&self, place: usize) -> Range<usize> {
        let (me, len, size) = (self.room.place, self.input.len(), self.size());
        match &self.call.collective {
            Collective::AllReduce { .. } | Collective::Broadcast { .. } if sliced(len, size) => {
                slice(len, place, size)
            }
            Collective::AllReduce { .. } | Collective::AllGather { .. } => 0..len,
            Collective::Broadcast { .. } => 0..len,
            Collective::ReduceScatter { lens, .. } => part(lens, place),
            Collective::AllToAll { lens } => part(&lens[me], place),
            Collective::Exchange { to, .. } if *to == Some(place) => 0..len,
            Collective::Exchange { .. } | Collective::Barrier => 0..0,
        }
    }

    /// What each peer gets at once: a token, and of a large broadcast the root's own slice.
    pub(super) fn frames(&self) -> Vec<(usize, Frame)> {
        let (to, from) = match &self.call.collective {
            Collective::Exchange { to, from, .. } => (*to, *from),
            _ => (None, None),
        };
        let message = Message::Token(
            self.address(),
            Token {
                place: self.room.place,
                fingerprint: self.fingerprint,
                signature: self.signature.clone(),
                total: self.input.len(),
                to,
                from,
            },
        );
        let body = |range| Body {
            buffer: self.input.clone(),
            range,
        };
        let token = |(place, rank)| (rank, Frame::new(&message, body(self.range_for(place))));
        let mut frames: Vec<_> = self.peers().map(token).collect();
        let (me, len, size) = (self.room.place, self.input.len(), self.size());
        if self.call.collective == (Collective::Broadcast { root: me }) && sliced(len, size) {
            let message = Message::Slice(self.address(), me);
            let own = |(_, rank)| (rank, Frame::new(&message, body(slice(len, me, size))));
            frames.extend(self.peers().map(own));
        }
        frames
    }
}

impl Gathering {
    pub(super) fn mine(&self) -> Option<&Mine> {
        self.mine.as_ref()
    }

    pub(super) fn set_mine(&mut self, mine: Mine) {
        let size = mine.size();
        self.tokens.resize_with(size, || None);
        self.slices.resize_with(size, || None);
        self.mine = Some(mine);
    }

    pub(super) fn bring_token(&mut self, token: Token, body: HostBuffer) {
        let place = token.place;
        if self.mine.as_ref().is_some_and(|mine| place >= mine.size()) {
            return;
        }
        if self.tokens.len() <= place {
            self.tokens.resize_with(place + 1, || None);
        }
        self.tokens[place] = Some((token, Arc::new(body)));
    }

    pub(super) fn bring_slice(&mut self, place: usize, slice: Arc<HostBuffer>) {
        if self.mine.as_ref().is_some_and(|mine| place >= mine.size()) {
            return;
        }
        if self.slices.len() <= place {
            self.slices.resize_with(place + 1, || None);
        }
        self.slices[place] = Some(slice);
    }

    /// A peer that has come with another intention than this rank's.
    pub(super) fn mismatch(&self) -> Option<CommError> {
        let mine = self.mine.as_ref()?;
        let mut tokens = self.tokens.iter().flatten().map(|(token, _)| token);
        let odd = tokens.find(|token| token.fingerprint != mine.fingerprint)?;
        Some(CommError::Mismatch {
            communicator: mine.room.name.clone(),
            sequence: mine.sequence,
            first: mine.room.members[mine.room.place],
            first_call: mine.signature.clone(),
            second: mine.room.members[odd.place],
            second_call: odd.signature.clone(),
            first_seen: Whereabouts::default(),
            second_seen: Whereabouts::default(),
        })
    }

    /// The places of those from whom something has yet to come.
    pub(super) fn missing(&self) -> Vec<usize> {
        let Some(mine) = &self.mine else {
            return vec![];
        };
        let me = mine.room.place;
        let no_slice = |place: &usize| self.slices[*place].is_none();
        let no_token = |place: &usize| *place != me && self.tokens[*place].is_none();
        let missing: Vec<usize> = (0..mine.size()).filter(no_token).collect();
        if !missing.is_empty() || !self.needs_slices() {
            return missing;
        }
        let from_token = |place: &usize| self.is_broadcast() && *place == me;
        let slices = (0..mine.size()).filter(no_slice);
        slices.filter(|place| !from_token(place)).collect()
    }

    fn is_broadcast(&self) -> bool {
        let call = self.mine.as_ref().map(|mine| &mine.call.collective);
        matches!(call, Some(Collective::Broadcast { .. }))
    }

    /// Whether the result is made of slices that the ranks make for one another.
    fn needs_slices(&self) -> bool {
        let Some(mine) = &self.mine else {
            return false;
        };
        match &mine.call.collective {
            Collective::AllReduce { .. } => sliced(mine.input.len(), mine.size()),
            Collective::Broadcast { root } if *root != mine.room.place => {
                let token = self.tokens[*root].as_ref();
                token.is_some_and(|(token, _)| sliced(token.total, mine.size()))
            }
            _ => false,
        }
    }

    pub(super) fn complete(&self) -> bool {
        self.mine.is_some() && self.missing().is_empty() && self.mismatch().is_none()
    }

    /// Whether peers still need something of this rank that it cannot give yet.
    pub(super) fn owes(&self) -> bool {
        let Some(mine) = &self.mine else {
            return false;
        };
        let unknown = match &mine.call.collective {
            Collective::Broadcast { root } => {
                *root != mine.room.place && mine.size() > 2 && self.tokens[*root].is_none()
            }
            _ => false,
        };
        unknown || (self.needs_slices() && !self.made)
    }

    /// The making of this rank's slice, once all that it is made of is here; asked for only once.
    pub(super) fn work(&mut self) -> Option<Work> {
        if self.making || !self.needs_slices() {
            return None;
        }
        let mine = self.mine.clone()?;
        let (me, size) = (mine.room.place, mine.size());
        let body = |place: usize| self.tokens[place].as_ref().map(|(_, body)| body.clone());
        let parts = match &mine.call.collective {
            Collective::Broadcast { root } => vec![body(*root)?],
            _ => {
                let own = || {
                    Some(Arc::new(copy(
                        &mine.input,
                        slice(mine.input.len(), me, size),
                    )))
                };
                // Looked at first, so that nothing is copied in vain.
                if (0..size).any(|place| place != me && self.tokens[place].is_none()) {
                    return None;
                }
                let part = |place| if place == me { own() } else { body(place) };
                (0..size).map(part).collect::<Option<Vec<_>>>()?
            }
        };
        self.making = true;
        Some(Work { mine, parts })
    }

    pub(super) fn set_made(&mut self, slice: Arc<HostBuffer>) {
        let Some(mine) = &self.mine else { return };
        let place = mine.room.place;
        self.made = true;
        self.slices[place] = Some(slice);
    }

    /// The result of a call that is complete, for this rank.
    pub(super) fn result(self) -> Result<HostBuffer, CommError> {
        let needs_slices = self.needs_slices();
        let mine = self.mine.expect("the call is complete");
        let (me, size, call) = (mine.room.place, mine.size(), &mine.call);
        let of = |place: usize| {
            let came = self.tokens[place].as_ref();
            came.map_or(&mine.input, |(_, body)| body)
        };
        let all = |out: HostBuffer, parts: &[&HostBuffer]| {
            parts.iter().fold(out, |mut out, part| {
                out.extend(part, 0..part.len());
                out
            })
        };
        let buffers: Vec<&HostBuffer> = (0..size).map(|place| &**of(place)).collect();
        let dtype = mine.input.dtype();
        match &call.collective {
            Collective::Broadcast { root } if needs_slices => {
                let slice = |place: usize| match &self.slices[place] {
                    Some(slice) => &**slice,
                    None => buffers[*root],
                };
                let slices: Vec<_> = (0..size).map(slice).collect();
                let len = slices.iter().map(|slice| slice.len()).sum();
                Ok(all(HostBuffer::with_capacity(dtype, len), &slices))
            }
            Collective::AllReduce { .. } if needs_slices => {
                let slices: Vec<&HostBuffer> = self.slices.iter().flatten().map(|s| &**s).collect();
                let dtype = call.accumulate.unwrap_or(dtype);
                let out = HostBuffer::with_capacity(dtype, mine.input.len());
                Ok(all(out, &slices))
            }
            Collective::AllReduce { reduce: how } => {
                let (range, name) = (0..mine.input.len(), mine.room.transport);
                reduce(&buffers, range, *how, call.accumulate, call, name)
            }
            Collective::ReduceScatter { reduce: how, lens } => {
                let own = copy(&mine.input, part(lens, me));
                let mut parts = buffers;
                parts[me] = &own;
                let (range, name) = (0..lens[me], mine.room.transport);
                reduce(&parts, range, *how, call.accumulate, call, name)
            }
            Collective::AllGather { lens } => {
                let len = lens.iter().sum();
                Ok(all(HostBuffer::with_capacity(dtype, len), &buffers))
            }
            Collective::AllToAll { lens } => {
                let len = lens.iter().map(|row| row[me]).sum();
                let mut out = HostBuffer::with_capacity(dtype, len);
                for (place, buffer) in buffers.iter().enumerate() {
                    let all = 0..buffer.len();
                    let range = if place == me {
                        part(&lens[me], me)
                    } else {
                        all
                    };
                    out.extend(buffer, range);
                }
                Ok(out)
            }
            Collective::Broadcast { root } => Ok(unshared(of(*root).clone(), self.tokens)),
            Collective::Barrier => Ok(HostBuffer::empty(dtype)),
            Collective::Exchange { to, from, len } => {
                let views = exchange_views(&self.tokens, me, (*to, *from));
                exchange_fits(&mine, &views, *to, *from, buffers, *len)?;
                match from {
                    Some(from) => Ok(unshared(of(*from).clone(), self.tokens)),
                    None => Ok(HostBuffer::empty(dtype)),
                }
            }
        }
    }
}

type Tokens = Vec<Option<(Token, Arc<HostBuffer>)>>;
type View = (Option<usize>, Option<usize>);

/// The buffer itself if nobody else holds it, as is so of what has been received.
fn unshared(buffer: Arc<HostBuffer>, tokens: Tokens) -> HostBuffer {
    drop(tokens);
    Arc::unwrap_or_clone(buffer)
}

fn exchange_views(tokens: &Tokens, me: usize, own: View) -> Vec<View> {
    let view = |(place, token): (usize, &Option<(Token, _)>)| match token {
        Some((token, _)) if place != me => (token.to, token.from),
        _ => own,
    };
    tokens.iter().enumerate().map(view).collect()
}

/// Whether sender and receiver mean one another.
fn exchange_fits(
    mine: &Mine,
    views: &[View],
    to: Option<usize>,
    from: Option<usize>,
    buffers: Vec<&HostBuffer>,
    len: usize,
) -> Result<(), CommError> {
    let (place, members) = (mine.room.place, &mine.room.members);
    let me = members[place];
    let world = |peer: Option<usize>| match peer {
        Some(peer) => format!("rank {}", members[peer]),
        None => "nobody".to_string(),
    };
    let wrong = |what| {
        let operation = mine.call.to_string();
        Err(CommError::BadCall { operation, what })
    };
    if let Some(to) = to
        && views[to].1 != Some(place)
    {
        let (to, expected) = (members[to], world(views[to].1));
        return wrong(format!(
            "rank {me} sends to rank {to}, which receives from {expected}"
        ));
    }
    let Some(from) = from else {
        return Ok(());
    };
    if views[from].0 != Some(place) {
        let (from, meant) = (members[from], world(views[from].0));
        return wrong(format!(
            "rank {me} receives from rank {from}, which sends to {meant}"
        ));
    }
    let sent = buffers[from].len();
    if sent != len {
        let from = members[from];
        return wrong(format!(
            "rank {from} sends {sent} elements, but rank {me} expects {len}"
        ));
    }
    Ok(())
}

impl Work {
    pub(super) fn address(&self) -> Address {
        self.mine.address()
    }

    /// Makes the slice.
    pub(super) fn make(&self) -> Result<Arc<HostBuffer>, CommError> {
        let call = &self.mine.call;
        let Collective::AllReduce { reduce: how } = call.collective else {
            return Ok(self.parts[0].clone());
        };
        let parts: Vec<&HostBuffer> = self.parts.iter().map(|part| &**part).collect();
        let (range, name) = (0..parts[0].len(), self.mine.room.transport);
        Ok(Arc::new(reduce(
            &parts,
            range,
            how,
            call.accumulate,
            call,
            name,
        )?))
    }

    /// The slice as it goes to those who need it.
    pub(super) fn frames(&self, slice: &Arc<HostBuffer>) -> Vec<(usize, Frame)> {
        let message = Message::Slice(self.address(), self.mine.room.place);
        let root = match self.mine.call.collective {
            Collective::Broadcast { root } => Some(root),
            _ => None,
        };
        let needs = |(place, _): &(usize, usize)| Some(*place) != root;
        let frame = |(_, rank)| (rank, Frame::new(&message, Body::all(slice.clone())));
        self.mine.peers().filter(needs).map(frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_whole() {
        for len in [0, 1, 5, 4097, 100_003] {
            for size in 1..9 {
                let ends: Vec<_> = (0..size).map(|i| slice(len, i, size)).collect();
                assert_eq!((ends[0].start, ends[size - 1].end), (0, len));
                assert!(ends.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(
                    ends.iter()
                        .all(|it| it.len() >= len / size && it.len() <= len / size + 1)
                );
            }
        }
    }
}
