//! Greetings: how one who connects says who it is, and how one who listens tells strangers apart.

use crate::link::bytes::{Reader, Writer};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

// The number changes with what ranks say to one another.
const MAGIC: &[u8; 8] = b"kinora 2";
// Whoever connects must say who it is within this time.
const GREETING: Duration = Duration::from_secs(5);
// How often one who waits for connections looks for them.
const LOOK: Duration = Duration::from_millis(3);

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) token: String,
    pub(super) rank: usize,
    pub(super) size: usize,
    /// Where it listens itself; nothing if it does not.
    pub(super) address: String,
}

impl Hello {
    pub(super) fn send(&self, mut stream: &TcpStream) -> io::Result<()> {
        let bytes = Writer::default()
            .text(&self.token)
            .number(self.rank)
            .number(self.size)
            .text(&self.address)
            .0;
        stream.write_all(MAGIC)?;
        send(stream, &bytes)
    }

    fn receive(mut stream: &TcpStream) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic)?;
        let strange = || io::Error::from(io::ErrorKind::InvalidData);
        if &magic != MAGIC {
            return Err(strange());
        }
        let bytes = receive(stream, 1 << 16)?;
        let mut from = Reader(&bytes);
        let mut read = || {
            Some(Self {
                token: from.text()?,
                rank: from.number()?,
                size: from.number()?,
                address: from.text()?,
            })
        };
        read().ok_or_else(strange)
    }
}

/// Sends bytes, with their number first.
pub(super) fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&Writer::default().bytes(bytes).0)
}

/// Receives what [`send`] sent, if it is not longer than `most`.
pub(super) fn receive(mut stream: &TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > most as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Where connections come in. One that says nothing holds up none of the others.
#[derive(Debug)]
pub(super) struct Gate {
    listener: TcpListener,
    sender: Sender<(Hello, TcpStream, SocketAddr)>,
    greetings: Receiver<(Hello, TcpStream, SocketAddr)>,
}

impl Gate {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (sender, greetings) = channel();
        Ok(Self {
            listener,
            sender,
            greetings,
        })
    }

    /// The next who connects and speaks this language; nobody by `until`.
    pub(super) fn next(&self, until: Instant) -> Option<(Hello, TcpStream, SocketAddr)> {
        loop {
            while let Ok((stream, from)) = self.listener.accept() {
                let sender = self.sender.clone();
                let greet = move || {
                    let ready = stream.set_nonblocking(false);
                    let timed = ready.and_then(|()| stream.set_read_timeout(Some(GREETING)));
                    // Strangers are not answered.
                    if let Ok(hello) = timed.and_then(|()| Hello::receive(&stream)) {
                        let _ = sender.send((hello, stream, from));
                    }
                };
                // Without a thread for it, the connection closes, and its rank is missed by name.
                let _ = thread::Builder::new().name("greeting".into()).spawn(greet);
            }
            match self.greetings.recv_timeout(LOOK) {
                Ok(greeting) => return Some(greeting),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if Instant::now() > until => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
