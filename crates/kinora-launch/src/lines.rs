//! What children write: whose line it is, where it goes, and what is held back as last words.

use crate::mpirun::Flavor;
use crate::place::Who;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

// A longer line is passed on in pieces.
const LONGEST: usize = 1 << 16;
// A child that goes on for longer after `error: ` was not at its end.
const MOST_WORDS: usize = 1 << 16;
const LAST_WORDS: &[u8] = b"error: ";

/// Where the lines of all children go. Standard output of rank 0 is a program's result, and goes out
/// as it is; before all other lines stands the rank in brackets.
#[derive(Clone)]
pub struct Screen {
    out: Arc<Mutex<dyn Write + Send>>,
    err: Arc<Mutex<dyn Write + Send>>,
}

impl Screen {
    /// Lines of standard output go to `out`, those of standard error to `err`.
    pub fn new(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            err: Arc::new(Mutex::new(err)),
        }
    }

    /// This process's own.
    pub fn own() -> Self {
        Self::new(std::io::stdout(), std::io::stderr())
    }

    fn print(&self, stream: Stream, speaker: Speaker, line: &[u8]) {
        let mut text = match speaker {
            Speaker::Rank(0) if stream == Stream::Out => String::new(),
            Speaker::Rank(rank) => format!("[{rank}] "),
            Speaker::Mpirun => "[mpirun] ".to_string(),
        }
        .into_bytes();
        text.extend(line);
        text.push(b'\n');
        let to = match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        };
        let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has closed it wants no more lines; the ranks go on.
        let _ = to.write_all(&text).and_then(|()| to.flush());
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speaker {
    Rank(usize),
    Mpirun,
}

/// What was held back, by rank.
#[derive(Clone, Default)]
pub(crate) struct Words(Arc<Mutex<BTreeMap<Speaker, Vec<u8>>>>);

impl Words {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Speaker, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the line is held back.
    fn hold(&self, speaker: Speaker, line: &[u8]) -> bool {
        let mut held = self.lock();
        if line.starts_with(LAST_WORDS) {
            held.entry(speaker).or_default();
        }
        let Some(words) = held.get_mut(&speaker) else {
            return false;
        };
        if words.len() + line.len() > MOST_WORDS {
            return false;
        }
        words.extend(line);
        words.push(b'\n');
        true
    }

    /// The last words of each rank, without `error: `.
    pub(crate) fn of_ranks(&self) -> Vec<(usize, String)> {
        let held = self.lock();
        let ranks = held.iter().filter_map(|(speaker, words)| match speaker {
            Speaker::Rank(rank) => Some((*rank, words)),
            Speaker::Mpirun => None,
        });
        ranks
            .map(|(rank, words)| {
                let text = String::from_utf8_lossy(words);
                let text = text.trim_end();
                let text = text.strip_prefix("error: ").unwrap_or(text);
                (rank, text.to_string())
            })
            .collect()
    }
}

/// Passes on what a child writes, until it has nothing more to say.
pub(crate) fn pump(mut from: impl Read, who: Who, stream: Stream, screen: &Screen, words: &Words) {
    let mut rest: Vec<u8> = vec![];
    let mut chunk = [0; 8192];
    let pass = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (speaker, line) = speaker(who, line);
        if stream == Stream::Out || !words.hold(speaker, line) {
            screen.print(stream, speaker, line);
        }
    };
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        rest.extend(&chunk[..read]);
        let mut begin = 0;
        while let Some(end) = rest[begin..].iter().position(|&byte| byte == b'\n') {
            pass(&rest[begin..begin + end]);
            begin += end + 1;
        }
        rest.drain(..begin);
        if rest.len() > LONGEST {
            pass(&rest);
            rest.clear();
        }
    }
    if !rest.is_empty() {
        pass(&rest);
    }
}

/// Who has written a line, and the line without what `mpirun` puts before it.
fn speaker(who: Who, line: &[u8]) -> (Speaker, &[u8]) {
    let flavor = match who {
        Who::Rank(rank) => return (Speaker::Rank(rank), line),
        Who::Mpirun(flavor) => flavor,
    };
    match tagged(flavor, line) {
        Some((rank, line)) => (Speaker::Rank(rank), line),
        None => (Speaker::Mpirun, line),
    }
}

