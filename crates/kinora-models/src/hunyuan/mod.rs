//! The HunyuanVideo transformer (Kong et al. 2024, arXiv 2412.03603): blocks in which video and text
//! have weights of their own and attend together, then blocks in which they share them; modulated by
//! time, by a text encoder's summary of the prompt, and by the guidance that the model was distilled
//! with.
//!
//! Ported from the released code, `hyvideo/modules/models.py` and `token_refiner.py`, and checked
//! against it and against `transformer_hunyuan_video.py` of diffusers. Text embeddings are given.
//!
//! Times and velocities are HunyuanVideo's own: time runs from 1,000 (noise) to 0 (data), and the
//! velocity is noise minus data.

mod condition;
mod config;
mod double;
mod head;
pub mod keys;
mod model;
mod modulation;
mod refiner;
mod single;

pub use config::{ConfigError, HunyuanConfig};
pub use model::{HunyuanVideo, Prompt};
