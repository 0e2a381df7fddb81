//! The sizes of Wan's autoencoders.

use crate::autoencoder::ShapeError;
use serde::{Deserialize, Serialize};

/// What a Wan autoencoder is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanVaeConfig {
    /// Channels of the encoder's first stage, before they are multiplied.
    pub encoder_base: usize,
    /// Channels of the decoder's last stage, before they are multiplied.
    pub decoder_base: usize,
    /// Channels of a latent.
    pub channels: usize,
    /// Channels of each of the encoder's stages, as multiples of the base; the decoder's are these from
    /// the last to the first.
    pub multipliers: Vec<usize>,
    /// Residual blocks of a stage of the encoder; the decoder has one more.
    pub blocks: usize,
    /// Which of the encoder's stages, all but the last, halve the number of frames; all halve the sides.
    pub halves_frames: Vec<bool>,
    /// Whether stages have a shortcut around them that averages, or repeats, as Wan 2.2's have.
    pub shortcuts: bool,
    /// Squares of so many pixels become channels first.
    pub patch: usize,
    /// The mean of each channel of a latent.
    pub mean: Vec<f64>,
    /// The standard deviation of each channel of a latent.
    pub std: Vec<f64>,
}

impl WanVaeConfig {
    /// The autoencoder of Wan 2.1, and of Wan 2.2's models of 14 billion parameters.
    pub fn wan21() -> Self {
        Self {
            encoder_base: 96,
            decoder_base: 96,
            channels: 16,
            multipliers: vec![1, 2, 4, 4],
            blocks: 2,
            halves_frames: vec![false, true, true],
            shortcuts: false,
            patch: 1,
            mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134,
                -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526,
                2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
        }
    }

    /// The autoencoder of Wan 2.2's model of 5 billion parameters.
    pub fn wan22() -> Self {
        Self {
            encoder_base: 160,
            decoder_base: 256,
            channels: 48,
            shortcuts: true,
            patch: 2,
            mean: vec![
                -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382,
                0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207,
                -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109,
                0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
                -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573,
                -0.0548, -0.1681, -0.0667,
            ],
            std: vec![
                0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344,
                0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804,
                0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999,
                0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
                0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
            ],
            ..Self::wan21()
        }
    }

    /// The pixels of one latent element along frames, height and width.
    pub fn scale(&self) -> [usize; 3] {
        let frames = self.halves_frames.iter().filter(|&&halves| halves).count();
        let side = self.patch << self.halves_frames.len();
        [1 << frames, side, side]
    }

    /// The number of latent elements along each side of a video of `[frames, height, width]`. The first
    /// frame is a latent frame of its own.
    ///
    /// # Errors
    /// If the sides do not divide.
    pub fn grid(&self, video: [usize; 3]) -> Result<[usize; 3], ShapeError> {
        let [frames, height, width] = video;
        let [st, sh, sw] = self.scale();
        if frames == 0 || (frames - 1) % st != 0 {
            return Err(ShapeError::Frames { frames, step: st });
        }
        if height % sh != 0 || width % sw != 0 || height == 0 || width == 0 {
            return Err(ShapeError::Indivisible {
                frames,
                height,
                width,
                patch: self.scale(),
            });
        }
        Ok([(frames - 1) / st + 1, height / sh, width / sw])
    }

    /// Channels into each stage of the encoder, and out of the last.
    pub(super) fn encoder_widths(&self) -> Vec<usize> {
        let widths = std::iter::once(&1).chain(&self.multipliers);
        widths.map(|m| m * self.encoder_base).collect()
    }

    /// Channels into each stage of the decoder, and out of the last.
    pub(super) fn decoder_widths(&self) -> Vec<usize> {
        let widths = self.multipliers.last().into_iter();
        let widths = widths.chain(self.multipliers.iter().rev());
        widths.map(|m| m * self.decoder_base).collect()
    }

    /// Channels of the video where the first convolution sees it.
    pub(super) fn pixel_channels(&self) -> usize {
        3 * self.patch * self.patch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_of_videos() {
        let config = WanVaeConfig::wan21();
        assert_eq!(config.scale(), [4, 8, 8]);
        assert_eq!(config.grid([17, 480, 832]), Ok([5, 60, 104]));
        let frames = config.grid([16, 480, 832]).unwrap_err().to_string();
        assert!(frames.contains("16 frames"), "{frames}");
        assert!(config.grid([17, 484, 832]).is_err());
        let config = WanVaeConfig::wan22();
        assert_eq!((config.mean.len(), config.std.len()), (48, 48));
        assert_eq!(config.grid([121, 704, 1280]), Ok([31, 44, 80]));
    }
}
