//! Starting the ranks of a configuration's mesh.

use crate::config::RunConfig;
use crate::failure::Outcome;
use kinora_comm::local::{self, World};
use kinora_shard::Sharding;
use kinora_train::TrainError;
use std::sync::Arc;

/// Runs `body` on every rank of the mesh, as threads of this process, and returns the first rank's
/// result.
pub(crate) fn on_ranks<T: Send + 'static>(
    config: &RunConfig,
    body: impl Fn(Arc<Sharding>) -> Result<T, TrainError> + Send + Sync + 'static,
) -> Outcome<T> {
    let (mesh, plan) = (config.mesh, config.plan.clone());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match config.run.threads {
        0 => (cores / mesh.ranks()).max(1),
        threads => threads,
    };
    let world = World {
        deadline: config.run.deadline(),
        ..World::new(mesh.ranks(), threads)
    };
    let results = local::run(&world, move |transport| {
        body(Sharding::new(transport, mesh, plan.clone())?)
    })?;
    Ok(results.into_iter().next().expect("a mesh has a rank"))
}
