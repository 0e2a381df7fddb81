//! CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020), OpenAI's and OpenCLIP's: a transformer
//! that sees only what came before, and whose last token stands for the text.

mod config;
pub mod keys;
mod model;

pub use config::{ClipEnd, ClipTextConfig};
pub use model::{ClipText, ClipTextOutput};
