//! CLIP's image encoder (Radford et al. 2021, arXiv 2103.00020; a vision transformer, Dosovitskiy et
//! al. 2020): what Wan's image-to-video models read of their first frame (wan/modules/clip.py).

mod config;
pub mod keys;
mod model;
mod preprocess;

pub use config::ClipVisionConfig;
pub use model::{ClipVision, ClipVisionOutput};
pub use preprocess::{MEAN, STD, preprocess, resize_bicubic};
