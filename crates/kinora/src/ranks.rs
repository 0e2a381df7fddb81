//! Starting the ranks of a configuration's mesh.

use crate::config::RunConfig;
use crate::device::RankDevices;
use crate::failure::Outcome;
use burn::tensor::Device;
use kinora_comm::local::{self, World};
use kinora_shard::{Sharding, on_device};
use kinora_train::TrainError;
use std::sync::Arc;

/// Runs `body` on every rank of the mesh, as threads of this process, each with its device, and returns
/// the first rank's result.
pub(crate) fn on_ranks<T: Send + 'static>(
    config: &RunConfig,
    devices: RankDevices,
    body: impl Fn(Arc<Sharding>, Device) -> Result<T, TrainError> + Send + Sync + 'static,
) -> Outcome<T> {
    let (mesh, plan) = (config.mesh, config.plan.clone());
    let deadline = config.run.deadline();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match config.run.threads {
        0 => (cores / mesh.ranks()).max(1),
        threads => threads,
    };
    let world = World {
        deadline,
        ..World::new(mesh.ranks(), threads)
    };
    let results = local::run(&world, move |transport| {
        let device = devices.of(transport.rank())?;
        let transport = on_device(transport, &device, deadline)?;
        body(Sharding::new(transport, mesh, plan.clone())?, device)
    })?;
    Ok(results.into_iter().next().expect("a mesh has a rank"))
}
