//! NCCL on tensors: what it returns lies in memory of Burn's, and so is a tensor already.

use super::{empty, hold};
use burn::tensor::DType;
use kinora_comm::nccl::{Device, Library, Memory, Setup, join_with};
use kinora_comm::{CommError, DeviceBuffer, Dtype, Transport};
use std::sync::Arc;
use std::time::Duration;

/// Memory of the allocator that tensors have theirs from.
#[derive(Debug)]
struct Tensors {
    device: usize,
}

impl Memory for Tensors {
    fn allocate(&self, len: usize, dtype: Dtype) -> Result<DeviceBuffer, CommError> {
        let kind = match dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::U8 => DType::U8,
        };
        // It waits for what was computed so far, which may still read this memory for the tensor that
        // had it before.
        hold(empty(self.device, len, kind), dtype)
    }
}

/// NCCL beside `control`, on GPU `number`.
pub(crate) fn join(
    control: Arc<dyn Transport>,
    number: usize,
    deadline: Duration,
) -> Result<Arc<dyn Transport>, CommError> {
    let setup = Setup {
        library: Library::open(None)?,
        device: Device::open(None, number)?,
        memory: Arc::new(Tensors { device: number }),
        deadline,
    };
    join_with(control, setup)
}
