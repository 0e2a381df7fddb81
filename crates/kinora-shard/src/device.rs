//! Where ranks compute: what a configuration names, and what this machine has for it.

use burn::tensor::Device;
use kinora_comm::{CommError, Transport};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What ranks compute on: `flex`, `cuda` or `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceKind {
    /// The CPU.
    #[default]
    Flex,
    /// NVIDIA GPUs: the one of this number for all ranks, or for each rank the one that has the rank's
    /// number on its host.
    Cuda(Option<usize>),
}

/// Why a rank has no device.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// A name of nothing.
    #[error("\"{name}\" is no device\n  help: use \"flex\" (the CPU), \"cuda\" or \"cuda:1\"")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The program cannot use the device.
    #[error(
        "device \"{kind}\": this program was built without the feature `cuda`\n  help: cargo build --release --features cuda,nccl, or use the device \"flex\""
    )]
    NotBuilt {
        /// What was asked for.
        kind: DeviceKind,
    },
    /// The machine has no driver, no compiler for kernels or no headers for them.
    #[error("device \"{kind}\": {}", lacks.join("\n  and "))]
    Lacks {
        /// What was asked for.
        kind: DeviceKind,
        /// What is missing, each in words.
        lacks: Vec<String>,
    },
    /// There are fewer devices.
    #[error(
        "device \"{kind}\": GPU {number} was asked for, but this host has {count}\n  help: start fewer ranks on it; \"cuda:0\" puts all ranks on one GPU"
    )]
    TooFew {
        /// What was asked for.
        kind: DeviceKind,
        /// The number of the GPU.
        number: usize,
        /// How many there are.
        count: usize,
    },
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown {
            name: name.to_string(),
        };
        match name.split_once(':') {
            None if name == "flex" => Ok(Self::Flex),
            None if name == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", number)) => {
                let number = number.parse().map_err(|_| unknown())?;
                Ok(Self::Cuda(Some(number)))
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = DeviceError;

    fn try_from(name: String) -> Result<Self, DeviceError> {
        name.parse()
    }
}

impl From<DeviceKind> for String {
    fn from(kind: DeviceKind) -> Self {
        kind.to_string()
    }
}

/// The devices of this host, of one kind, found to be usable.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    kind: DeviceKind,
    count: usize,
}

impl Devices {
    /// Looks whether this machine has what the kind needs. For GPUs it opens the driver and compiles
    /// a small kernel, so that what is missing is found here, where it can be said.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`] and [`DeviceError::Lacks`].
    pub fn open(kind: DeviceKind) -> Result<Self, DeviceError> {
        let count = match kind {
            DeviceKind::Flex => 1,
            DeviceKind::Cuda(_) => cuda_count(kind)?,
        };
        Ok(Self { kind, count })
    }

    /// The device of the rank that has the number `local` among the ranks on this host.
    ///
    /// # Errors
    /// [`DeviceError::TooFew`].
    pub fn of(&self, local: usize) -> Result<Device, DeviceError> {
        let DeviceKind::Cuda(number) = self.kind else {
            return Ok(Device::flex());
        };
        let number = number.unwrap_or(local);
        if number >= self.count {
            return Err(DeviceError::TooFew {
                kind: self.kind,
                number,
                count: self.count,
            });
        }
        Ok(cuda_device(number))
    }
}

#[cfg(feature = "cuda")]
fn cuda_count(kind: DeviceKind) -> Result<usize, DeviceError> {
    crate::cuda::usable().map_err(|lacks| DeviceError::Lacks { kind, lacks })
}

#[cfg(not(feature = "cuda"))]
fn cuda_count(kind: DeviceKind) -> Result<usize, DeviceError> {
    Err(DeviceError::NotBuilt { kind })
}

#[cfg(feature = "cuda")]
fn cuda_device(number: usize) -> Device {
    Device::cuda(number)
}

#[cfg(not(feature = "cuda"))]
fn cuda_device(_number: usize) -> Device {
    unreachable!("without CUDA no devices of it are opened")
}

/// The transport for a rank whose tensors are on `device`: with the feature `nccl` and a GPU, one that
/// takes its buffers as they are, with `control` beside it; else `control` itself, which buffers reach
/// through host memory. Every rank calls it; the GPUs must be different ones.
///
/// # Errors
/// [`CommError::Missing`] without NCCL; else those of a collective.
#[cfg_attr(
    not(all(feature = "cuda", feature = "nccl")),
    expect(unused_variables, reason = "only NCCL asks for them")
)]
pub fn on_device(
    control: Arc<dyn Transport>,
    device: &Device,
    deadline: Duration,
) -> Result<Arc<dyn Transport>, CommError> {
    #[cfg(all(feature = "cuda", feature = "nccl"))]
    if control.size() > 1
        && let Some(number) = crate::cuda::number(device)
    {
        return crate::cuda::join(control, number, deadline);
    }
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["flex", "cuda", "cuda:0", "cuda:17"] {
            let kind: DeviceKind = name.parse().unwrap();
            assert_eq!(kind.to_string(), name);
        }
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "flex:0", "CUDA"] {
            let error = name.parse::<DeviceKind>().unwrap_err();
            assert_eq!(error, DeviceError::Unknown { name: name.into() });
        }
    }

    #[test]
    fn a_rank_beyond_the_last_gpu_is_told_so() {
        let devices = Devices {
            kind: DeviceKind::Cuda(None),
            count: 2,
        };
        let error = devices.of(2).unwrap_err();
        let (kind, number, count) = (devices.kind, 2, 2);
        assert_eq!(
            error,
            DeviceError::TooFew {
                kind,
                number,
                count
            }
        );
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_without_cuda_says_how_to_build_it() {
        let error = Devices::open(DeviceKind::Cuda(None)).unwrap_err();
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }
}
