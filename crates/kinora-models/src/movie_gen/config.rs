//! Sizes of a Movie Gen transformer.

use kinora_mesh::{Axis, Extent};
use serde::{Deserialize, Serialize};
use thiserror::Error;

// Products of a few sizes stay far below the largest integer.
const LARGEST: usize = 1 << 20;
const DEEPEST: usize = 4096;

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovieGenConfig {
    /// Transformer blocks.
    pub layers: usize,
    /// Model width.
    pub dim: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of the latent.
    pub channels: usize,
    /// Latent elements of a token along frames, height and width.
    pub patch: [usize; 3],
    /// The largest latent along frames, height and width.
    pub max_latent: [usize; 3],
    /// The standard deviation of the positions at initialisation.
    pub position_scale: f64,
    /// The text encoders whose embeddings are read.
    pub texts: Vec<TextInput>,
}

/// The output of one text encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextInput {
    /// The encoder's name, part of the parameters' paths.
    pub name: String,
    /// The width of its embeddings.
    pub width: usize,
}

/// A model that cannot be built.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A size of zero.
    #[error("model.{key} = 0\n  help: every size of the model is at least 1")]
    Zero {
        /// The key.
        key: &'static str,
    },
    /// A size beyond any model.
    #[error(
        "a size in [model] is {size}\n  help: every size is at most {LARGEST}, and layers at most {DEEPEST}"
    )]
    Large {
        /// The size.
        size: usize,
    },
    /// A scale that is no number.
    #[error(
        "model.position_scale = {scale}\n  help: use a positive number; 1 lets small models learn motion"
    )]
    Scale {
        /// The scale.
        scale: f64,
    },
    /// A width that heads do not divide.
    #[error(
        "model.dim = {dim} cannot be shared by model.heads = {heads}\n  help: make dim a multiple of heads"
    )]
    Heads {
        /// The width.
        dim: usize,
        /// The heads.
        heads: usize,
    },
    /// A latent that patches do not divide.
    #[error(
        "model.max_latent = {latent:?} is not a multiple of model.patch = {patch:?}\n  help: change one of them"
    )]
    Patch {
        /// The latent.
        latent: [usize; 3],
        /// The patch.
        patch: [usize; 3],
    },
}

impl MovieGenConfig {
    /// The 30B model of the paper: 48 layers of width 6,144 (table 1), for up to 32 x 96 x 96
    /// latents, which are 73,728 tokens. The widths of the text encoders are a re-implementation's
    /// (mindone, examples/moviegen): UL2 4,096, MetaCLIP 1,280, ByT5 1,472.
    pub fn movie_gen_30b() -> Self {
        Self {
            layers: 48,
            dim: 6144,
            ffn: 16384,
            heads: 48,
            ..Self::movie_gen_5b()
        }
    }

    /// The 5B model of the paper's ablations.
    pub fn movie_gen_5b() -> Self {
        let text = |name: &str, width| TextInput {
            name: name.into(),
            width,
        };
        Self {
            layers: 32,
            dim: 3072,
            ffn: 8192,
            heads: 24,
            channels: 16,
            patch: [1, 2, 2],
            max_latent: [32, 96, 96],
            position_scale: 1.0,
            texts: vec![
                text("ul2", 4096),
                text("metaclip", 1280),
                text("byt5", 1472),
            ],
        }
    }

    /// A model for tests and the quickstart, in seconds on a CPU.
    pub fn tiny() -> Self {
        Self {
            layers: 4,
            dim: 64,
            ffn: 160,
            heads: 4,
            channels: 32,
            patch: [1, 1, 1],
            max_latent: [4, 4, 4],
            position_scale: 1.0,
            texts: vec![TextInput {
                name: "bytes".into(),
                width: 64,
            }],
        }
    }

    /// The model of a name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "movie-gen-30b" => Some(Self::movie_gen_30b()),
            "movie-gen-5b" => Some(Self::movie_gen_5b()),
            "movie-gen-tiny" => Some(Self::tiny()),
            _ => None,
        }
    }

    /// The names that [`MovieGenConfig::preset`] knows.
    pub const PRESETS: [&str; 3] = ["movie-gen-30b", "movie-gen-5b", "movie-gen-tiny"];

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// The numbers in a token.
    pub fn patch_len(&self) -> usize {
        self.channels * self.patch.iter().product::<usize>()
    }

    /// The tokens of a latent of `[frames, height, width]`.
    pub fn grid(&self, latent: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|i| latent[i] / self.patch[i])
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first that does not fit, with what would.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("layers", self.layers),
            ("dim", self.dim),
            ("ffn", self.ffn),
            ("heads", self.heads),
            ("channels", self.channels),
            ("patch", self.patch.iter().product()),
            ("max_latent", self.max_latent.iter().product()),
            ("texts", self.texts.len()),
        ];
        if let Some(&(key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(ConfigError::Zero { key });
        }
        let sides = self.patch.iter().chain(&self.max_latent);
        let largest = sizes[..5].iter().map(|(_, size)| size).chain(sides).max();
        let deepest = Some(&self.layers).filter(|&&layers| layers > DEEPEST);
        if let Some(&size) = largest.filter(|&&size| size > LARGEST).or(deepest) {
            return Err(ConfigError::Large { size });
        }
        if !(self.position_scale >= 0.0 && self.position_scale.is_finite()) {
            return Err(ConfigError::Scale {
                scale: self.position_scale,
            });
        }
        if !self.dim.is_multiple_of(self.heads) {
            return Err(ConfigError::Heads {
                dim: self.dim,
                heads: self.heads,
            });
        }
        let (latent, patch) = (self.max_latent, self.patch);
        if (0..3).any(|i| latent[i] % patch[i] != 0) {
            return Err(ConfigError::Patch { latent, patch });
        }
        Ok(())
    }

    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        [("model.heads", Axis::Heads.of(self.dim).by(self.head_dim()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Per layer: 4 d^2 of attention, as much of cross-attention, 3 d f of the feed-forward network.
    #[test]
    fn the_presets_have_the_papers_sizes() {
        for (config, billions) in [
            (MovieGenConfig::movie_gen_30b(), 28.99),
            (MovieGenConfig::movie_gen_5b(), 4.83),
        ] {
            let layer = 8 * config.dim * config.dim + 3 * config.dim * config.ffn;
            let total = (config.layers * layer) as f64 / 1e9;
            assert!(
                (total - billions).abs() < 0.01,
                "{total} instead of {billions} billion"
            );
            assert_eq!(config.head_dim(), 128);
            assert_eq!(
                config.grid(config.max_latent).iter().product::<usize>(),
                73_728
            );
        }
    }
}
