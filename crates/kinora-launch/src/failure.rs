//! How the ranks of a program failed, in words.

use crate::Who;
use std::fmt;
use std::io;
use thiserror::Error;

/// Why a program of several ranks did not succeed.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A process could not be started; those that had been are ended.
    #[error(
        "{program} cannot be started for {who}: {error}\n  help: see that it is there, and may be run"
    )]
    Start {
        /// What was to be started.
        program: String,
        /// For which rank.
        who: Who,
        /// What the system says.
        error: io::Error,
    },
    /// The system does not say how a child is.
    #[error("cannot wait for {who}: {error}")]
    Wait {
        /// The child.
        who: Who,
        /// What the system says.
        error: io::Error,
    },
    /// A rank failed, and the others were ended.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The launcher was asked to stop, and the ranks were ended.
    #[error("stopped by signal {signal}; all ranks have ended")]
    Stopped {
        /// The signal.
        signal: i32,
    },
    /// `mpirun` is not there, or of a kind that is not known.
    #[error(
        "mpirun cannot be used: {what}\n  help: install Open MPI or MPICH, so that `mpirun --version` works"
    )]
    Mpirun {
        /// What is wrong.
        what: String,
    },
}

impl LaunchError {
    /// The exit code that a launcher ends with.
    pub fn code(&self) -> u8 {
        match self {
            Self::Start { .. } | Self::Wait { .. } => 1,
            Self::Failed(failure) => failure.code(),
            Self::Stopped { signal } => u8::try_from(128 + signal).unwrap_or(1),
            Self::Mpirun { .. } => 2,
        }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With an exit code.
    Code(i32),
    /// By a signal that was not the launcher's.
    Signal(i32),
    /// It did not end although others had failed because of it, and the launcher killed it.
    Hung,
}

/// The first failure of a program.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Failure {
    /// Who failed first.
    pub who: Who,
    /// How.
    pub how: How,
    /// Its last words, without `error: `; empty if it had none.
    pub words: String,
    /// If it had none: a rank that has seen it fail, and what that one says.
    pub witness: Option<(usize, String)>,
}

impl Failure {
    /// The exit code that a launcher ends with: the child's own, 1 after a signal, 70 for one that
    /// hung.
    pub fn code(&self) -> u8 {
        match self.how {
            How::Code(code) => u8::try_from(code).unwrap_or(1),
            How::Signal(_) => 1,
            How::Hung => 70,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, words) = (self.who.to_string(), self.words.as_str());
        match self.how {
            How::Code(_) if words.starts_with(&format!("{who}: ")) => f.write_str(words)?,
            How::Code(_) if !words.is_empty() => write!(f, "{who}: {words}")?,
            How::Code(code) => write!(f, "{who} ended with exit code {code}")?,
            How::Signal(signal) => write!(f, "{who} was killed by signal {signal}")?,
            How::Hung => write!(
                f,
                "{who} did not end after the others had failed, and was killed"
            )?,
        }
        if !words.is_empty() && !matches!(self.how, How::Code(_)) {
            write!(f, "\n  {who}: {words}")?;
        }
        if let Some((rank, words)) = &self.witness {
            write!(f, "\n  rank {rank} says: {words}")?;
        }
        Ok(())
    }
}
