//! The suite that every transport runs: named checks, each a function of one rank.
//!
//! A transport's test gives [`run`] a function that starts ranks, runs a check on each, and collects
//! what they found. A check captures nothing, so a transport of processes can start itself again and
//! find the check by its name. What a transport cannot do, it excepts by name. A transport that takes
//! device buffers runs the suite a second time, behind [`OnDevice`].
//!
//! ```no_run
//! # use kinora_comm::conformance::{self, Check, Outcome};
//! # fn start_my_ranks(check: &'static Check, ranks: usize) -> Vec<Option<Outcome>> { vec![] }
//! conformance::run(&["sums add in the order of ranks"], start_my_ranks).unwrap();
//! ```

mod faults;
mod groups;
mod on_device;
mod results;
mod step;

pub use on_device::OnDevice;
pub use step::{Step, Task, exercise};

use crate::{CommError, Transport};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a rank found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

/// How a rank's part of a check ended.
pub type Outcome = Result<(), Wrong>;

type Body = fn(&Arc<dyn Transport>) -> Outcome;

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What is true if it passes.
    pub name: &'static str,
    /// The sizes of the worlds that it runs in, each a new one.
    pub ranks: &'static [usize],
    /// The deadline of these worlds.
    pub deadline: Duration,
    /// The rank that ends badly on purpose, by a panic or an error.
    pub falls: Option<usize>,
    body: Body,
}

impl Check {
    const fn new(name: &'static str, ranks: &'static [usize], body: Body) -> Self {
        let deadline = Duration::from_secs(20);
        Self {
            name,
            ranks,
            deadline,
            falls: None,
            body,
        }
    }

    const fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    const fn falls(self, rank: usize) -> Self {
        Self {
            falls: Some(rank),
            ..self
        }
    }

    /// One rank's part.
    ///
    /// # Errors
    /// What is wrong; or, on the rank that falls, an error on purpose.
    ///
    /// # Panics
    /// On the rank that falls.
    pub fn run(&self, transport: &Arc<dyn Transport>) -> Outcome {
        (self.body)(transport)
    }
}

/// All checks.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    results::CHECKS
        .iter()
        .chain(groups::CHECKS)
        .chain(faults::CHECKS)
}

/// Runs all checks but those named in `except`. `spawn` starts as many ranks as it is told, with the
/// check's deadline, runs the check on each, and returns how each ended, in order; `None` of a rank
/// that did not come back.
///
/// # Errors
/// One line for each rank of each check that fails; or a name that no check has.
pub fn run(
    except: &[&str],
    spawn: impl Fn(&'static Check, usize) -> Vec<Option<Outcome>>,
) -> Result<(), String> {
    if let Some(name) = except
        .iter()
        .find(|&&name| checks().all(|check| check.name != name))
    {
        return Err(format!("no check is named \"{name}\""));
    }
    let mut wrongs = vec![];
    for check in checks().filter(|check| !except.contains(&check.name)) {
        for &ranks in check.ranks {
            let outcomes = spawn(check, ranks);
            let at = format!("\"{}\" on {ranks} ranks", check.name);
            if outcomes.len() != ranks {
                wrongs.push(format!("{at}: {} outcomes", outcomes.len()));
            }
            for (rank, outcome) in outcomes.into_iter().enumerate() {
                let wrong = match outcome {
                    Some(Ok(())) if check.falls == Some(rank) => "should have fallen".to_string(),
                    Some(Ok(())) => continue,
                    _ if check.falls == Some(rank) => continue,
                    Some(Err(Wrong(wrong))) => wrong,
                    None => "did not come back".to_string(),
                };
                wrongs.push(format!("{at}: rank {rank}: {wrong}"));
            }
        }
    }
    if wrongs.is_empty() {
        Ok(())
    } else {
        Err(wrongs.join("\n"))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl From<CommError> for Wrong {
    fn from(error: CommError) -> Self {
        Self(format!("a call that should succeed failed: {error}"))
    }
}

/// Compares what came out with what should have.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected {
        return Ok(());
    }
    // Long buffers would bury the rest of the report.
    let short = |value: &T| format!("{value:?}").chars().take(200).collect::<String>();
    let (found, expected) = (short(found), short(expected));
    Err(Wrong(format!("{what}: {found}, but should be {expected}")))
}
