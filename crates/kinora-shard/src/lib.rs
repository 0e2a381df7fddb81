//! Burn meets the mesh: one differentiable collective, the builder that creates parameters already
//! cut, and the reduction of gradients.
//!
//! Separate so that layers can be written against Burn, and transports against bytes, and only this
//! crate knows both. It deliberately has no layers, no optimizer and no model.
//!
//! # Kinds of value
//! On each mesh axis a value is **R**eplicated and used differently on each rank, **I**nvariant (the
//! same computation everywhere), **V**arying (a cut) or a **P**artial sum. Gradients have the dual
//! kinds: R and P swap, I and V stay. Every collective maps kinds, and its adjoint is a collective
//! too ([`Collective::adjoint`]), so one `Backward` serves them all.
//!
//! # Failures
//! A collective inside a differentiable graph cannot return a `Result`; it panics with the
//! [`kinora_comm::CommError`] as its payload, which the launcher of the rank turns back into that
//! error. Everything outside a graph returns it.

mod adapters;
mod collective;
#[cfg(feature = "cuda")]
mod cuda;
mod cx;
mod device;
mod exchange;
mod gradients;
mod group;
mod load;
mod params;
mod precision;
mod recompute;
mod sharding;
mod stack;
mod unit;
mod weight;

pub use adapters::Adapters;
pub use collective::Collective;
pub use cx::{Cx, Edge, Init};
pub use device::{DeviceError, DeviceKind, Devices, on_device};
pub use exchange::Flight;
pub use gradients::Gradients;
pub use group::Group;
pub use load::{Source, load};
pub use params::{ParamSpec, ParamTable, Storage};
pub use precision::Precision;
pub use recompute::Recompute;
pub use sharding::{Context, ShardError, Sharding};
pub use stack::Stack;
pub use weight::Weight;
