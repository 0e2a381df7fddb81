//! NCCL's C interface: the table of its functions, and a communicator that never blocks.

use super::device::Handle;
use super::plan::{Op, Plan};
use super::symbols::{self, table};
use crate::{CommError, Dtype, Reduce};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

// NVIDIA ships only the first; the second comes with packages for developers.
const NAMES: &[&str] = &["libnccl.so.2", "libnccl.so"];
const HELP: &str = "pip install nvidia-nccl-cu13 and name its folder (.../site-packages/nvidia/nccl/lib), or install the package libnccl2";
const OLDEST: c_int = 21_800;
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// What identifies a communicator while its ranks meet.
pub(super) const ID_BYTES: usize = 128;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; ID_BYTES]);

/// NCCL's configuration as of version 2.18; newer libraries accept it by its version.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cluster_size: c_int,
    min_blocks: c_int,
    max_blocks: c_int,
    net_name: *const c_char,
    split_share: c_int,
    // Where newer versions have a setting, so that it is left unset whatever they make of the size.
    unset: c_int,
}

const UNSET: c_int = c_int::MIN;

table!(Functions {
    version = "ncclGetVersion": (*mut c_int) -> c_int;
    unique_id = "ncclGetUniqueId": (*mut UniqueId) -> c_int;
    init = "ncclCommInitRankConfig": (*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int;
    finalize = "ncclCommFinalize": (Handle) -> c_int;
    destroy = "ncclCommDestroy": (Handle) -> c_int;
    abort = "ncclCommAbort": (Handle) -> c_int;
    async_error = "ncclCommGetAsyncError": (Handle, *mut c_int) -> c_int;
    error_string = "ncclGetErrorString": (c_int) -> *const c_char;
    last_error = "ncclGetLastError": (Handle) -> *const c_char;
    group_start = "ncclGroupStart": () -> c_int;
    group_end = "ncclGroupEnd": () -> c_int;
    all_reduce = "ncclAllReduce": (u64, u64, usize, c_int, c_int, Handle, Handle) -> c_int;
    all_gather = "ncclAllGather": (u64, u64, usize, c_int, Handle, Handle) -> c_int;
    reduce_scatter = "ncclReduceScatter": (u64, u64, usize, c_int, c_int, Handle, Handle) -> c_int;
    reduce = "ncclReduce": (u64, u64, usize, c_int, c_int, c_int, Handle, Handle) -> c_int;
    broadcast = "ncclBroadcast": (u64, u64, usize, c_int, c_int, Handle, Handle) -> c_int;
    send = "ncclSend": (u64, usize, c_int, c_int, Handle, Handle) -> c_int;
    receive = "ncclRecv": (u64, usize, c_int, c_int, Handle, Handle) -> c_int;
});

/// The NCCL library.
pub struct Library {
    functions: Functions,
    version: c_int,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NCCL {}", self.version())
    }
}

/// What NCCL says of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It takes the next call.
    Ready,
    /// It is still busy with the last call on the host's side.
    Busy,
}

/// A communicator of NCCL, made so that no call of it waits for a peer. It is neither destroyed nor
/// aborted on its own: what is right depends on what becomes of the world.
pub(super) struct Native {
    library: Arc<Library>,
    handle: Handle,
}

impl Library {
    /// Opens NCCL at `path`, a file or a folder; or where the system's loader finds it, by the name
    /// `libnccl.so.2`.
    ///
    /// # Errors
    /// [`CommError::Missing`] if it is not there, or older than 2.18.
    pub fn open(path: Option<&Path>) -> Result<Arc<Self>, CommError> {
        let library = symbols::open("NCCL (libnccl.so.2)", NAMES, path, HELP)?;
        let mut library = Self {
            functions: Functions::fill(library)?,
            version: 0,
        };
        // SAFETY: the version is there to be written.
        let code = unsafe { (library.functions.version)(&mut library.version) };
        if code != SUCCESS || library.version < OLDEST {
            return Err(CommError::Missing {
                what: format!(
                    "NCCL 2.18 or later is needed, but this is {}",
                    library.version()
                ),
                help: HELP.to_string(),
            });
        }
        Ok(Arc::new(library))
    }