/// `[1,2]<stderr>:line` of Open MPI, where the first number is the job; `[2] line` of Hydra.
fn tagged(flavor: Flavor, line: &[u8]) -> Option<(usize, &[u8])> {
    let inner = line.strip_prefix(b"[")?;
    let close = inner.iter().position(|&byte| byte == b']')?;
    let (tag, rest) = (&inner[..close], &inner[close + 1..]);
    let (number, text) = match flavor {
        Flavor::Hydra => (tag, rest.strip_prefix(b" ")?),
        Flavor::OpenMpi => {
            let comma = tag.iter().rposition(|&byte| byte == b',')?;
            let text = [b"<stdout>:", b"<stderr>:"]
                .iter()
                .find_map(|mark| rest.strip_prefix(*mark))?;
            (&tag[comma + 1..], text)
        }
    };
    let rank = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((rank, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn passed(who: Who, stream: Stream, text: &[u8]) -> (String, Vec<(usize, String)>) {
        let (paper, words) = (Paper::default(), Words::default());
        let screen = Screen::new(paper.clone(), paper.clone());
        pump(text, who, stream, &screen, &words);
        let printed = paper.0.lock().unwrap().clone();
        (String::from_utf8(printed).unwrap(), words.of_ranks())
    }

    #[test]
    fn the_rank_stands_before_each_line() {
        let (printed, _) = passed(Who::Rank(2), Stream::Err, b"one\n\ntwo\r\nthree");
        assert_eq!(printed, "[2] one\n[2] \n[2] two\n[2] three\n");
        let (printed, _) = passed(Who::Rank(1), Stream::Out, b"one\n");
        assert_eq!(printed, "[1] one\n");
        let (printed, _) = passed(Who::Rank(0), Stream::Out, b"{\n}\n");
        assert_eq!(printed, "{\n}\n");
    }

    #[test]
    fn last_words_are_held_back() {
        let text = b"a\nerror: no such file\n  help: make it\n";
        let (printed, words) = passed(Who::Rank(3), Stream::Err, text);
        assert_eq!(printed, "[3] a\n");
        assert_eq!(words, [(3, "no such file\n  help: make it".to_string())]);
        // Not on the standard output, where it is a result.
        let (printed, words) = passed(Who::Rank(3), Stream::Out, b"error: 5 %\n");
        assert_eq!((printed.as_str(), words), ("[3] error: 5 %\n", vec![]));
    }

    #[test]
    fn a_child_that_goes_on_is_heard_again() {
        let mut text = b"error: not the end\n".to_vec();
        for _ in 0..20_000 {
            text.extend(b"12345678\n");
        }
        let (printed, words) = passed(Who::Rank(0), Stream::Err, &text);
        let lines = printed.lines().count();
        assert!(
            (1_000..20_000).contains(&lines),
            "{lines} lines were passed on"
        );
        assert!(words[0].1.len() <= MOST_WORDS);
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_pieces() {
        let (printed, _) = passed(Who::Rank(1), Stream::Err, &vec![b'x'; 3 * LONGEST]);
        let sizes: Vec<usize> = printed.lines().map(str::len).collect();
        assert!(sizes.len() >= 2 && sizes.iter().all(|&size| size < 2 * LONGEST));
    }

    #[test]
    fn mpirun_says_whose_line_it_is() {
        let open = Who::Mpirun(Flavor::OpenMpi);
        let text =
            b"[1,2]<stderr>:  a\n[1,0]<stderr>:error: b\n[host:12] c\n[1,0]<stderr>:  help: d\n";
        let (printed, words) = passed(open, Stream::Err, text);
        assert_eq!(printed, "[2]   a\n[mpirun] [host:12] c\n");
        assert_eq!(words, [(0, "b\n  help: d".to_string())]);
        let (printed, _) = passed(open, Stream::Out, b"[1,0]<stdout>:a\n[1,1]<stdout>:b\n");
        assert_eq!(printed, "a\n[1] b\n");
        let (printed, _) = passed(Who::Mpirun(Flavor::Hydra), Stream::Err, b"[2]  a\n[b] c\n");
        assert_eq!(printed, "[2]  a\n[mpirun] [b] c\n");
    }
}
