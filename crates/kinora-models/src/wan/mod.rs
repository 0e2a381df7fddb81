//! The Wan video transformers (Wan team 2025, arXiv 2503.20314), versions 2.1 and 2.2: blocks of
//! self-attention with rotary positions, cross-attention to umT5's text, and a feed-forward network,
//! modulated by time.
//!
//! Ported from the released code, `wan/modules/model.py` of Wan2.1 and of Wan2.2, and checked against
//! it and against `transformer_wan.py` of diffusers.
//!
//! Times and velocities are Wan's own: time runs from 1,000 (noise) to 0 (data), and the velocity is
//! noise minus data.

mod block;
mod config;
mod experts;
mod head;
mod image;
pub mod keys;
mod model;
mod modulation;
mod text;
mod time;

pub use config::{ConfigError, ImageConfig, WanConfig};
pub use experts::Experts;
pub use model::Wan;
