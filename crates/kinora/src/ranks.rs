//! The ranks of a configuration's mesh: threads of this process, or this process is one of them.

use crate::config::RunConfig;
use crate::device::RankDevices;
use crate::failure::{Failure, OrInput, OrRun, Outcome};
use crate::launched::{Launched, end_with_launcher};
use burn::tensor::Device;
use kinora_comm::local::{self, RankFailure, What, World};
use kinora_comm::process::{self, Process, Settings};
use kinora_comm::tcp::Rendezvous;
use kinora_comm::{CommError, HostBuffer};
use kinora_launch::FOLLOWED;
use kinora_shard::{Group, ShardError, Sharding, on_device};
use kinora_train::TrainError;
use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

/// This process's place among the ranks, once it has joined them. Dropping it parts from them: keep
/// it until what went wrong has been reported.
#[derive(Debug, Default)]
pub(crate) struct Here {
    joined: OnceCell<Joined>,
}

#[derive(Debug)]
struct Joined {
    process: Process,
    /// What connects it with the others.
    over: &'static str,
    /// Ranks on this machine.
    here: usize,
    /// The exit code after another's failure.
    followed: u8,
}

impl Here {
    /// The ranks of a configuration: if this process was launched as one, it joins the others.
    pub(crate) fn ranks<'a>(&'a self, config: &'a RunConfig) -> Outcome<Ranks<'a>> {
        let joined = match Launched::from_env()? {
            Launched::Alone => None,
            launched => {
                let joined = join(launched, config)?;
                Some(self.joined.get_or_init(|| joined))
            }
        };
        if let Some(joined) = joined {
            check_size(config, joined.process.size())?;
        }
        Ok(Ranks { config, joined })
    }
}

/// Checks that as many ranks were launched as the mesh holds.
pub(crate) fn check_size(config: &RunConfig, launched: usize) -> Outcome {
    let (mesh, needed) = (config.mesh, config.mesh.ranks());
    if needed == launched {
        return Ok(());
    }
    Err(ShardError::World {
        mesh,
        needed,
        launched,
    })
    .or_input()
}

fn join(launched: Launched, config: &RunConfig) -> Outcome<Joined> {
    let deadline = config.run.deadline();
    match launched {
        Launched::Alone => unreachable!("a process alone joins nobody"),
        Launched::Tcp {
            rank,
            size,
            address,
            token,
        } => {
            end_with_launcher();
            // Before the rendezvous, where the others would wait for those that the mesh lacks.
            check_size(config, size)?;
            let rendezvous = Rendezvous {
                token,
                ..Rendezvous::new(&address, rank, size, deadline)
            };
            Ok(Joined {
                process: rendezvous.join().or_run()?,
                over: "TCP",
                here: size,
                followed: FOLLOWED,
            })
        }
        Launched::Mpi { supervised, here } => {
            let process = join_mpi(deadline)?;
            // Only rank 0 has the launcher's pipe as its input.
            if supervised && process.rank() == 0 {
                end_with_launcher();
            }
            let here = here.map_or(process.size(), |(ranks, _)| ranks);
            Ok(Joined {
                process,
                over: "MPI",
                here,
                followed: 1,
            })
        }
    }
}

#[cfg(feature = "mpi")]
fn join_mpi(deadline: Duration) -> Outcome<Process> {
    kinora_comm::mpi::join(deadline).or_run()
}

#[cfg(not(feature = "mpi"))]
fn join_mpi(_: Duration) -> Outcome<Process> {
    Err(Failure::input(format!(
        "mpirun has started this, but this program was built without MPI, so each process would do all the work\n  help: {}",
        crate::verbs::launch::BUILD_MPI
    )))
}

/// The ranks that do the work of a verb.
#[derive(Debug)]
pub(crate) struct Ranks<'a> {
    config: &'a RunConfig,
    joined: Option<&'a Joined>,
}

