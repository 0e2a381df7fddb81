//! The sizes of the temporal autoencoder.

use crate::autoencoder::ShapeError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a temporal autoencoder is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemporalVaeConfig {
    /// Channels of the first level, before they are multiplied.
    pub base: usize,
    /// Channels of each level, as multiples of the base; the decoder's are these from the last to the
    /// first.
    pub multipliers: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    #[serde(default = "two")]
    pub blocks: usize,
    /// Channels of a latent.
    #[serde(default = "sixteen")]
    pub channels: usize,
    /// The first so many levels halve the number of frames.
    pub halves_frames: usize,
    /// The first so many levels halve the rows and columns.
    pub halves_sides: usize,
    /// Squares of so many pixels become channels first; 1 as released.
    #[serde(default = "one")]
    pub patch: usize,
    /// Frames that are encoded, or decoded, at a time.
    #[serde(default = "thirty_two")]
    pub tile: usize,
    /// Frames of a decoded tile that are mixed with those of the one before.
    #[serde(default = "sixteen")]
    pub overlap: usize,
    /// The mean of each channel of a latent; none before it was measured.
    #[serde(default)]
    pub mean: Vec<f64>,
    /// The standard deviation of each channel of a latent; none before it was measured.
    #[serde(default)]
    pub std: Vec<f64>,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn sixteen() -> usize {
    16
}

fn thirty_two() -> usize {
    32
}

/// Sizes that make no autoencoder.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing where something must be.
    #[error("{name} = 0 leaves nothing of the autoencoder\n  help: set {name} to 1 or more")]
    Zero {
        /// The setting.
        name: &'static str,
    },
    /// More halving than there are levels.
    #[error(
        "{name} = {asked}, but there are {levels} levels\n  help: set it to {levels} or less, or give more multipliers"
    )]
    Levels {
        /// The setting.
        name: &'static str,
        /// Its value.
        asked: usize,
        /// Levels.
        levels: usize,
    },
    /// Tiles that do not hold whole latent frames.
    #[error(
        "tiles of {tile} frames that overlap by {overlap} do not go into latent frames of {step}\n  help: make both multiples of {step}, and the overlap at most half of the tile"
    )]
    Tiles {
        /// Frames of a tile.
        tile: usize,
        /// Frames that two tiles share.
        overlap: usize,
        /// Frames of a latent frame.
        step: usize,
    },
    /// Statistics of another number of channels.
    #[error(
        "{found} numbers in {name}, but latents of {channels} channels\n  help: give one a channel, or none to have them measured"
    )]
    Statistics {
        /// The setting.
        name: &'static str,
        /// How many there are.
        found: usize,
        /// Channels of a latent.
        channels: usize,
    },
}

impl TemporalVaeConfig {
    /// An autoencoder of Movie Gen's compression, 8 x 8 x 8, on an image autoencoder of Stable
    /// Diffusion 3's widths (the paper gives none; arXiv 2410.13720, section 3.1.1).
    pub fn movie_gen() -> Self {
        Self {
            base: 128,
            multipliers: vec![1, 2, 4, 4],
            blocks: 2,
            channels: 16,
            halves_frames: 3,
            halves_sides: 3,
            patch: 1,
            tile: 32,
            overlap: 16,
            mean: vec![],
            std: vec![],
        }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn check(&self) -> Result<(), ConfigError> {
        let least = self.multipliers.iter().min().copied().unwrap_or(0);
        let counts = [
            ("base", self.base),
            ("multipliers", least),
            ("channels", self.channels),
            ("patch", self.patch),
            ("tile", self.tile),
        ];
        if let Some(&(name, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { name });
        }
        let levels = self.multipliers.len();
        let halves = [
            ("halves_frames", self.halves_frames),
            ("halves_sides", self.halves_sides),
        ];
        if let Some(&(name, asked)) = halves.iter().find(|(_, n)| *n > levels) {
            return Err(ConfigError::Levels {
                name,
                asked,
                levels,
            });
        }
        let (tile, overlap, step) = (self.tile, self.overlap, self.scale()[0]);
        if tile % step != 0 || overlap % step != 0 || 2 * overlap > tile {
            return Err(ConfigError::Tiles {
                tile,
                overlap,
                step,
            });
        }
        for (name, found) in [("mean", self.mean.len()), ("std", self.std.len())] {
            if found != 0 && found != self.channels {
                return Err(ConfigError::Statistics {
                    name,
                    found,
                    channels: self.channels,
                });
            }
        }
        Ok(())
    }

    /// The pixels of one latent element along frames, height and width.
    pub fn scale(&self) -> [usize; 3] {
        let side = self.patch << self.halves_sides;
        [1 << self.halves_frames, side, side]
    }

    /// The number of latent elements along each side of a video of `[frames, height, width]`. Any
    /// number of frames can be encoded: what the last latent frame says beyond them is to be discarded.
    ///
    /// # Errors
    /// If the sides of the picture do not divide, or there is none.
    pub fn grid(&self, video: [usize; 3]) -> Result<[usize; 3], ShapeError> {
        let [frames, height, width] = video;
        let patch @ [st, sh, sw] = self.scale();
        if height % sh != 0 || width % sw != 0 || video.contains(&0) {
            return Err(ShapeError::Indivisible {
                frames,
                height,
                width,
                patch,
            });
        }
        Ok([frames.div_ceil(st), height / sh, width / sw])
    }

    /// Channels of each level.
    pub(super) fn widths(&self) -> Vec<usize> {
        self.multipliers.iter().map(|m| m * self.base).collect()
    }

    /// Whether a level halves frames, and sides.
    pub(super) fn halves(&self, level: usize) -> [bool; 2] {
        [level < self.halves_frames, level < self.halves_sides]
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
    fn any_length_has_a_grid() {
        let config = TemporalVaeConfig::movie_gen();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.grid([256, 768, 768]), Ok([32, 96, 96]));
        assert_eq!(config.grid([1, 768, 768]), Ok([1, 96, 96]));
        assert_eq!(config.grid([33, 768, 768]), Ok([5, 96, 96]));
        let error = config.grid([32, 768, 764]).unwrap_err().to_string();
        assert!(error.contains("768x764"), "{error}");
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let wrong = |change: fn(&mut TemporalVaeConfig)| {
            let mut config = TemporalVaeConfig::movie_gen();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        for (error, words) in [
            (wrong(|c| c.base = 0), "base = 0"),
            (wrong(|c| c.multipliers.clear()), "multipliers"),
            (wrong(|c| c.halves_frames = 5), "there are 4 levels"),
            (wrong(|c| c.tile = 20), "latent frames of 8"),
            (wrong(|c| c.overlap = 24), "overlap by 24"),
            (wrong(|c| c.tile = 0), "tile = 0"),
            (wrong(|c| c.mean = vec![0.0]), "1 numbers in mean"),
        ] {
            assert!(error.contains(words), "{error}");
        }
    }
}
