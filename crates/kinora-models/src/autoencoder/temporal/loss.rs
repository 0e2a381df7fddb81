//! What the autoencoder is trained on: reconstruction, the divergence of the latents from a standard
//! Gaussian, and Movie Gen's penalty of outliers (arXiv 2410.13720, section 3.1.2).
//!
//! There is no perceptual loss and no discriminator: both need weights that were trained elsewhere, or a
//! second model in training.

use super::TemporalVae;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

// Added to squares below a root, whose slope at zero is infinite.
const FLOOR: f64 = 1e-12;

/// How pixels are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// The mean absolute difference.
    #[default]
    L1,
    /// The mean squared difference.
    L2,
}

/// The parts of the loss and their weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// How pixels are compared; of weight 1.
    pub distance: Distance,
    /// The weight of the divergence, a mean over latent elements.
    pub divergence: f64,
    /// The weight of the outlier penalty; 0, as it is off, or about 1e5 as in the paper.
    pub outliers: f64,
    /// How many standard deviations from the mean an element becomes an outlier.
    pub radius: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            distance: Distance::L1,
            divergence: 1e-4,
            outliers: 0.0,
            radius: 3.0,
        }
    }
}

/// The loss and its parts, each a mean over the samples, not yet weighted.
#[derive(Clone, Debug)]
pub struct Losses {
    /// All parts by their weights.
    pub total: Tensor<1>,
    /// The distance of pixels.
    pub reconstruction: Tensor<1>,
    /// The divergence, in nats an element.
    pub divergence: Tensor<1>,
    /// The outlier penalty, if it is on.
    pub outliers: Option<Tensor<1>>,
}

impl TemporalVae {
    /// The loss of videos `[B, 3, T, H, W]` whose latents are drawn with the noise `eps`,
    /// `[B, C, t, h, w]`. Frames beyond the video's are discarded.
    ///
    /// # Panics
    /// If shapes do not fit.
    pub fn losses(&self, video: Tensor<5>, eps: Tensor<5>, config: &LossConfig) -> Losses {
        let frames = video.dims()[2];
        let moments = self.moments_at_once(video.clone());
        let channels = self.config().channels;
        let mean = moments.clone().narrow(1, 0, channels);
        let log = moments.narrow(1, channels, channels).clamp(-30.0, 20.0);
        let divergence =
            (mean.clone().square() + log.clone().exp() - log.clone() - 1.0).mean() * 0.5;
        let latent = mean + eps * (log * 0.5).exp();
        let outliers = (config.outliers != 0.0).then(|| outliers(latent.clone(), config.radius));
        let found = self.reconstruct_at_once(latent).narrow(2, 0, frames);
        let apart = found - video;
        let reconstruction = match config.distance {
            Distance::L1 => apart.abs().mean(),
            Distance::L2 => apart.square().mean(),
        };
        let mut total = reconstruction.clone() + divergence.clone() * config.divergence;
        if let Some(outliers) = &outliers {
            total = total + outliers.clone() * config.outliers;
        }
        Losses {
            total,
            reconstruction,
            divergence,
            outliers,
        }
    }
}

/// How far latent elements lie beyond `radius` standard deviations from the mean of their frame:
/// the mean of `max(|X - mean| - r |std|, 0)`, with norms over channels, of `[B, C, t, h, w]`.
fn outliers(latent: Tensor<5>, radius: f64) -> Tensor<1> {
    let [b, c, t, h, w] = latent.dims();
    let x = latent.reshape([b, c, t, h * w]);
    let apart = (x.clone() - x.mean_dim(3)).square();
    // The square of the norm of the standard deviations is the sum of the variances.
    let spread = (apart.clone().mean_dim(3).sum_dim(1) + FLOOR).sqrt();
    let far = (apart.sum_dim(1) + FLOOR).sqrt();
    (far - spread * radius).clamp_min(0.0).mean()
}