impl Ranks<'_> {
    /// Whether this process prints and writes what is the same on all ranks.
    pub(crate) fn lead(&self) -> bool {
        self.joined.is_none_or(|joined| joined.process.rank() == 0)
    }

    /// What the ranks are, for people.
    pub(crate) fn describe(&self) -> String {
        let ranks = self.config.mesh.ranks();
        match self.joined {
            None => format!("{ranks} ranks as threads"),
            Some(joined) => format!("{ranks} ranks as processes over {}", joined.over),
        }
    }

    /// Does what only one process may do, on the first, while the others wait; `None` on those, once
    /// it is done. If it fails they end without words, as the first has them.
    pub(crate) fn first<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<Option<T>> {
        let Some(joined) = self.joined else {
            return work().map(Some);
        };
        let world = Group::new(joined.process.transport());
        let tell = |code: u8| world.broadcast(HostBuffer::U8(vec![code]), "what rank 0 prepares");
        if self.lead() {
            let outcome = world.busy(work);
            let told = tell(outcome.as_ref().map_or_else(Failure::number, |_| 0));
            let done = outcome?;
            told.map_err(|error| joined.after(error.to_string()))?;
            return Ok(Some(done));
        }
        match tell(0) {
            Ok(HostBuffer::U8(code)) if code == [0] => Ok(None),
            Ok(HostBuffer::U8(code)) => Err(Failure::Followed {
                code: match joined.followed {
                    FOLLOWED => FOLLOWED,
                    // Whose code `mpirun` passes on is not certain, so all have the same.
                    _ => code.first().copied().unwrap_or(1),
                },
                text: String::new(),
            }),
            Ok(other) => unreachable!("a broadcast of bytes returned {other:?}"),
            Err(error) => Err(joined.after(error.to_string())),
        }
    }

    /// Does something long that is no call, on every process, with signs of life.
    pub(crate) fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.joined {
            None => work(),
            Some(joined) => Group::new(joined.process.transport()).busy(work),
        }
    }

    /// Runs `body` on every rank, each with its device. The process that leads gets its first rank's
    /// result.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        devices: RankDevices,
        body: impl Fn(Arc<Sharding>, Device) -> Result<T, TrainError> + Send + Sync + 'static,
    ) -> Outcome<Option<T>> {
        let Some(joined) = self.joined else {
            return on_ranks(self.config, devices, body).map(Some);
        };
        let (process, ranks_here) = (&joined.process, joined.here);
        let (mesh, plan) = (self.config.mesh, self.config.plan.clone());
        let deadline = self.config.run.deadline();
        let settings = Settings::new(threads(self.config, ranks_here));
        let rank = process.rank();
        let outcome = process::run(process, &settings, move |transport| {
            let device = devices.of(0)?;
            let transport = on_device(transport, &device, deadline)?;
            body(Sharding::new(transport, mesh, plan)?, device)
        });
        match outcome {
            Ok(result) => Ok((rank == 0).then_some(result)),
            Err(failure) if follows(rank, &failure) => Err(joined.after(match failure.what {
                What::Error(error) => error.to_string(),
                What::Comm(error) => error.to_string(),
                What::Panic(text) => text,
            })),
            Err(failure) => Err(failure.into()),
        }
    }
}

impl Joined {
    /// This process's failure because of another's.
    fn after(&self, text: String) -> Failure {
        let code = self.followed;
        Failure::Followed { code, text }
    }
}

/// Whether a failure is another rank's.
fn follows(rank: usize, failure: &RankFailure<TrainError>) -> bool {
    let met = match &failure.what {
        What::Error(TrainError::Comm(error) | TrainError::Shard(ShardError::Comm(error)))
        | What::Comm(error) => Some(error),
        What::Error(_) | What::Panic(_) => None,
    };
    let other = match met {
        Some(
            CommError::PeerLost { rank, .. }
            | CommError::Late { rank, .. }
            | CommError::Aborted { rank, .. },
        ) => *rank,
        _ => failure.rank,
    };
    other != rank
}

/// Runs `body` on every rank of the mesh, as threads of this process, each with its device, and returns
/// the first rank's result.
pub(crate) fn on_ranks<T: Send + 'static>(
    config: &RunConfig,
    devices: RankDevices,
    body: impl Fn(Arc<Sharding>, Device) -> Result<T, TrainError> + Send + Sync + 'static,
) -> Outcome<T> {
    let (mesh, plan) = (config.mesh, config.plan.clone());
    let deadline = config.run.deadline();
    let world = World {
        deadline,
        ..World::new(mesh.ranks(), threads(config, mesh.ranks()))
    };
    let results = local::run(&world, move |transport| {
        let device = devices.of(transport.rank())?;
        let transport = on_device(transport, &device, deadline)?;
        body(Sharding::new(transport, mesh, plan.clone())?, device)
    })?;
    Ok(results.into_iter().next().expect("a mesh has a rank"))
}

/// Threads of each of so many ranks on this machine.
fn threads(config: &RunConfig, here: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match config.run.threads {
        0 => (cores / here).max(1),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(rank: usize) -> CommError {
        CommError::PeerLost {
            rank,
            operation: "a sum".into(),
            communicator: "world".into(),
            sequence: 3,
            cause: "it is gone".into(),
            seen: Default::default(),
        }
    }

    fn failure(rank: usize, what: What<TrainError>) -> RankFailure<TrainError> {
        RankFailure {
            rank,
            what,
            stuck: vec![],
        }
    }

    #[test]
    fn a_failure_is_ones_own_or_anothers() {
        let own = TrainError::Sample("no".into());
        assert!(!follows(1, &failure(1, What::Error(own))));
        assert!(!follows(1, &failure(1, What::Panic("oh".into()))));
        assert!(follows(1, &failure(0, What::Comm(lost(0)))));
        // Who noticed it first is not who failed.
        assert!(follows(1, &failure(1, What::Comm(lost(0)))));
        assert!(follows(1, &failure(1, What::Error(lost(0).into()))));
        assert!(!follows(0, &failure(1, What::Comm(lost(0)))));
    }
}
