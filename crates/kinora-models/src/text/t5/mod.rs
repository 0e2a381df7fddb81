//! The encoders of T5 and its family (Raffel et al. 2020, arXiv 1910.10683): T5 1.1, UL2, umT5 (Chung
//! et al. 2023) and ByT5 (Xue et al. 2022). They differ in sizes, in the feed-forward network, and in
//! whether each layer has relative positions of its own.

mod config;
pub mod keys;
mod model;

pub use config::T5Config;
pub use model::T5;
