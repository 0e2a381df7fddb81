//! The connections of one process: a thread that writes and a thread that reads for each peer.

use crate::HostBuffer;
use crate::link::frame::{Frame, PREFIX, follows};
use crate::link::{Link, World, watch};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

// Buffers of the connections: small frames go out and come in together.
const BUFFER: usize = 1 << 16;
// After so many bytes of a large buffer, the receiver knows that its sender is alive.
const STEP: usize = 1 << 22;
// How long a rank that ends waits for the system to take what it has still to send.
const FLUSH: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Wire {
    // By rank; a queue that is gone has been closed.
    queues: Vec<Mutex<Option<Sender<Frame>>>>,
    streams: Vec<Option<TcpStream>>,
    writing: Arc<(Mutex<usize>, Condvar)>,
}

impl Wire {
    /// Begins to send and receive over the connections to all other ranks.
    pub(super) fn open(
        rank: usize,
        deadline: Duration,
        streams: Vec<Option<TcpStream>>,
    ) -> io::Result<Arc<World>> {
        let writing = Arc::new((Mutex::new(0), Condvar::new()));
        let mut queues = vec![];
        let mut ends = vec![];
        for (peer, stream) in streams.iter().enumerate() {
            let Some(stream) = stream else {
                queues.push(Mutex::new(None));
                continue;
            };
            stream.set_nodelay(true)?;
            stream.set_read_timeout(None)?;
            let (sender, frames) = channel();
            queues.push(Mutex::new(Some(sender)));
            ends.push((peer, stream.try_clone()?, stream.try_clone()?, frames));
        }
        let size = streams.len();
        let wire = Wire {
            queues,
            streams,
            writing: writing.clone(),
        };
        let world = Arc::new(World::new(rank, size, deadline, Arc::new(wire)));
        for (peer, input, output, frames) in ends {
            let (count, world) = (writing.clone(), world.clone());
            *count.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            start(format!("rank {rank} to {peer}"), move || {
                // The reader learns of a broken connection too, and tells the world.
                let _ = write(&output, &frames);
                drop(frames);
                let _ = output.shutdown(Shutdown::Write);
                *count.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                count.1.notify_all();
            })?;
            start(format!("rank {rank} from {peer}"), move || {
                // Whoever waits must learn that nothing more will come, whatever happens here.
                let read = catch_unwind(AssertUnwindSafe(|| read(&world, peer, input)));
                let cause = match read {
                    Ok(Ok(cause)) => cause,
                    Err(_) => "what it sent could not be dealt with".into(),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        "its connection closed without a goodbye, as if it had been killed".into()
                    }
                    Ok(Err(error)) => format!("its connection broke: {error}"),
                };
                world.gone(peer, cause);
            })?;
        }
        watch(&world);
        Ok(world)
    }
}

fn start(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(work).map(drop)
}

/// Writes frames as they come, until there are no more.
fn write(stream: &TcpStream, frames: &Receiver<Frame>) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(BUFFER, stream);
    while let Ok(frame) = frames.recv() {
        let mut next = Some(frame);
        while let Some(frame) = next {
            to.write_all(&frame.prefix())?;
            to.write_all(&frame.header)?;
            to.write_all(frame.body.bytes())?;
            next = frames.try_recv().ok();
        }
        to.flush()?;
    }
    Ok(())
}

/// Reads frames and hands them over, until there are no more; tells why if that is no error.
fn read(world: &World, peer: usize, stream: TcpStream) -> io::Result<String> {
    let mut from = BufReader::with_capacity(BUFFER, stream);
    let mut header = vec![];
    loop {
        let mut prefix = [0; PREFIX];
        from.read_exact(&mut prefix)?;
        let Some((len, dtype, elements)) = follows(&prefix) else {
            return Ok("it sent what no rank would send".to_string());
        };
        header.resize(len, 0);
        from.read_exact(&mut header)?;
        let mut body = HostBuffer::zeros(dtype, elements);
        for step in body.as_bytes_mut().chunks_mut(STEP) {
            from.read_exact(step)?;
            if step.len() == STEP {
                world.arriving(peer);
            }
        }
        world.deliver(peer, &header, body);
    }
}

impl Link for Wire {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn send(&self, to: usize, frame: Frame) {
        let queue = self.queues[to].lock();
        if let Some(queue) = &*queue.unwrap_or_else(PoisonError::into_inner) {
            // A connection that is broken is reported by its reader.
            let _ = queue.send(frame);
        }
    }

    fn close(&self, world: &World) {
        for queue in &self.queues {
            queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let until = Instant::now() + world.deadline().min(FLUSH);
        let (count, done) = &*self.writing;
        let mut writing = count.lock().unwrap_or_else(PoisonError::into_inner);
        while *writing > 0 && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let woken = done.wait_timeout(writing, left);
            writing = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        for stream in self.streams.iter().flatten() {
            // One that is closed already needs no second time.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
