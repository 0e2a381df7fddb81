//! Device buffers over NVIDIA's NCCL, beside any transport for host buffers.
//!
//! A device collective goes from device memory to device memory. The control transport (threads, TCP
//! or MPI) carries everything else: host buffers, barriers, splits, signs of life, failures, and
//! beside every device collective a few numbers by which the ranks agree that they mean the same one.
//! That call is started with the collective and costs no waiting; a disagreement is
//! [`CommError::Mismatch`], where NCCL alone would hang or mix up the data.
//!
//! Nothing blocks inside NCCL: its communicators are made non-blocking, waits poll, and whatever
//! fails (a peer, NCCL itself, a deadline) ends in `ncclCommAbort`.
//!
//! NCCL and the CUDA driver are opened at run time, by the names that NVIDIA ships, so that neither
//! is needed to build. `tests/standin` holds a stand-in for both, for machines without a GPU.
//!
//! # Where it differs from the other transports
//! Of device buffers only; host buffers are the control transport's.
//! - Sums add in the order that NCCL chooses, the same on all ranks, and half precision may be
//!   rounded at each step.
//! - The largest and the smallest need not be NaN if one is.
//! - Sums are in the buffer's dtype; another [`Call::accumulate`](crate::Call::accumulate) is
//!   [`CommError::Unsupported`].
//! - A broadcast begins on the ranks other than its root once they know its length, at their next
//!   call, wait, look or heartbeat after all have started it.
//! - Calls of communicators that share devices should be started in the same order on all ranks, as
//!   a device may not have room for both at once.

mod agreement;
mod communicator;
#[expect(unsafe_code, reason = "calls into the CUDA driver")]
mod device;
#[expect(unsafe_code, reason = "calls into NCCL")]
mod library;
mod member;
mod memory;
mod plan;
#[expect(unsafe_code, reason = "functions of libraries opened at run time")]
mod symbols;

pub use device::Device;
pub use library::Library;
pub use memory::Memory;

use crate::{CommError, Transport};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a rank brings to its communicators.
#[derive(Clone, Debug)]
pub struct Setup {
    /// NCCL.
    pub library: Arc<Library>,
    /// This rank's device; NCCL wants no two ranks on one.
    pub device: Arc<Device>,
    /// Where results are put.
    pub memory: Arc<dyn Memory>,
    /// How long NCCL may take for a call once all ranks have made it.
    pub deadline: Duration,
}

/// Joins the ranks of `control`, each with its device `device`, with NCCL opened at `library` (a file
/// or a folder; by default where the system's loader finds it). Every rank calls it. `control` is the
/// transport's from then on.
///
/// Of a device buffer that is passed, `stream` names the stream whose work is waited for (0: it is
/// done already); of one that is returned it is 0, as [`Pending::wait`](crate::Pending::wait) returns
/// once the data are there. Results lie in memory of the driver's.
///
/// # Errors
/// [`CommError::Missing`] without the driver, the device or NCCL; else those of a collective.
pub fn join(
    control: Arc<dyn Transport>,
    device: usize,
    library: Option<&Path>,
    deadline: Duration,
) -> Result<Arc<dyn Transport>, CommError> {
    let library = Library::open(library)?;
    let device = Device::open(None, device)?;
    let memory = Arc::new(device.clone());
    let setup = Setup {
        library,
        device,
        memory,
        deadline,
    };
    join_with(control, setup)
}

/// [`join`] with everything opened already, and an allocator of the caller's choice.
///
/// # Errors
/// Those of a collective.
pub fn join_with(
    control: Arc<dyn Transport>,
    setup: Setup,
) -> Result<Arc<dyn Transport>, CommError> {
    let whole = |name: &str| {
        let part = control.split(Some(0), name)?;
        part.ok_or_else(|| CommError::BadCall {
            operation: format!("split {name}"),
            what: "a rank with a color got no communicator".to_string(),
        })
    };
    // Two communicators, so that the calls that set up NCCL are not counted among the caller's.
    let calls = whole(control.name())?;
    let aside = whole("nccl")?;
    let member = member::Member::form(setup, Arc::default(), calls, aside.clone())?;
    aside.barrier(member::FORMED)?;
    Ok(Arc::new(member))
}
