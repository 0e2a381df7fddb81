//! Ranks as threads of one process, each with its own thread pool: the embedded default.

mod meeting;
mod member;
mod watch;
mod world;

pub(crate) use world::unwound;
pub use world::{OnStuck, RankFailure, What, World, run};
