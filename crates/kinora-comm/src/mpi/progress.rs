//! The one thread of a process that calls MPI.

use super::raw::{Code, Mpi, Receiving, Sending};
use crate::HostBuffer;
use crate::link::World;
use crate::link::frame::Frame;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

// How often the thread looks for frames before it sleeps at all, and before it sleeps longer.
const BUSY: u32 = 100;
const CALM: u32 = 5000;

/// What other threads ask of it.
#[derive(Debug)]
pub(super) enum Order {
    /// Sends a frame of a world.
    Send(usize, u64, Frame),
    /// Hands a world what comes for it.
    Open(u64, Arc<World>),
    /// Throws away what comes for a world.
    Shut(u64),
    /// Sends all there is, and ends MPI.
    Finish,
    /// Ends all processes.
    Abort(i32),
}

/// The orders that wait.
#[derive(Debug, Default)]
pub(super) struct Orders {
    queue: Mutex<Vec<Order>>,
    came: Condvar,
}

impl Orders {
    pub(super) fn give(&self, order: Order) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(order);
        drop(queue);
        self.came.notify_all();
    }

    /// Takes all, after a while if there are none.
    fn take(&self, wait: Duration) -> Vec<Order> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() && !wait.is_zero() {
            let woken = self.came.wait_timeout(queue, wait);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut *queue)
    }
}

struct Progress<'a> {
    mpi: &'a Mpi,
    sending: Vec<Sending>,
    receiving: Vec<Option<Receiving>>,
    worlds: HashMap<u64, Arc<World>>,
    // Worlds are numbered; this is the first that is not known here yet.
    next: u64,
    // What came for worlds that are not known yet.
    early: Vec<(usize, u64, Vec<u8>, HostBuffer)>,
    finish: bool,
}

/// Does what is ordered until told to finish.
pub(super) fn progress(mpi: &Mpi, orders: &Orders) {
    let mut progress = Progress {
        mpi,
        sending: vec![],
        receiving: (0..mpi.size).map(|_| None).collect(),
        worlds: HashMap::new(),
        next: 0,
        early: vec![],
        finish: false,
    };
    let mut idle = 0;
    loop {
        let wait = match idle {
            0..BUSY => Duration::ZERO,
            BUSY..CALM => Duration::from_micros(50),
            _ => Duration::from_millis(1),
        };
        let orders = orders.take(wait);
        let mut busy = !orders.is_empty();
        orders.into_iter().for_each(|order| progress.obey(order));
        busy |= progress.push();
        for from in 0..mpi.size {
            busy |= from != mpi.rank && progress.pull(from);
        }
        if progress.finish && progress.sending.is_empty() {
            return;
        }
        idle = if busy { 0 } else { idle.saturating_add(1) };
        if !busy && idle < BUSY {
            thread::yield_now();
        }
    }
}

impl Progress<'_> {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Send(to, epoch, frame) => match self.mpi.send(to, epoch, frame) {
                Ok(sending) => self.sending.push(sending),
                Err(code) => self.broken(to, Some(code)),
            },
            Order::Open(epoch, world) => {
                self.next = epoch + 1;
                self.worlds.insert(epoch, world.clone());
                let early = std::mem::take(&mut self.early);
                for (from, other, header, body) in early {
                    self.hand_over(from, other, &header, body);
                }
            }
            Order::Shut(epoch) => {
                self.next = self.next.max(epoch + 1);
                self.worlds.remove(&epoch);
                self.early.retain(|(_, other, ..)| *other != epoch);
            }
            Order::Finish => self.finish = true,
            Order::Abort(code) => self.mpi.abort(code),
        }
    }

    fn hand_over(&mut self, from: usize, epoch: u64, header: &[u8], body: HostBuffer) {
        match self.worlds.get(&epoch) {
            Some(world) => world.deliver(from, header, body),
            None if epoch >= self.next => self.early.push((from, epoch, header.to_vec(), body)),
            // A world that this process has left.
            None => {}
        }
    }

    fn broken(&self, peer: usize, code: Option<Code>) {
        let cause = match code {
            Some(code) => format!("it cannot be reached: {code}"),
            None => "it sent what no rank would send".to_string(),
        };
        for world in self.worlds.values().filter(|world| peer < world.size) {
            world.gone(peer, cause.clone());
        }
    }

    /// Lets go of what has been sent; whether something has.
    fn push(&mut self) -> bool {
        let before = self.sending.len();
        let mut broken = vec![];
        self.sending.retain_mut(|sending| match sending.done() {
            Ok(done) => !done,
            Err(code) => {
                broken.push((sending.to, code));
                false
            }
        });
        for (peer, code) in broken {
            self.broken(peer, Some(code));
        }
        self.sending.len() < before
    }

    /// Takes what has come from a rank; whether something has. A frame that is still arriving keeps
    /// back those after it.
    fn pull(&mut self, from: usize) -> bool {
        let mut some = false;
        loop {
            if self.receiving[from].is_none() {
                match self.mpi.receive(from) {
                    Ok(Some(receiving)) => self.receiving[from] = Some(receiving),
                    Ok(None) => return some,
                    Err(code) => {
                        self.broken(from, code);
                        return some;
                    }
                }
            }
            let Some(receiving) = &mut self.receiving[from] else {
                return some;
            };
            match receiving.done() {
                Ok((true, _)) => {}
                Ok((false, piece)) => {
                    if let Some(world) = self.worlds.get(&receiving.epoch).filter(|_| piece) {
                        world.arriving(from);
                    }
                    return some || piece;
                }
                Err(code) => {
                    self.receiving[from] = None;
                    self.broken(from, Some(code));
                    return some;
                }
            }
            some = true;
            let Some(mut receiving) = self.receiving[from].take() else {
                return some;
            };
            let (epoch, header) = (receiving.epoch, std::mem::take(&mut receiving.header));
            let body = receiving.into_body();
            self.hand_over(from, epoch, &header, body);
        }
    }
}
