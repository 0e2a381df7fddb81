//! Autoencoders: videos to latents and back, behind one interface.

mod pca;
pub mod temporal;
pub mod wan;

pub use pca::{Pca, PcaConfig, PcaFit};

use burn::tensor::{Device, Tensor};
use thiserror::Error;

/// A video that an autoencoder cannot take.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// Sides that the compression does not divide.
    #[error(
        "a video of {frames} frames of {height}x{width} does not divide into latents of {patch:?} (frames, height, width)\n  help: make each side a multiple, or use single frames"
    )]
    Indivisible {
        /// Frames.
        frames: usize,
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Pixels of a latent element.
        patch: [usize; 3],
    },
    /// A number of frames that causal compression does not leave whole.
    #[error(
        "a video of {frames} frames is not one frame and a multiple of {step}\n  help: take {} frames", frames.saturating_sub(1) / step * step + 1
    )]
    Frames {
        /// Frames.
        frames: usize,
        /// Frames of a latent frame but the first.
        step: usize,
    },
    /// More stripes than there are rows to cut.
    #[error(
        "a latent of {rows} rows cannot be cut into {stripes} stripes\n  help: make the video higher, or cut it for fewer devices"
    )]
    Stripes {
        /// Rows of the latent.
        rows: usize,
        /// Stripes.
        stripes: usize,
    },
    /// Stored numbers that do not fit the settings.
    #[error(
        "the stored autoencoder has {found} numbers in {name}, but its settings need {wanted}\n  help: it was fitted with other settings; remove it to fit it again"
    )]
    Stored {
        /// The tensor.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length that the settings ask for.
        wanted: usize,
    },
}

/// Videos `[B, 3, T, H, W]` in -1..=1 to latents `[B, C, t, h, w]` of about unit variance, and back.
/// An image is a video of one frame, and one latent frame.
pub trait Autoencoder: Send + Sync {
    /// The shape `[C, t, h, w]` of the latent of a video of `[frames, height, width]`.
    ///
    /// # Errors
    /// If the sides do not divide.
    fn latent_shape(&self, video: [usize; 3]) -> Result<[usize; 4], ShapeError>;

    /// The pixels of one latent element along frames, height and width.
    fn scale(&self) -> [usize; 3];

    /// Where videos and latents must lie for it.
    fn device(&self) -> Device;

    /// Videos to latents.
    fn encode(&self, video: Tensor<5>) -> Tensor<5>;

    /// Latents to videos of whole latent frames, clamped to -1..=1. Of an image's latent, any frame
    /// is the image.
    fn decode(&self, latent: Tensor<5>) -> Tensor<5>;

    /// The frames of a video of so many latent frames.
    fn frames(&self, latent: usize) -> usize {
        latent * self.scale()[0]
    }

    /// Begins to decode a video whose latents come a few frames at a time.
    fn decoder(&self) -> Box<dyn Decode + '_>;
}

/// A video being decoded.
pub trait Decode {
    /// The next latents `[B, C, t, h, w]` to the next frames `[B, 3, T, H, W]`, clamped to -1..=1.
    fn push(&mut self, latent: Tensor<5>) -> Tensor<5>;
}

/// Each push decoded by itself, as if the video began and ended there.
struct Alone<'a>(&'a dyn Autoencoder);

impl Decode for Alone<'_> {
    fn push(&mut self, latent: Tensor<5>) -> Tensor<5> {
        self.0.decode(latent)
    }
}
