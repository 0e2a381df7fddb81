//! Tensors of NVIDIA GPUs as buffers of a transport, and back, without a copy.
//!
//! Burn gives no access to the stream that a tensor is computed on. So the host waits until the tensor
//! is there before its address is passed on, and the transport waits for its own work before it returns
//! a buffer: nothing is read before it is written, but nothing is computed during the first wait either.

#[expect(unsafe_code, reason = "calls into the CUDA driver and NVRTC")]
mod driver;
#[cfg(feature = "nccl")]
mod memory;

pub(crate) use driver::usable;
#[cfg(feature = "nccl")]
pub(crate) use memory::join;

use burn::backend::{Cuda, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::future::block_on;
use cubecl_runtime::runtime::Runtime;
use kinora_comm::{CommError, DeviceBuffer, Dtype};
use std::sync::{Arc, Mutex};

/// The device's number, if it is an NVIDIA GPU.
pub(crate) fn number(device: &Device) -> Option<usize> {
    match device.as_dispatch() {
        DispatchDevice::Cube(cubecl::Device::Cuda(device)) => Some(device.index),
        _ => None,
    }
}

/// What a buffer of a tensor keeps alive.
struct Held {
    tensor: CubeTensor,
    // As long as this is there, the tensor's memory stays where it is.
    _place: Mutex<Box<dyn Send>>,
    address: u64,
}

/// A flat tensor on a GPU as a buffer, with everything computed that it depends on.
pub(crate) fn to_buffer(flat: Tensor<1>, dtype: Dtype) -> Result<DeviceBuffer, CommError> {
    let tensor = flat
        .try_into_primitive::<Cuda>()
        .expect("the tensor is a plain one on a GPU");
    hold(into_contiguous(tensor), dtype)
}

/// A buffer as a flat tensor on a GPU: the very memory, if it is that of a tensor.
pub(crate) fn from_buffer(buffer: DeviceBuffer, dtype: DType) -> Result<Tensor<1>, CommError> {
    let held = buffer.keep.clone().downcast::<Held>().ok();
    let same = |held: &Arc<Held>| {
        held.address == buffer.ptr
            && held.tensor.dtype == dtype
            && held.tensor.meta.shape().num_elements() == buffer.len
    };
    let tensor = match held.filter(same) {
        Some(held) => held.tensor.clone(),
        None => {
            let tensor = empty(buffer.device, buffer.len, dtype);
            let target = hold(tensor.clone(), buffer.dtype)?;
            driver::copy(&buffer, &target)?;
            tensor
        }
    };
    Ok(Tensor::from_primitive::<Cuda>(tensor))
}

/// New memory of a GPU, as a tensor.
fn empty(device: usize, len: usize, dtype: DType) -> CubeTensor {
    let device = cubecl::Device::Cuda(CudaDevice::new(device));
    empty_device_contiguous_dtype(device.client(), device, [len].into(), dtype)
}

fn hold(tensor: CubeTensor, dtype: Dtype) -> Result<DeviceBuffer, CommError> {
    let cubecl::Device::Cuda(CudaDevice { index: device, .. }) = tensor.device else {
        unreachable!("the tensor is on a GPU of NVIDIA's");
    };
    let len = tensor.meta.shape().num_elements();
    if len == 0 {
        return Ok(DeviceBuffer {
            ptr: 0,
            len,
            dtype,
            device,
            stream: 0,
            keep: Arc::new(()),
        });
    }
    assert!(tensor.is_contiguous(), "the tensor's elements are packed");
    let failed = |what: String| CommError::Native {
        operation: "finding a tensor's memory".to_string(),
        place: format!("device {device}"),
        what,
    };
    // After this the calling thread's stream goes on only behind that of the tensor, so that a wait
    // for the one is a wait for both.
    let place = tensor
        .client
        .get_resource::<<CudaRuntime as Runtime>::Server>(tensor.handle.clone())
        .map_err(|error| failed(error.to_string()))?;
    block_on(tensor.client.sync()).map_err(|error| failed(error.to_string()))?;
    let address = place.resource().ptr;
    Ok(DeviceBuffer {
        ptr: address,
        len,
        dtype,
        device,
        stream: 0,
        keep: Arc::new(Held {
            tensor,
            _place: Mutex::new(Box::new(place)),
            address,
        }),
    })
}