    /// Its version, such as `2.30.4`.
    pub fn version(&self) -> String {
        let version = self.version;
        format!(
            "{}.{}.{}",
            version / 10_000,
            version / 100 % 100,
            version % 100
        )
    }

    /// A new identity for a communicator. The rank that makes it listens for the others from now on.
    pub(super) fn unique_id(&self) -> Result<Vec<u8>, String> {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: the identity is there to be written.
        let code = unsafe { (self.functions.unique_id)(&mut id) };
        self.done(code, "ncclGetUniqueId", None)?;
        Ok(id.0.iter().map(|&byte| byte as u8).collect())
    }

    fn done(&self, code: c_int, what: &str, handle: Option<Handle>) -> Result<(), String> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        let text = |text: *const c_char| {
            if text.is_null() {
                return String::new();
            }
            // SAFETY: NCCL's texts live as long as the library, and end with a zero.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        // SAFETY: any code has a text.
        let error = text(unsafe { (self.functions.error_string)(code) });
        // SAFETY: the handle is alive, or zero, which NCCL takes for none.
        let last = text(unsafe { (self.functions.last_error)(handle.unwrap_or(0)) });
        let more = if last.is_empty() {
            last
        } else {
            format!(" ({last})")
        };
        Err(format!(
            "NCCL reports error {code} at {what}: {error}{more}"
        ))
    }
}

