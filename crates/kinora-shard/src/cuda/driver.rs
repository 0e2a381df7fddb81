//! What is asked of the CUDA driver and of NVRTC directly.
//!
//! Both are opened when they are first called, and their bindings panic if they are not there. So
//! [`usable`] asks first, and nothing else may be called before it has found them.

use cubecl::cuda::install::cuda_path;
use cudarc::driver::result as driver;
use cudarc::nvrtc::result as nvrtc;
use kinora_comm::{CommError, DeviceBuffer};
use std::ffi::CStr;
use std::path::Path;

// Includes what kernels include for half precision, and nothing that an old compiler lacks.
const PROBE: &CStr = c"#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern \"C\" __global__ void probe(__half *x) { x[0] = __float2half(1.0f); }
";

/// The number of GPUs, if kernels can be compiled and run here; else what is missing.
pub(crate) fn usable() -> Result<usize, Vec<String>> {
    let mut lacks = vec![];
    // SAFETY: it only tries to open each name of the library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        lacks.push("there is no CUDA driver (libcuda.so.1)".to_string());
    }
    // SAFETY: as above.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        lacks.push("there is no NVRTC (libnvrtc.so), which compiles kernels".to_string());
    }
    let headers = cuda_path().filter(|path| path.join("include/cuda_fp16.h").is_file());
    let Some(headers) = headers.filter(|_| lacks.is_empty()) else {
        if cuda_path().is_none_or(|path| !path.join("include/cuda_fp16.h").is_file()) {
            lacks.push(match cuda_path() {
                Some(path) => format!("{} has no include/cuda_fp16.h", path.display()),
                None => "there are no CUDA headers (CUDA_PATH)".to_string(),
            });
        }
        return Err(lacks);
    };
    let count = driver::init().and_then(|()| driver::device::get_count());
    match count {
        Ok(count @ 1..) => compile(&headers).map(|()| count as usize),
        Ok(_) => Err("the CUDA driver finds no GPU".to_string()),
        Err(error) => Err(format!("the CUDA driver does not start: {error}")),
    }
    .map_err(|lack| vec![lack])
}

/// Compiles a small kernel as all others will be: only that opens NVRTC's own parts.
fn compile(headers: &Path) -> Result<(), String> {
    let include = headers.join("include");
    let options = [
        format!("--include-path={}", include.display()),
        format!("--include-path={}", include.join("cccl").display()),
    ];
    let failed = |error: nvrtc::NvrtcError| format!("NVRTC does not work: {error}");
    let program = nvrtc::create_program(PROBE, None).map_err(failed)?;
    // SAFETY: the program is alive, and is destroyed once, at the end.
    let (compiled, log, destroyed) = unsafe {
        let compiled = nvrtc::compile_program(program, &options);
        let log = nvrtc::get_program_log(program);
        (compiled, log, nvrtc::destroy_program(program))
    };
    compiled.map_err(|error| {
        let bytes: Vec<u8> = log
            .unwrap_or_default()
            .into_iter()
            .map(|byte| byte as u8)
            .take_while(|&byte| byte != 0)
            .collect();
        let log = String::from_utf8_lossy(&bytes).trim().to_string();
        format!("NVRTC cannot compile a kernel: {error}: {log}")
    })?;
    destroyed.map_err(failed)
}

/// Copies a buffer to another of the same length and device, and waits for it.
pub(super) fn copy(from: &DeviceBuffer, to: &DeviceBuffer) -> Result<(), CommError> {
    if from.len == 0 {
        return Ok(());
    }
    assert_eq!(
        (from.len, from.dtype, from.device, from.stream),
        (to.len, to.dtype, to.device, 0),
        "a copy between like buffers whose contents are there"
    );
    let copied = driver::device::get(from.device as i32).and_then(|device| {
        // SAFETY: the context is the one that Burn has on the device, which both buffers are alive
        // in; the regions have that many bytes, and the copy has ended when the last call returns.
        unsafe {
            let context = driver::primary_ctx::retain(device)?;
            driver::ctx::set_current(context)?;
            let copied = driver::memcpy_dtod_sync(to.ptr, from.ptr, from.len * from.dtype.size())
                .and_then(|()| driver::ctx::synchronize());
            driver::primary_ctx::release(device)?;
            copied
        }
    });
    copied.map_err(|error| CommError::Native {
        operation: "a copy".to_string(),
        place: format!("device {}", from.device),
        what: format!("the CUDA driver reports {error}"),
    })
}
