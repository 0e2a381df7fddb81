//! Sampling: prompts to latents, of the trained length or longer, and latents to frames.
//!
//! Separate from training, though it drives the same sharded model. It knows no files: what it makes
//! goes to the caller, a segment at a time, so that memory does not grow with length.

mod asked;
mod config;
mod pixels;
mod sampler;
mod window;

pub use asked::Asked;
pub use config::{SampleConfig, SampleError};
pub use pixels::clips;
pub use sampler::{Sampler, noise};
pub use window::Windows;
