//! Ranks as processes, connected by TCP: nothing is needed but the address of rank 0.
//!
//! Rank 0 listens; every other rank calls it, says who it is, and hears where the others are; then
//! each two connect. A world's token keeps strangers out; it is no encryption, so use networks that
//! you trust.
//!
//! ```no_run
//! use kinora_comm::process::{self, Settings};
//! use kinora_comm::{CommError, Reduce, tcp};
//! # let (rank, size) = (0, 2);
//! let process = tcp::join("10.0.0.1:29500", rank, size, std::time::Duration::from_secs(60))?;
//! let sum = process::run(&process, &Settings::new(1), |world| {
//!     world.all_reduce(vec![1.0_f32].into(), Reduce::Sum, "how many")
//! });
//! # Ok::<(), CommError>(())
//! ```

mod gate;
mod rendezvous;
mod wire;

pub use rendezvous::{Rendezvous, join};
