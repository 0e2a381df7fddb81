//! How this process was started: by itself, or as one rank of several.

use crate::failure::{Failure, Outcome};
use std::io::Read;
use std::thread;

pub(crate) const TRANSPORT: &str = "KINORA_TRANSPORT";
pub(crate) const RANK: &str = "KINORA_RANK";
pub(crate) const SIZE: &str = "KINORA_SIZE";
pub(crate) const RENDEZVOUS: &str = "KINORA_RENDEZVOUS";
pub(crate) const TOKEN: &str = "KINORA_TOKEN";

// What the `mpirun`s of Open MPI and of MPICH tell their processes.
const MPI_SIZE: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
const MPI_LOCAL_SIZE: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];
const MPI_LOCAL_RANK: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"];

/// How this process was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Launched {
    /// By a user: its ranks are its threads.
    Alone,
    /// By `kinora launch`, as a rank that finds the others over TCP.
    Tcp {
        rank: usize,
        size: usize,
        /// Where rank 0 listens.
        address: String,
        token: String,
    },
    /// By `mpirun`.
    Mpi {
        /// Whether `kinora launch` started that.
        supervised: bool,
        /// Processes on this machine, and this one among them, if `mpirun` says so.
        here: Option<(usize, usize)>,
    },
}

impl Launched {
    /// As the environment says.
    pub(crate) fn from_env() -> Outcome<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Outcome<Self> {
        let text = |name: &str| {
            variable(name).ok_or_else(|| {
                Failure::input(format!(
                    "{name} is not set, though {TRANSPORT} is\n  help: start ranks with kinora launch"
                ))
            })
        };
        let number = |name: &str| -> Outcome<usize> {
            let text = text(name)?;
            text.parse().map_err(|_| {
                Failure::input(format!(
                    "{name} = {text} is no number\n  help: start ranks with kinora launch"
                ))
            })
        };
        let of_mpi = |names: [&str; 2]| -> Option<usize> {
            names.iter().find_map(|name| variable(name)?.parse().ok())
        };
        let mpi = |supervised| Self::Mpi {
            supervised,
            here: of_mpi(MPI_LOCAL_SIZE).zip(of_mpi(MPI_LOCAL_RANK)),
        };
        match variable(TRANSPORT).as_deref() {
            Some("tcp") => Ok(Self::Tcp {
                rank: number(RANK)?,
                size: number(SIZE)?,
                address: text(RENDEZVOUS)?,
                token: text(TOKEN)?,
            }),
            Some("mpi") => Ok(mpi(true)),
            Some(other) => Err(Failure::input(format!(
                "{TRANSPORT} = {other} is no transport\n  help: it is tcp or mpi, and set by kinora launch"
            ))),
            // Otherwise each process would do all the work, and all would write the same files.
            None if of_mpi(MPI_SIZE).is_some_and(|size| size > 1) => Ok(mpi(false)),
            None => Ok(Self::Alone),
        }
    }
}

/// Ends this process when the launcher does, which holds the other end of the standard input.
pub(crate) fn end_with_launcher() {
    thread::spawn(|| {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0; 64];
        // An error is an end too: nothing else would tell.
        while matches!(input.read(&mut ignored), Ok(1..)) {}
        std::process::exit(1);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Outcome<Launched> {
        Launched::read(|name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn what_started_this_process_is_read_off_the_environment() {
        assert_eq!(read(&[]).unwrap(), Launched::Alone);
        assert_eq!(read(&[("PMI_SIZE", "1")]).unwrap(), Launched::Alone);
        let tcp = [
            (TRANSPORT, "tcp"),
            (RANK, "1"),
            (SIZE, "2"),
            (RENDEZVOUS, "127.0.0.1:1"),
            (TOKEN, "t"),
            // Whoever launches inside of a job does not mean that job's processes.
            ("PMI_SIZE", "4"),
        ];
        let expected = Launched::Tcp {
            rank: 1,
            size: 2,
            address: "127.0.0.1:1".into(),
            token: "t".into(),
        };
        assert_eq!(read(&tcp).unwrap(), expected);
        for size in MPI_SIZE {
            let expected = Launched::Mpi {
                supervised: false,
                here: None,
            };
            assert_eq!(read(&[(size, "4")]).unwrap(), expected);
        }
        let mpi = [
            (TRANSPORT, "mpi"),
            ("MPI_LOCALNRANKS", "2"),
            ("MPI_LOCALRANKID", "1"),
        ];
        let expected = Launched::Mpi {
            supervised: true,
            here: Some((2, 1)),
        };
        assert_eq!(read(&mpi).unwrap(), expected);
    }

    #[test]
    fn half_an_environment_is_refused() {
        let says = |set: &[(&str, &str)]| read(set).unwrap_err().to_string();
        assert!(says(&[(TRANSPORT, "udp")]).contains("udp"));
        assert!(says(&[(TRANSPORT, "tcp")]).contains(RANK));
        assert!(says(&[(TRANSPORT, "tcp"), (RANK, "one")]).contains("one"));
    }
}
