//! A sharded run beside a whole one: the same weights, noise and samples, and every number compared.
//!
//! Separate because a user's plan and the project's registry of plans are judged by the same code. It
//! deliberately starts no ranks: what calls it has them already, as threads or as processes.

mod case;
mod compare;
mod record;
mod shrink;

pub use case::{Case, train_config};
pub use compare::{Difference, Tolerance, compare};
pub use record::{Pass, Record, record};
pub use shrink::{Shrunk, shrink_mesh, shrink_model};
