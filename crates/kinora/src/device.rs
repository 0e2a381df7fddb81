//! The devices of this process's ranks, checked before anything starts.

use crate::config::RunConfig;
use crate::failure::{Failure, Outcome};
use crate::verbs::cuda_parts;
use burn::tensor::Device;
use kinora_shard::{DeviceError, Devices, ShardError};
use std::env;

/// The host's memory and cores, where data are prepared and pictures are made, whatever ranks compute
/// on.
pub(crate) fn host() -> Device {
    Device::flex()
}

/// The devices of this process's ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RankDevices {
    devices: Devices,
    // This process's number on its host, if it is one rank among others.
    process: Option<usize>,
}

impl RankDevices {
    /// Finds the devices that `run.device` names, one for each rank of this process.
    pub(crate) fn open(config: &RunConfig) -> Outcome<Self> {
        let devices = Devices::open(config.run.device).map_err(explain)?;
        let process = process();
        let found = Self { devices, process };
        let ranks = if process.is_some() {
            1
        } else {
            config.mesh.ranks()
        };
        for rank in 0..ranks {
            found.of(rank).map_err(|error| match error {
                ShardError::Device(error) => explain(error),
                other => Failure::input(other.to_string()),
            })?;
        }
        Ok(found)
    }

    /// The device of a rank of this process.
    ///
    /// # Errors
    /// [`DeviceError::TooFew`].
    pub(crate) fn of(&self, rank: usize) -> Result<Device, ShardError> {
        Ok(self.devices.of(self.process.unwrap_or(rank))?)
    }
}

/// This process's number among those of its world on this host, if a launcher has started several.
fn process() -> Option<usize> {
    let number = |name: &str| env::var(name).ok()?.parse::<usize>().ok();
    let launchers: [(&str, &[&str]); 3] = [
        // All on this host.
        ("KINORA_SIZE", &["KINORA_RANK"]),
        ("OMPI_COMM_WORLD_SIZE", &["OMPI_COMM_WORLD_LOCAL_RANK"]),
        ("PMI_SIZE", &["MPI_LOCALRANKID", "SLURM_LOCALID"]),
    ];
    let (_, local) = launchers
        .into_iter()
        .find(|(size, _)| number(size).is_some_and(|size| size > 1))?;
    local.iter().find_map(|name| number(name))
}

/// The error with what `kinora doctor` says of the missing parts.
fn explain(error: DeviceError) -> Failure {
    let mut text = format!("run.{error}");
    if let DeviceError::Lacks { .. } = error {
        for part in cuda_parts() {
            text.push_str(&format!("\n  {part}"));
        }
        text.push_str(
            "\n  help: `kinora doctor` shows what is there; --set run.device=flex computes on the CPU",
        );
    }
    Failure::input(text)
}
