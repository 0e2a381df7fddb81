//! Progress as people see it: bars on a terminal, a line every few seconds elsewhere, or nothing.
//! All of it goes to the standard error, so that a verb's own output can be piped.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a plain line is printed.
const EVERY: Duration = Duration::from_secs(5);
/// A task that is done sooner than this needs no plain line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// A bar that is redrawn; where the standard error is not a terminal, as `Plain`.
    Bar,
    /// A line every few seconds.
    Plain,
    /// Nothing (`--quiet`).
    Silent,
}

impl Console {
    /// The bar of a single task, for anything that may take over two seconds. `total` counts
    /// whatever the task counts (clips, steps, frames); `what` names it ("making clips").
    pub fn progress(self, total: u64, what: &str) -> Bar {
        Screen::open(self).bar(0, total, what)
    }

    fn settle(self, terminal: bool) -> Self {
        match self {
            Self::Bar if !terminal => Self::Plain,
            console => console,
        }
    }
}

/// A task's progress. Can be shared by threads; disappears when it is dropped.
pub struct Bar {
    what: String,
    total: u64,
    state: Mutex<State>,
    shown: Shown,
}

struct State {
    done: u64,
    message: String,
    pace: Pace,
}

enum Shown {
    Drawn(ProgressBar),
    Lines(Lines),
    Nothing,
}

impl Bar {
    /// Counts `n` more as done.
    pub fn advance(&self, n: u64) {
        self.update(|state| state.done += n);
    }

    /// Says how much is done.
    pub fn at(&self, done: u64) {
        self.update(|state| state.done = done);
    }

    /// Says how much is done, with a few words for the end of the line.
    pub fn say(&self, done: u64, message: impl Into<String>) {
        self.update(|state| {
            state.done = done;
            state.message = message.into();
        });
    }

    /// Takes the bar away; in plain mode, says how long a task of over two seconds took.
    pub fn finish(self) {
        let took = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pace
            .started
            .elapsed();
        if let Shown::Lines(lines) = &self.shown
            && took > WORTH_A_LINE
        {
            lines.print(&format!("{}: {} in {}", self.what, self.total, Span(took)));
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        // A thread that panicked while it counted leaves a count, which is all there is to guard.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let done = state.done;
        state.pace.mark(done);
        let remaining = state.pace.remaining(done, self.total);
        let tail = |state: &State| {
            let mut tail = state.message.clone();
            if let Some(span) = remaining {
                let gap = if tail.is_empty() { "" } else { "  " };
                tail += &format!("{gap}remaining {}", Span(span));
            }
            tail
        };
        match &self.shown {
            Shown::Drawn(bar) => {
                bar.set_position(done);
                bar.set_message(tail(&state));
            }
            Shown::Lines(lines) => {
                if state.pace.due(Instant::now()) {
                    lines.print(&format!(
                        "{} {done}/{}  {}",
                        self.what,
                        self.total,
                        tail(&state)
                    ));
                }
            }
            Shown::Nothing => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Shown::Drawn(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bar")
            .field("what", &self.what)
            .field("total", &self.total)
            .finish()
    }
}

/// Where bars and lines go; the bars of one screen are drawn below each other.
#[derive(Clone)]
pub(crate) enum Screen {
    Bars(MultiProgress),
    Lines(Lines),
    Nothing,
}

impl Screen {
    pub(crate) fn open(console: Console) -> Self {
        match console.settle(io::stderr().is_terminal()) {
            Console::Bar => Self::Bars(MultiProgress::new()),
            Console::Plain => Self::Lines(Lines::new(Box::new(io::stderr()))),
            Console::Silent => Self::Nothing,
        }
    }

    /// A bar on this screen, with `done` of its total done before it began.
    pub(crate) fn bar(&self, done: u64, total: u64, what: &str) -> Bar {
        let shown = match self {
            Self::Bars(bars) => {
                let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}")
                    .expect("the template is a constant")
                    .progress_chars("=> ");
                let bar = bars.add(ProgressBar::new(total).with_style(style));
                bar.set_prefix(what.to_owned());
                bar.set_position(done);
                Shown::Drawn(bar)
            }
            Self::Lines(lines) => Shown::Lines(lines.clone()),
            Self::Nothing => Shown::Nothing,
        };
        let state = State {
            done,
            message: String::new(),
            pace: Pace::new(done, Instant::now()),
        };
        Bar {
            what: what.to_owned(),
            total,
            state: Mutex::new(state),
            shown,
        }
    }

    /// Prints a line, above the bars if there are any.
    pub(crate) fn print(&self, text: &str) {
        match self {
            // A terminal that has gone away is no reason to stop a training run.
            Self::Bars(bars) => drop(bars.println(text)),
            Self::Lines(lines) => lines.print(text),
            Self::Nothing => {}
        }
    }
}

/// A stream of plain lines.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<Box<dyn Write + Send>>>);

impl Lines {
    pub(crate) fn new(to: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(to)))
    }

