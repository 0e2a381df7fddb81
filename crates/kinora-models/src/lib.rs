//! The papers, as code: a folder per model. Model code knows widths and depths; ranks, groups and
//! meshes it does not know.
//!
//! Separate so that a reader who knows diffusion needs to know nothing else. Models repeat each other
//! rather than bend: they share the layers of `kinora-nn`, never a block.

pub mod autoencoder;
pub mod bytes;
mod condition;
pub mod hunyuan;
pub mod movie_gen;
pub mod text;
mod text_to_video;
mod video;
pub mod vision;
pub mod wan;

pub use condition::{Condition, Known, PromptEncoder};
pub use text_to_video::{Denoiser, TextToVideo};
pub use video::{Video, VideoConfig, VideoError};
