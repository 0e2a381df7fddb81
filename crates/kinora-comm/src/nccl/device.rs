//! One CUDA device through its driver: memory, streams and events.

use super::memory::Memory;
use super::symbols::{self, table};
use crate::{CommError, DeviceBuffer, Dtype, HostBuffer};
use half::{bf16, f16};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];
const HELP: &str = "install NVIDIA's driver (in a container: start it with --gpus all), or use the transport `local` or `tcp`";
const NOT_READY: c_int = 600;
const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
// How long a download waits for the stream that makes its data.
const STREAM_DEADLINE: Duration = Duration::from_secs(60);

/// An address, or an opaque handle, of the driver or of NCCL.
pub(super) type Handle = usize;

table!(Functions {
    init = "cuInit": (c_uint) -> c_int;
    error_string = "cuGetErrorString": (c_int, *mut *const c_char) -> c_int;
    device_count = "cuDeviceGetCount": (*mut c_int) -> c_int;
    device_get = "cuDeviceGet": (*mut c_int, c_int) -> c_int;
    context_retain = "cuDevicePrimaryCtxRetain": (*mut Handle, c_int) -> c_int;
    context_release = "cuDevicePrimaryCtxRelease_v2": (c_int) -> c_int;
    context_set = "cuCtxSetCurrent": (Handle) -> c_int;
    stream_create = "cuStreamCreate": (*mut Handle, c_uint) -> c_int;
    stream_destroy = "cuStreamDestroy_v2": (Handle) -> c_int;
    stream_wait = "cuStreamWaitEvent": (Handle, Handle, c_uint) -> c_int;
    event_create = "cuEventCreate": (*mut Handle, c_uint) -> c_int;
    event_record = "cuEventRecord": (Handle, Handle) -> c_int;
    event_query = "cuEventQuery": (Handle) -> c_int;
    event_destroy = "cuEventDestroy_v2": (Handle) -> c_int;
    allocate = "cuMemAlloc_v2": (*mut u64, usize) -> c_int;
    free = "cuMemFree_v2": (u64) -> c_int;
    upload = "cuMemcpyHtoD_v2": (u64, *const c_void, usize) -> c_int;
    download = "cuMemcpyDtoH_v2": (*mut c_void, u64, usize) -> c_int;
});

/// A CUDA device and its primary context, which other users of the device in this process share, so
/// that addresses are the same to all of them.
pub struct Device {
    functions: Functions,
    number: usize,
    handle: c_int,
    context: Handle,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA device {}", self.number)
    }
}

/// A stream of a device. Its work begins in the order in which it was enqueued.
pub(super) struct Stream {
    device: Arc<Device>,
    pub(super) handle: Handle,
}

/// A place in a stream's work.
pub(super) struct Event {
    device: Arc<Device>,
    handle: Handle,
}

/// Memory of [`Device::allocate`]; freed when the last buffer in it is dropped.
struct Allocation {
    device: Arc<Device>,
    address: u64,
}

impl Device {
    /// Opens device `number` by the driver at `driver`, a file or a folder; or where the system's
    /// loader finds it.
    ///
    /// # Errors
    /// [`CommError::Missing`] without a driver or without such a device.
    pub fn open(driver: Option<&Path>, number: usize) -> Result<Arc<Self>, CommError> {
        let library = symbols::open("the CUDA driver", NAMES, driver, HELP)?;
        let mut device = Self {
            functions: Functions::fill(library)?,
            number,
            handle: 0,
            context: 0,
        };
        let missing = |what: String| CommError::Missing {
            what,
            help: HELP.to_string(),
        };
        let failed = |error: CommError| missing(error.to_string());
        let mut count = 0;
        let functions = &device.functions;
        // SAFETY: no arguments that could be wrong.
        let code = unsafe { (functions.init)(0) };
        device.done(code, "cuInit").map_err(failed)?;
        // SAFETY: `count` is there to be written.
        let code = unsafe { (functions.device_count)(&mut count) };
        device.done(code, "cuDeviceGetCount").map_err(failed)?;
        if number >= count as usize {
            return Err(missing(format!(
                "CUDA device {number} was asked for, but there are {count}"
            )));
        }
        let (mut handle, mut context) = (0, 0);
        // SAFETY: `handle` is there to be written, and the number is one of a device.
        let code = unsafe { (functions.device_get)(&mut handle, number as c_int) };
        device.done(code, "cuDeviceGet").map_err(failed)?;
        // SAFETY: `context` is there to be written; it is released when the device is dropped.
        let code = unsafe { (functions.context_retain)(&mut context, handle) };
        device
            .done(code, "cuDevicePrimaryCtxRetain")
            .map_err(failed)?;
        device.handle = handle;
        device.context = context;
        Ok(Arc::new(device))
    }