    fn print(&self, text: &str) {
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pipe is no reason to stop a training run.
        drop(writeln!(to, "{}", text.trim_end()).and_then(|()| to.flush()));
    }
}

/// How fast a task goes, and when it last printed a line.
struct Pace {
    started: Instant,
    printed: Option<Instant>,
    /// The count and the time at the first sign of progress. What came before it (compiling,
    /// opening files) is not the pace of the rest.
    first: Option<(u64, Instant)>,
    last: (u64, Instant),
}

impl Pace {
    fn new(done: u64, now: Instant) -> Self {
        Self {
            started: now,
            printed: None,
            first: None,
            last: (done, now),
        }
    }

    fn mark(&mut self, done: u64) {
        self.mark_at(done, Instant::now());
    }

    fn mark_at(&mut self, done: u64, now: Instant) {
        self.last = (done, now);
        self.first.get_or_insert((done, now));
    }

    fn remaining(&self, done: u64, total: u64) -> Option<Duration> {
        let (first_done, first_at) = self.first?;
        let (last_done, last_at) = self.last;
        if last_done <= first_done || done > total {
            return None;
        }
        let each = (last_at - first_at).as_secs_f64() / (last_done - first_done) as f64;
        Duration::try_from_secs_f64(each * (total - done) as f64).ok()
    }

    /// Whether a line should be printed now; the first comes at once.
    fn due(&mut self, now: Instant) -> bool {
        let due = self.printed.is_none_or(|printed| now - printed >= EVERY);
        if due {
            self.printed = Some(now);
        }
        due
    }
}

/// A length of time for people: "42s", "5m 12s", "3h 07m", "2d 04h".
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64().round() as u64;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, _) => write!(f, "{minutes}m {:02}s", seconds % 60),
            (0, _, _) => write!(f, "{hours}h {:02}m", minutes % 60),
            _ => write!(f, "{days}d {:02}h", hours % 24),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A place that plain lines go to, to be read back.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn screen(&self) -> Screen {
            Screen::Lines(Lines::new(Box::new(self.clone())))
        }

        pub(crate) fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_needs_a_terminal() {
        assert_eq!(Console::Bar.settle(true), Console::Bar);
        assert_eq!(Console::Bar.settle(false), Console::Plain);
        assert_eq!(Console::Plain.settle(true), Console::Plain);
        assert_eq!(Console::Silent.settle(false), Console::Silent);
    }

    #[test]
    fn plain_lines_are_seconds_apart() {
        let start = Instant::now();
        let mut pace = Pace::new(0, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let printed: Vec<u64> = (0..=16).filter(|&seconds| pace.due(at(seconds))).collect();
        assert_eq!(printed, [0, 5, 10, 15]);
    }

    #[test]
    fn the_rest_is_estimated_without_the_slow_start() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(100, start);
        assert_eq!(pace.remaining(100, 200), None);
        pace.mark_at(101, at(60));
        assert_eq!(pace.remaining(101, 200), None);
        pace.mark_at(102, at(62));
        pace.mark_at(103, at(64));
        assert_eq!(pace.remaining(103, 200), Some(Duration::from_secs(2 * 97)));
        assert_eq!(pace.remaining(201, 200), None);
    }

    #[test]
    fn spans_read_well() {
        for (seconds, text) in [
            (0.2, "0s"),
            (59.6, "1m 00s"),
            (312.0, "5m 12s"),
            (11_220.0, "3h 07m"),
            (187_200.0, "2d 04h"),
        ] {
            assert_eq!(Span(Duration::from_secs_f64(seconds)).to_string(), text);
        }
    }

    #[test]
    fn a_plain_bar_prints_its_first_count_and_not_each() {
        let paper = Paper::default();
        let bar = paper.screen().bar(0, 1000, "making clips");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| bar.advance(1)));
            }
        });
        assert_eq!(bar.state.lock().unwrap().done, 1000);
        bar.finish();
        assert_eq!(paper.lines(), ["making clips 1/1000"]);
    }
}