impl Native {
    /// Begins to join a communicator as `rank` of `size`; [`Native::progress`] tells when all have.
    /// The calling thread's device is that of the rank.
    pub(super) fn join(
        library: &Arc<Library>,
        id: &[u8],
        rank: usize,
        size: usize,
    ) -> Result<Self, String> {
        let mut unique = UniqueId([0; ID_BYTES]);
        if id.len() != ID_BYTES {
            return Err(format!("an identity of {} bytes, not {ID_BYTES}", id.len()));
        }
        unique
            .0
            .iter_mut()
            .zip(id)
            .for_each(|(to, &from)| *to = from as c_char);
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: 0,
            cluster_size: UNSET,
            min_blocks: UNSET,
            max_blocks: UNSET,
            net_name: std::ptr::null(),
            split_share: UNSET,
            unset: UNSET,
        };
        let mut handle = 0;
        // SAFETY: the handle is there to be written, and the configuration has the layout that its
        // size and version say.
        let code = unsafe {
            (library.functions.init)(
                &mut handle,
                size as c_int,
                unique,
                rank as c_int,
                &mut config,
            )
        };
        library.done(code, "ncclCommInitRankConfig", None)?;
        let library = library.clone();
        Ok(Self { library, handle })
    }

    /// Whether the next call may be made, or what has gone wrong since the last.
    pub(super) fn progress(&self) -> Result<Progress, String> {
        let mut state = SUCCESS;
        // SAFETY: the handle is alive, and the state is there to be written.
        let code = unsafe { (self.library.functions.async_error)(self.handle, &mut state) };
        let known = Some(self.handle);
        self.library.done(code, "ncclCommGetAsyncError", known)?;
        self.library.done(state, "a call under way", known)?;
        let busy = state == IN_PROGRESS;
        Ok(if busy {
            Progress::Busy
        } else {
            Progress::Ready
        })
    }

    /// Enqueues a plan on a stream, as one group, from and to these addresses.
    pub(super) fn launch(
        &self,
        plan: &Plan,
        dtype: Dtype,
        input: u64,
        output: u64,
        stream: Handle,
    ) -> Result<(), String> {
        let functions = &self.library.functions;
        let done = |code, what| self.library.done(code, what, Some(self.handle));
        // SAFETY: no arguments.
        done(unsafe { (functions.group_start)() }, "ncclGroupStart")?;
        let mut result = Ok(());
        for op in &plan.ops {
            result = self.enqueue(op, plan.reduce, dtype, input, output, stream);
            if result.is_err() {
                break;
            }
        }
        // Also after an error, as the group would stay open for the thread's next calls otherwise.
        // SAFETY: this thread has opened the group.
        let ended = done(unsafe { (functions.group_end)() }, "ncclGroupEnd");
        result.and(ended)
    }

    fn enqueue(
        &self,
        op: &Op,
        reduce: Reduce,
        dtype: Dtype,
        input: u64,
        output: u64,
        stream: Handle,
    ) -> Result<(), String> {
        let (functions, comm) = (&self.library.functions, self.handle);
        let (kind, how) = (number(dtype), operator(reduce));
        let place = |base: u64, at: usize| base + (at * dtype.size()) as u64;
        // SAFETY: in each of these calls the handles are alive, and the regions lie within the
        // buffers, as the plan was made for their lengths. The buffers stay until the stream has
        // come past the call, which the communicator sees to.
        let (code, what) = unsafe {
            match *op {
                Op::AllReduce { len } => (
                    (functions.all_reduce)(input, output, len, kind, how, comm, stream),
                    "ncclAllReduce",
                ),
                Op::AllGather { len } => (
                    (functions.all_gather)(input, output, len, kind, comm, stream),
                    "ncclAllGather",
                ),
                Op::ReduceScatter { len } => (
                    (functions.reduce_scatter)(input, output, len, kind, how, comm, stream),
                    "ncclReduceScatter",
                ),
                Op::Reduce { root, at, len } => {
                    let (from, root) = (place(input, at), root as c_int);
                    (
                        (functions.reduce)(from, output, len, kind, how, root, comm, stream),
                        "ncclReduce",
                    )
                }
                Op::Broadcast { root, at, len } => {
                    let (to, root) = (place(output, at), root as c_int);
                    (
                        (functions.broadcast)(input, to, len, kind, root, comm, stream),
                        "ncclBroadcast",
                    )
                }
                Op::Send { to, at, len } => {
                    let from = place(input, at);
                    let peer = to as c_int;
                    (
                        (functions.send)(from, len, kind, peer, comm, stream),
                        "ncclSend",
                    )
                }
                Op::Receive { from, at, len } => {
                    let (to, peer) = (place(output, at), from as c_int);
                    (
                        (functions.receive)(to, len, kind, peer, comm, stream),
                        "ncclRecv",
                    )
                }
            }
        };
        self.library.done(code, what, Some(comm))
    }

    /// Begins to end the communicator in good order; [`Native::progress`] tells when it has.
    pub(super) fn finalize(&self) -> Result<(), String> {
        // SAFETY: the handle is alive.
        let code = unsafe { (self.library.functions.finalize)(self.handle) };
        self.library
            .done(code, "ncclCommFinalize", Some(self.handle))
    }

    /// Frees a communicator that has been finalized.
    pub(super) fn destroy(self) {
        // SAFETY: the handle is alive, and gone with `self`. An error would leave nothing to do.
        let _ = unsafe { (self.library.functions.destroy)(self.handle) };
    }

    /// Ends all calls under way, whatever the peers do.
    pub(super) fn abort(self) {
        // SAFETY: the handle is alive, and gone with `self`. An error would leave nothing to do.
        let _ = unsafe { (self.library.functions.abort)(self.handle) };
    }
}

fn number(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::U8 => 1,
        Dtype::I32 => 2,
        Dtype::I64 => 4,
        Dtype::F16 => 6,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::BF16 => 9,
    }
}

fn operator(reduce: Reduce) -> c_int {
    match reduce {
        Reduce::Sum => 0,
        Reduce::Max => 2,
        Reduce::Min => 3,
    }
}
