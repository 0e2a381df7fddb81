//! From the start of the children to the end of the last.

use crate::lines::{Screen, Stream, Words, pump};
use crate::{FOLLOWED, FOLLOWING, Failure, How, LaunchError, Start, Who};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

// How often the children are looked at.
const LOOK: Duration = Duration::from_millis(10);
// How long what a child has written may take to arrive once it has ended. A process that it has left
// behind may keep its pipes open for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// How long children may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// To end by themselves once one has failed, before they get SIGTERM.
    pub grace: Duration,
    /// To end after SIGTERM, before they get SIGKILL. Also for the one that failed first to come
    /// forward, while only those that ended because of it have.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
        }
    }
}

/// Starts the children and waits until all have ended. When one fails, the rest are ended, with
/// SIGTERM and then SIGKILL; also when `stop` gives a signal. `stop` is asked many times a second.
///
/// None is left running, however this returns.
///
/// # Errors
/// The first failure: [`LaunchError::Failed`]; or that a child could not be started, or that `stop`
/// said so.
pub fn supervise(
    starts: Vec<Start>,
    settings: &Settings,
    screen: &Screen,
    stop: impl Fn() -> Option<i32>,
) -> Result<(), LaunchError> {
    let mut children = vec![];
    for start in starts {
        children.push(Running::start(start, screen)?);
    }
    let stopped = wait(&mut children, settings, stop)?;
    for child in &children {
        child.drain();
    }
    if let Some(signal) = stopped {
        return Err(LaunchError::Stopped { signal });
    }
    match first_failure(&children) {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}

/// A child. Dropping it kills it.
struct Running {
    who: Who,
    child: Child,
    // Held open for as long as the child may run.
    _stdin: Option<ChildStdin>,
    words: Words,
    pumps: Receiver<()>,
    ended: Option<Ended>,
}

#[derive(Clone, Copy)]
struct Ended {
    status: ExitStatus,
    /// How many had ended before it.
    place: usize,
    /// Whether the launcher had asked it to end.
    asked: bool,
    killed: bool,
}

impl Running {
    fn start(start: Start, screen: &Screen) -> Result<Self, LaunchError> {
        let Start { who, mut command } = start;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| LaunchError::Start {
            program: command.get_program().display().to_string(),
            who,
            error,
        })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let words = Words::default();
        let (sender, pumps) = channel::<()>();
        let pass = |from: Box<dyn Read + Send>, stream| {
            let (screen, words, sender) = (screen.clone(), words.clone(), sender.clone());
            thread::spawn(move || {
                pump(from, who, stream, &screen, &words);
                drop(sender);
            });
        };
        pass(Box::new(out.expect("it is piped")), Stream::Out);
        pass(Box::new(err.expect("it is piped")), Stream::Err);
        Ok(Self {
            who,
            _stdin: child.stdin.take(),
            child,
            words,
            pumps,
            ended: None,
        })
    }

    /// Waits until all that it wrote has been passed on, within reason.
    fn drain(&self) {
        // Nothing is ever sent; the senders go when the pumps end.
        let _: Result<(), RecvTimeoutError> = self.pumps.recv_timeout(DRAIN);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (None, Some(pid)) = (&self.ended, pid) {
            // It may have ended at this moment, which is as good.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What the launcher does to the children that still run.
#[derive(Clone, Copy)]
enum Phase {
    Run,
    /// One has failed: the others get SIGTERM at this time.
    Grace(Instant),
    /// They have got it: SIGKILL follows at this time.
    Asked(Instant),
    Killed,
}

/// Waits until all have ended; the signal that stopped them.
fn wait(
    children: &mut [Running],
    settings: &Settings,
    stop: impl Fn() -> Option<i32>,
) -> Result<Option<i32>, LaunchError> {
    let (mut phase, mut stopped, mut count) = (Phase::Run, None, 0);
    loop {
        for child in children.iter_mut().filter(|child| child.ended.is_none()) {
            let who = child.who;
            let status = child
                .child
                .try_wait()
                .map_err(|error| LaunchError::Wait { who, error })?;
            if let Some(status) = status {
                child.ended = Some(Ended {
                    status,
                    place: count,
                    asked: matches!(phase, Phase::Asked(_) | Phase::Killed),
                    killed: matches!(phase, Phase::Killed),
                });
                count += 1;
            }
        }
        if count == children.len() {
            // A terminal's Ctrl-C reaches the children too, and may end them first.
            return Ok(stopped.or_else(stop));
        }
        let now = Instant::now();
        if stopped.is_none() {
            stopped = stop();
            if stopped.is_some() {
                phase = Phase::Grace(now);
            }
        }
        let signal = |signal| children.iter().for_each(|child| child.signal(signal));
        phase = match phase {
            Phase::Run | Phase::Grace(_) if stopped.is_none() => match told(children) {
                None => Phase::Run,
                Some(Told::Culprit) => earlier(phase, now + settings.grace),
                Some(Told::Followers) => earlier(phase, now + settings.deadline),
            },
            phase => phase,
        };
        phase = match phase {
            Phase::Grace(at) if now >= at => {
                signal(Signal::TERM);
                Phase::Asked(now + settings.deadline)
            }
            Phase::Asked(at) if now >= at => {
                signal(Signal::KILL);
                Phase::Killed
            }
            phase => phase,
        };
        thread::sleep(LOOK);
    }
}

fn earlier(phase: Phase, at: Instant) -> Phase {
    match phase {
        Phase::Grace(before) => Phase::Grace(before.min(at)),
        _ => Phase::Grace(at),
    }
}

enum Told {
    Culprit,
    Followers,
}

/// Who has failed so far.
fn told(children: &[Running]) -> Option<Told> {
    let mut failed = children
        .iter()
        .filter_map(|child| child.ended)
        .filter(|ended| !ended.status.success())
        .peekable();
    failed.peek()?;
    let culprit = failed.any(|ended| !followed(&ended));
    Some(if culprit {
        Told::Culprit
    } else {
        Told::Followers
    })
}

fn followed(ended: &Ended) -> bool {
    ended.status.code() == Some(i32::from(FOLLOWED))
}

fn first_failure(children: &[Running]) -> Option<Failure> {
    let mut failed: Vec<(&Running, Ended)> = children
        .iter()
        .filter_map(|child| Some((child, child.ended?)))
        .filter(|(_, ended)| !ended.status.success())
        .collect();
    // Who failed unasked, then who had to be killed, then who followed.
    failed.sort_by_key(|(_, ended)| {
        let kind = match ended {
            ended if !ended.asked && !followed(ended) => 0,
            ended if ended.killed => 1,
            ended if ended.asked && !followed(ended) => 2,
            _ => 3,
        };
        (kind, ended.place)
    });
    let (child, ended) = failed.first()?;
    let how = match ended.status.code() {
        _ if ended.asked && !followed(ended) => How::Hung,
        Some(code) if code == i32::from(FOLLOWED) => How::Code(1),
        Some(code) => How::Code(code),
        None => How::Signal(signal_of(ended.status)),
    };
    // `mpirun` passes on what several ranks say.
    let said: Vec<(usize, String)> = failed
        .iter()
        .flat_map(|(child, _)| child.words.of_ranks())
        .collect();
    let is_own = |rank: usize| match child.who {
        Who::Rank(own) => own == rank,
        Who::Mpirun(_) => true,
    };
    let own = said
        .iter()
        .find(|(rank, words)| is_own(*rank) && !words.starts_with(FOLLOWING));
    // Of those that ended because of it, the one that heard of it first.
    let mut others = said.iter().filter_map(|(rank, words)| {
        let words = words.strip_prefix(FOLLOWING)?;
        Some((*rank, words.to_string()))
    });
    let witness = match own {
        Some(_) => None,
        None => others.next(),
    };
    // Of `mpirun` the words are a rank's.
    let who = own.map_or(child.who, |(rank, _)| Who::Rank(*rank));
    let words = own.map(|(_, words)| words.clone()).unwrap_or_default();
    Some(Failure {
        who,
        how,
        words,
        witness,
    })
}

fn signal_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.signal().unwrap_or_default()
}
