//! How the processes of a world find one another.

use super::gate::{Gate, Hello, receive, send};
use super::wire::Wire;
use crate::CommError;
use crate::link::bytes::{Reader, Writer};
use crate::link::failure;
use crate::process::Process;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

// How often a rank tries to reach one that does not listen yet.
const RETRY: Duration = Duration::from_millis(30);
// How much longer than rank 0 the others wait, so that they hear from it who is missing.
const GRACE: Duration = Duration::from_secs(2);
// The largest answer of rank 0.
const ANSWER: usize = 1 << 28;

/// Where and how a rank joins a world.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Where rank 0 listens, and the others reach it: `host:port`.
    pub address: String,
    /// This rank.
    pub rank: usize,
    /// The number of ranks.
    pub size: usize,
    /// How long a rank may give no sign of life while others wait for it.
    pub deadline: Duration,
    /// How long to wait for the other ranks to come.
    pub patience: Duration,
    /// What all ranks of this world know, and no stranger.
    pub token: String,
    /// On rank 0, bytes for all ranks; they find them in [`Process::blob`].
    pub blob: Vec<u8>,
}

type Streams = Vec<Option<TcpStream>>;

/// Joins a world of `size` ranks as rank `rank`, without a token; waits for the others as long as
/// the deadline.
///
/// # Errors
/// See [`Rendezvous::join`].
pub fn join(
    address: &str,
    rank: usize,
    size: usize,
    deadline: Duration,
) -> Result<Process, CommError> {
    Rendezvous::new(address, rank, size, deadline).join()
}

impl Rendezvous {
    /// Without a token and a blob, and as patient as the deadline.
    pub fn new(address: &str, rank: usize, size: usize, deadline: Duration) -> Self {
        Self {
            address: address.to_string(),
            rank,
            size,
            deadline,
            patience: deadline,
            token: String::new(),
            blob: vec![],
        }
    }

    /// Joins the world.
    ///
    /// # Errors
    /// [`CommError::Absent`] names the ranks that did not come. [`CommError::Refused`] says that a
    /// rank has come twice, that ranks count the world differently, that a token is wrong, or what
    /// the system answered.
    pub fn join(self) -> Result<Process, CommError> {
        if self.rank >= self.size {
            let (rank, size) = (self.rank, self.size);
            return Err(self.refused(format!(
                "rank {rank} is none of {size}\n  help: ranks count from 0"
            )));
        }
        let until = Instant::now() + self.patience;
        let (streams, blob) = match self.rank {
            0 => (self.host(until)?, self.blob.clone()),
            _ => self.visit(until)?,
        };
        let world = Wire::open(self.rank, self.deadline, streams)
            .map_err(|error| self.refused(format!("a connection cannot be used: {error}")))?;
        Ok(Process::new(world, blob))
    }

    fn refused(&self, what: String) -> CommError {
        let address = self.address.clone();
        CommError::Refused { address, what }
    }

    fn absent(&self, ranks: Vec<usize>, why: &str) -> CommError {
        CommError::Absent {
            ranks,
            address: self.address.clone(),
            waited: self.patience,
            why: why.to_string(),
        }
    }

    /// Rank 0's part: waits for all, and tells each where the others are.
    fn host(&self, until: Instant) -> Result<Streams, CommError> {
        let mut streams: Streams = (0..self.size).map(|_| None).collect();
        if self.size == 1 {
            return Ok(streams);
        }
        let gate = TcpListener::bind(&self.address).and_then(Gate::new);
        let gate = gate.map_err(|error| {
            self.refused(format!(
                "rank 0 cannot listen there: {error}\n  help: name an address of rank 0's machine, and a port that is free"
            ))
        })?;
        let mut table = vec![String::new(); self.size];
        let outcome = self.gather(&gate, until, &mut streams, &mut table);
        let answer = match &outcome {
            Ok(()) => {
                let start = Writer::default().u8(0).bytes(&self.blob);
                table.iter().fold(start, |to, address| to.text(address))
            }
            Err(error) => failure::write(Writer::default().u8(1), error),
        };
        for stream in streams.iter().flatten() {
            // One who has left meanwhile is missed at the first call, by name.
            let _ = send(stream, &answer.0);
        }
        outcome.map(|()| streams)
    }