    /// The device's number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    fn done(&self, code: c_int, what: &str) -> Result<(), CommError> {
        if code == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: `text` is there to be written.
        let known = unsafe { (self.functions.error_string)(code, &mut text) } == 0;
        let text = if known && !text.is_null() {
            // SAFETY: the driver's texts are static and end with a zero.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        } else {
            "unknown".to_string()
        };
        Err(CommError::Native {
            operation: what.to_string(),
            place: format!("device {}", self.number),
            what: format!("the CUDA driver reports error {code}: {text}"),
        })
    }

    /// Makes the device that of the calling thread, as all calls on it need. It stays so: whoever
    /// uses several devices on one thread says before each call which one is meant.
    pub(super) fn select(&self) -> Result<(), CommError> {
        // SAFETY: the context is retained until the device is dropped.
        let code = unsafe { (self.functions.context_set)(self.context) };
        self.done(code, "cuCtxSetCurrent")
    }

    /// Copies a host buffer to new memory.
    ///
    /// # Errors
    /// [`CommError::Native`], above all if memory runs out.
    pub fn upload(self: &Arc<Self>, buffer: &HostBuffer) -> Result<DeviceBuffer, CommError> {
        let to = Memory::allocate(self, buffer.len(), buffer.dtype())?;
        if !buffer.is_empty() {
            // SAFETY: both regions have that many bytes, and the copy has ended when it returns.
            let code =
                unsafe { (self.functions.upload)(to.ptr, start(buffer).cast(), buffer.bytes()) };
            self.done(code, "cuMemcpyHtoD")?;
        }
        Ok(to)
    }

    /// Copies a buffer to the host, once its stream has come to this point.
    ///
    /// # Errors
    /// [`CommError::Native`], also if the stream takes more than a minute.
    pub fn download(self: &Arc<Self>, buffer: &DeviceBuffer) -> Result<HostBuffer, CommError> {
        self.select()?;
        let mut host = zeros(buffer.dtype, buffer.len);
        if buffer.len == 0 {
            return Ok(host);
        }
        if buffer.stream != 0 {
            let event = Event::record(self, buffer.stream as Handle)?;
            let start = Instant::now();
            while !event.passed()? {
                if start.elapsed() > STREAM_DEADLINE {
                    return Err(CommError::Native {
                        operation: "a download".to_string(),
                        place: format!("device {}", self.number),
                        what: format!("the stream is still busy after {STREAM_DEADLINE:?}"),
                    });
                }
                std::thread::yield_now();
            }
        }
        let bytes = host.bytes();
        // SAFETY: both regions have that many bytes, and the copy has ended when it returns.
        let code =
            unsafe { (self.functions.download)(start_mut(&mut host).cast(), buffer.ptr, bytes) };
        self.done(code, "cuMemcpyDtoH")?;
        Ok(host)
    }
}

impl Memory for Arc<Device> {
    /// By `cuMemAlloc`, which is slow: an allocator that keeps freed memory should take its place
    /// where buffers are made often.
    fn allocate(&self, len: usize, dtype: Dtype) -> Result<DeviceBuffer, CommError> {
        self.select()?;
        let mut address = 0;
        if len > 0 {
            // SAFETY: `address` is there to be written; the memory is freed by `Allocation`.
            let code = unsafe { (self.functions.allocate)(&mut address, len * dtype.size()) };
            self.done(code, "cuMemAlloc")?;
        }
        let device = self.clone();
        Ok(DeviceBuffer {
            ptr: address,
            len,
            dtype,
            device: self.number,
            stream: 0,
            keep: Arc::new(Allocation { device, address }),
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context != 0 {
            // SAFETY: it was retained once by this value. An error at this point helps nobody.
            let _ = unsafe { (self.functions.context_release)(self.handle) };
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.address != 0 && self.device.select().is_ok() {
            // SAFETY: it was allocated by this value's maker; the driver waits for work that uses it.
            let _ = unsafe { (self.device.functions.free)(self.address) };
        }
    }
}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CommError> {
        device.select()?;
        let mut handle = 0;
        // SAFETY: `handle` is there to be written.
        let code = unsafe { (device.functions.stream_create)(&mut handle, NON_BLOCKING) };
        device.done(code, "cuStreamCreate")?;
        let device = device.clone();
        Ok(Self { device, handle })
    }

    /// Lets what is enqueued from now on begin only once the event has passed.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), CommError> {
        // SAFETY: both handles are alive.
        let code = unsafe { (self.device.functions.stream_wait)(self.handle, event.handle, 0) };
        self.device.done(code, "cuStreamWaitEvent")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.select().is_ok() {
            // SAFETY: made by `Stream::new`; the driver keeps it until its work is done.
            let _ = unsafe { (self.device.functions.stream_destroy)(self.handle) };
        }
    }
}

impl Event {
    /// Marks where a stream is now.
    pub(super) fn record(device: &Arc<Device>, stream: Handle) -> Result<Self, CommError> {
        device.select()?;
        let mut handle = 0;
        // SAFETY: `handle` is there to be written.
        let code = unsafe { (device.functions.event_create)(&mut handle, DISABLE_TIMING) };
        device.done(code, "cuEventCreate")?;
        let event = Self {
            device: device.clone(),
            handle,
        };
        // SAFETY: the event is new, and the stream is alive, as whoever passes a buffer with it
        // promises.
        let code = unsafe { (device.functions.event_record)(handle, stream) };
        device.done(code, "cuEventRecord")?;
        Ok(event)
    }

    /// Whether the stream has come past it.
    pub(super) fn passed(&self) -> Result<bool, CommError> {
        // SAFETY: the handle is alive.
        match unsafe { (self.device.functions.event_query)(self.handle) } {
            NOT_READY => Ok(false),
            code => self.device.done(code, "cuEventQuery").map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.select().is_ok() {
            // SAFETY: made by `Event::record`.
            let _ = unsafe { (self.device.functions.event_destroy)(self.handle) };
        }
    }
}

macro_rules! each_dtype {
    ($($dtype:ident $type:ty),*) => {
        fn start(buffer: &HostBuffer) -> *const u8 {
            match buffer { $(HostBuffer::$dtype(values) => values.as_ptr().cast()),* }
        }

        fn start_mut(buffer: &mut HostBuffer) -> *mut u8 {
            match buffer { $(HostBuffer::$dtype(values) => values.as_mut_ptr().cast()),* }
        }

        fn zeros(dtype: Dtype, len: usize) -> HostBuffer {
            match dtype { $(Dtype::$dtype => vec![<$type>::default(); len].into()),* }
        }
    };
}

each_dtype!(F64 f64, F32 f32, F16 f16, BF16 bf16, I64 i64, I32 i32, U8 u8);
