//! Where ranks are started, and by which commands.

use crate::Mpirun;
use crate::mpirun::Flavor;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// Where the ranks of a program are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine, each by the launcher itself.
    Here,
    /// By `mpirun`, on this machine or on others.
    Mpirun(Mpirun),
}

/// What every rank runs.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program; on other hosts it must lie at the same path.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The number of ranks, on all hosts together.
    pub ranks: usize,
}

/// A child to start.
#[derive(Debug)]
pub struct Start {
    /// Who it is.
    pub who: Who,
    /// How it is started.
    pub command: Command,
}

/// Who a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A rank.
    Rank(usize),
    /// `mpirun`, which speaks for all ranks.
    Mpirun(Flavor),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Mpirun(_) => f.write_str("mpirun"),
        }
    }
}

impl Place {
    /// The children to start. `env` gives the environment variables of a rank, or with `None` those
    /// that all ranks share, where MPI numbers them.
    pub fn starts(
        &self,
        program: &Program,
        env: impl Fn(Option<usize>) -> Vec<(&'static str, String)>,
    ) -> Vec<Start> {
        match self {
            Self::Here => (0..program.ranks)
                .map(|rank| {
                    let mut command = Command::new(&program.path);
                    command.args(&program.args).envs(env(Some(rank)));
                    let who = Who::Rank(rank);
                    Start { who, command }
                })
                .collect(),
            Self::Mpirun(mpirun) => vec![mpirun.start(program, &env(None))],
        }
    }
}