    fn gather(
        &self,
        gate: &Gate,
        until: Instant,
        streams: &mut Streams,
        table: &mut [String],
    ) -> Result<(), CommError> {
        let absent = |streams: &Streams| -> Vec<usize> {
            (1..self.size)
                .filter(|&rank| streams[rank].is_none())
                .collect()
        };
        let mut strangers = String::new();
        loop {
            let missing = absent(streams);
            if missing.is_empty() {
                return Ok(());
            }
            let Some((hello, stream, from)) = gate.next(until) else {
                return Err(self.absent(missing, &strangers));
            };
            let (rank, size) = (hello.rank, hello.size);
            let refuse = |stream: &TcpStream, error: CommError| {
                let _ = send(stream, &failure::write(Writer::default().u8(1), &error).0);
                error
            };
            if hello.token != self.token {
                refuse(
                    &stream,
                    self.refused("the token is not this world's".into()),
                );
                strangers = format!("{from} came with the token of another world");
                continue;
            }
            if size != self.size || rank == 0 || rank >= self.size {
                let what = format!(
                    "rank 0 forms a world of {} ranks, but rank {rank} of {size} came from {from}\n  help: start all ranks with the same number of ranks",
                    self.size
                );
                return Err(refuse(&stream, self.refused(what)));
            }
            if let Some(first) = &streams[rank] {
                let first = first
                    .peer_addr()
                    .map_or("elsewhere".into(), |it| it.to_string());
                let what = format!(
                    "rank {rank} came twice, from {first} and from {from}\n  help: give each process a rank of its own"
                );
                return Err(refuse(&stream, self.refused(what)));
            }
            (table[rank], streams[rank]) = (hello.address, Some(stream));
        }
    }

    /// The other ranks' part: hears from rank 0 where all are, and connects to them.
    fn visit(&self, until: Instant) -> Result<(Streams, Vec<u8>), CommError> {
        let host = self.reach(until)?;
        let broken = |error: io::Error| {
            self.refused(format!(
                "rank 0 parted before all had come: {error}\n  help: look at what it reports"
            ))
        };
        // The others reach this rank where rank 0 sees it.
        let mine = host.local_addr().map_err(broken)?.ip();
        let gate = TcpListener::bind((mine, 0)).and_then(|listener| {
            let address = listener.local_addr()?.to_string();
            Ok((Gate::new(listener)?, address))
        });
        let (gate, address) =
            gate.map_err(|error| self.refused(format!("cannot listen at {mine}: {error}")))?;
        self.hello(address).send(&host).map_err(broken)?;
        let wait = self.patience + GRACE;
        host.set_read_timeout(Some(wait)).map_err(broken)?;
        let answer = receive(&host, ANSWER).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                self.absent(vec![0], "it listens, but does not answer")
            }
            _ => broken(error),
        })?;
        let mut from = Reader(&answer);
        let (table, blob) = match from.u8() {
            Some(1) => return Err(failure::read(&mut from).unwrap_or_else(|| self.nonsense())),
            _ => {
                let blob = from.bytes().ok_or_else(|| self.nonsense())?.to_vec();
                let table = (0..self.size)
                    .map(|_| from.text())
                    .collect::<Option<Vec<_>>>();
                (table.ok_or_else(|| self.nonsense())?, blob)
            }
        };
        let mut streams = self.meet(&gate, &table, Instant::now() + wait)?;
        streams[0] = Some(host);
        Ok((streams, blob))
    }

    fn nonsense(&self) -> CommError {
        self.refused(
            "rank 0 answers in another language\n  help: run the same program on all ranks".into(),
        )
    }

    fn hello(&self, address: String) -> Hello {
        Hello {
            token: self.token.clone(),
            rank: self.rank,
            size: self.size,
            address,
        }
    }

    /// A connection to rank 0, as soon as it listens.
    fn reach(&self, until: Instant) -> Result<TcpStream, CommError> {
        let mut last = String::new();
        loop {
            match connect(&self.address, until) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string().max(last),
            }
            if Instant::now() > until {
                return Err(self.absent(vec![0], &last));
            }
            sleep(RETRY);
        }
    }

    /// Connects to all lower ranks, and lets all higher ones connect.
    fn meet(&self, gate: &Gate, table: &[String], until: Instant) -> Result<Streams, CommError> {
        let mut streams: Streams = (0..self.size).map(|_| None).collect();
        for (rank, address) in table.iter().enumerate().take(self.rank).skip(1) {
            let connected = connect(address, until).and_then(|stream| {
                self.hello(String::new()).send(&stream)?;
                Ok(stream)
            });
            streams[rank] = Some(connected.map_err(|error| {
                self.refused(format!(
                    "rank {} cannot reach rank {rank} at {address}: {error}\n  help: all machines must reach one another, on any port",
                    self.rank
                ))
            })?);
        }
        loop {
            let missing: Vec<usize> = (self.rank + 1..self.size)
                .filter(|&rank| streams[rank].is_none())
                .collect();
            if missing.is_empty() {
                return Ok(streams);
            }
            let Some((hello, stream, _)) = gate.next(until) else {
                let why = format!(
                    "rank {} waited for them after rank 0 had seen them",
                    self.rank
                );
                return Err(self.absent(missing, &why));
            };
            if hello.token == self.token && missing.contains(&hello.rank) {
                streams[hello.rank] = Some(stream);
            }
        }
    }
}

fn connect(address: &str, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now());
        // A machine that swallows calls must not take up all the time that there is.
        let wait = left.clamp(Duration::from_millis(10), Duration::from_secs(3));
        match TcpStream::connect_timeout(&address, wait) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
