//! The servers that stores are tested against: moto's S3, a plain HTTP server, and a proxy that makes
//! mistakes on purpose.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// moto's S3 server, which ends with this value.
pub(crate) struct Moto {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Moto {
    /// Starts it; none, and said so aloud, if it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            // The test harness keeps what is printed, but not this.
            _ = writeln!(
                io::stderr(),
                "SKIPPED: no moto_server on the PATH (pip install 'moto[server]'), so S3 was not tested"
            );
            return None;
        };
        let moto = Self {
            child,
            address: port,
        };
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(moto.address).is_err() {
            assert!(Instant::now() < end, "moto_server does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) {
        let head = format!(
            "PUT /{path} HTTP/1.1\r\nhost: {}\r\nauthorization: {AUTHORIZATION}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        let answer = exchange(self.address, head.as_bytes(), body);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200"), "PUT {path}: {text}");
    }

    /// Uploads a folder's files to a bucket, which is made.
    pub(crate) fn upload(&self, folder: &Path, bucket: &str, prefix: &str) {
        self.put(bucket, b"");
        for (name, bytes) in files(folder) {
            self.put(&format!("{bucket}/{prefix}{name}"), &bytes);
        }
    }
}

// moto looks at its form only, but nobody may write over an object without one.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

impl Drop for Moto {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub(crate) fn files(folder: &Path) -> HashMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn exchange(address: SocketAddr, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(head).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// A request's head.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Self {
            method,
            path,
            headers,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: format!("<Error><Code>Injected{status}</Code></Error>").into_bytes(),
        }
    }

    fn head(&self, method: &str) -> String {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        // The answer to HEAD names the length of what it leaves out.
        if method != "HEAD"
            || !self
                .headers
                .iter()
                .any(|(name, _)| name == "content-length")
        {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head + "connection: close\r\n\r\n"
    }
}

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Answers with this status instead.
    Status(u16),
    /// Names the whole length, sends half of it, and closes.
    Truncate,
    /// Closes without an answer.
    Close,
    /// Sends a little, and then nothing for so long.
    Stall(Duration),
    /// Sends in little pieces, with pauses.
    Dribble,
    /// Flips a bit in the middle of the body.
    Flip,
}

/// Serves what `answer` says, with the faults that it says.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(
        answer: impl Fn(&Request) -> (Answer, Fault) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), requests.clone());
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (answer.clone(), log.clone());
                thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Request) -> (Answer, Fault),
    log: &Mutex<Vec<Request>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(request) = Request::read(&mut reader) else {
        return;
    };
    log.lock().unwrap().push(request.clone());
    let (mut answer, fault) = answer(&request);
    let mut stream = stream;
    // A client that has given up is no concern of the server.
    _ = send(&mut stream, &request.method, &mut answer, fault);
}

fn send(stream: &mut TcpStream, method: &str, answer: &mut Answer, fault: Fault) -> io::Result<()> {
    let middle = answer.body.len() / 2;
    match fault {
        Fault::Close => return Ok(()),
        Fault::Status(status) => *answer = Answer::status(status),
        Fault::Flip if middle > 0 => answer.body[middle] ^= 0x10,
        _ => {}
    }
    stream.write_all(answer.head(method).as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    match fault {
        Fault::Truncate => stream.write_all(&answer.body[..middle]),
        Fault::Stall(pause) => {
            stream.write_all(&answer.body[..middle.min(10)])?;
            thread::sleep(pause);
            Ok(())
        }
        Fault::Dribble => {
            for piece in answer.body.chunks(answer.body.len().div_ceil(20).max(1)) {
                stream.write_all(piece)?;
                stream.flush()?;
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
        _ => stream.write_all(&answer.body),
    }
}

/// Passes requests on to another server, with faults.
pub(crate) fn proxy(
    upstream: SocketAddr,
    fault: impl Fn(&Request) -> Fault + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| {
        let fault = fault(request);
        // What is answered instead needs no asking.
        if matches!(fault, Fault::Status(_) | Fault::Close) {
            return (Answer::status(500), fault);
        }
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
        for (name, value) in &request.headers {
            if name != "connection" {
                head += &format!("{name}: {value}\r\n");
            }
        }
        head += "connection: close\r\n\r\n";
        let raw = exchange(upstream, head.as_bytes(), b"");
        (parse(&raw), fault)
    })
}

fn parse(raw: &[u8]) -> Answer {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    assert!(!headers.iter().any(|(name, _)| name == "transfer-encoding"));
    let body = raw[end + 4..].to_vec();
    // A length that the body has is written again.
    let headers = headers
        .into_iter()
        .filter(|(name, value)| {
            name != "connection"
                && (name != "content-length" || value.parse::<usize>().ok() != Some(body.len()))
        })
        .collect();
    Answer {
        status: status.parse().unwrap(),
        headers,
        body,
    }
}

/// A fault for the first request of each kind, and none for its repetitions.
pub(crate) fn once(fault: Fault) -> impl Fn(&Request) -> Fault + Send + Sync {
    let seen = Mutex::new(HashSet::new());
    move |request: &Request| {
        let range = request.header("range").map(str::to_owned);
        let key = (request.method.clone(), request.path.clone(), range);
        if seen.lock().unwrap().insert(key) {
            fault
        } else {
            Fault::None
        }
    }
}

/// Files over HTTP, with ranges.
pub(crate) fn file_server(
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    fault: impl Fn(&Request) -> Fault + Send + Sync + 'static,
) -> Server {
    Server::start(move |request| {
        let files = files.lock().unwrap();
        let answer = match files.get(request.path.trim_start_matches('/')) {
            Some(bytes) => file(bytes, request),
            None => Answer::status(404),
        };
        (answer, fault(request))
    })
}

fn file(bytes: &[u8], request: &Request) -> Answer {
    let etag = format!("\"{:x}\"", xxhash_rust::xxh3::xxh3_64(bytes));
    let mut headers = vec![("etag".to_owned(), etag)];
    if request.method == "HEAD" {
        headers.push(("content-length".to_owned(), bytes.len().to_string()));
        return Answer {
            status: 200,
            headers,
            body: Vec::new(),
        };
    }
    let range = request.header("range").and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
    });
    let Some((from, to)) = range else {
        return Answer {
            status: 200,
            headers,
            body: bytes.to_vec(),
        };
    };
    if from >= bytes.len() {
        return Answer::status(416);
    }
    let to = to.min(bytes.len() - 1);
    headers.push((
        "content-range".to_owned(),
        format!("bytes {from}-{to}/{}", bytes.len()),
    ));
    Answer {
        status: 206,
        headers,
        body: bytes[from..=to].to_vec(),
    }
}
