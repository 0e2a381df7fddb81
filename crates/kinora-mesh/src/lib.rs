//! Axes, meshes, plans and layouts: the arithmetic of who holds what; and the keyed random numbers
//! that make results independent of it.
//!
//! Separate because it knows no tensors and no transport: it builds in a second, and the planner,
//! the data order and the model all rest on it. It deliberately does no communication.

mod axis;
mod context;
pub mod cost;
mod layout;
mod mesh;
mod plan;
pub mod rng;

pub use axis::{Axis, Extent, MeshAxis};
pub use context::ContextAttention;
pub use layout::{Layout, nested, part, parts};
pub use mesh::Mesh;
pub use plan::{Plan, PlanError};
