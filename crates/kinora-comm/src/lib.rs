//! Bytes and ranks: how the ranks of a run exchange buffers.
//!
//! [`Transport`] is the interface; [`local`] is the transport of ranks that are threads of one
//! process, each with its own thread pool, and the embedded default. [`tcp`] and, with the feature
//! `mpi`, `mpi` connect ranks that are processes, which [`process`] runs; they share one core and
//! give the same bits as threads. [`conformance`] is the suite that every transport runs.
//!
//! The feature `nccl` adds device buffers over NVIDIA's NCCL beside any other transport.
//!
//! Separate because it knows neither tensors nor meshes: a transport can be written, tested and
//! debugged on bytes. It deliberately does no differentiation, and does not decide what is cut how.
//!
//! [`Traced`] and [`Faulty`] wrap any transport, to count what is sent and to see what failures do.
//!
//! # Rules that prevent hangs
//! - Every rank of a communicator makes the same calls in the same order. Each call has the
//!   communicator's sequence number and a signature; they are compared when the ranks meet, and a
//!   difference is [`CommError::Mismatch`] on every rank.
//! - Every wait has a deadline, counted from the missing rank's last sign of life: a call or a
//!   [`Transport::heartbeat`]. Passing it is [`CommError::Late`].
//! - A rank that waits for a peer is alive itself; if ranks wait for one another in a circle, each in
//!   another communicator, that is [`CommError::Deadlock`] once the deadline has passed.
//! - A rank that ends, fails or panics while others wait for it is [`CommError::PeerLost`] for them,
//!   at once.
//! - The first failure of a world ends all its communicators.
//! - Each of these names the collective, the communicator and the rank, and where the rank last said
//!   that it was in its work: [`Transport::at`].
//!
//! Between processes, each tells its peers a few times within the deadline when its rank gave its
//! last sign of life; a process that is frozen tells nothing, and is late. So a silence is noticed up
//! to a quarter of the deadline later than between threads. A connection that closes without a
//! goodbye is [`CommError::PeerLost`] at once, and whoever hears of a failure passes it on before it
//! ends itself, so that all report the same one.

mod buffer;
mod call;
pub mod conformance;
mod error;
mod faulty;
mod link;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod process;
mod reduce;
pub mod tcp;
mod traced;
mod transport;
mod whereabouts;

pub use buffer::{Buffer, DeviceBuffer, Dtype, Element, HostBuffer};
pub use call::{Call, Collective, Reduce};
pub use error::CommError;
pub use faulty::{Fault, Faulty};
pub use traced::{Traced, Traffic};
pub use transport::{Pending, Transport};
pub use whereabouts::Whereabouts;
