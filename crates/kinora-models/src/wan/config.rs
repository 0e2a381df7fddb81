//! Sizes of a Wan transformer.

use kinora_mesh::{Axis, Extent};
use serde::{Deserialize, Serialize};
use thiserror::Error;

// Products of a few sizes stay far below the largest integer.
const LARGEST: usize = 1 << 20;
const DEEPEST: usize = 4096;

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanConfig {
    /// Transformer blocks.
    pub layers: usize,
    /// Model width.
    pub dim: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels that go in: the latent's, and for image to video those of the mask and of the
    /// encoded image behind them.
    pub channels: usize,
    /// Channels of the velocity.
    pub out_channels: usize,
    /// Latent elements of a token along frames, height and width.
    pub patch: [usize; 3],
    /// Width of the text encoder's embeddings.
    pub text: usize,
    /// A shorter text is filled up with zeros to so many tokens, which are attended to like any other.
    pub text_tokens: usize,
    /// Cosines and sines of the time.
    pub sinusoids: usize,
    /// What every norm but those of the image adds to the variance or to the mean square.
    pub epsilon: f64,
    /// The image encoder's tokens, where cross-attention reads them too.
    pub image: Option<ImageConfig>,
    /// Where two models share the times: the first is that of noise from this fraction of 1,000 on.
    pub boundary: Option<f64>,
}

/// Tokens of an image encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Width of the image encoder's embeddings.
    pub width: usize,
    /// Learned positions of so many tokens are added, where there are two images to tell apart.
    pub positions: Option<usize>,
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
        "model.{key} = {size}\n  help: every size is at most {LARGEST}, and layers at most {DEEPEST}"
    )]
    Large {
        /// The key.
        key: &'static str,
        /// The size.
        size: usize,
    },
    /// A width that heads do not divide into even parts.
    #[error(
        "model.dim = {dim} cannot be shared by model.heads = {heads}: rotary positions turn pairs of elements\n  help: make dim an even multiple of heads, such as {}",
        dim.next_multiple_of(2 * heads)
    )]
    Heads {
        /// The width.
        dim: usize,
        /// The heads.
        heads: usize,
    },
    /// Cosines without sines.
    #[error("model.sinusoids = {sinusoids} is odd\n  help: use an even number, such as 256")]
    Sinusoids {
        /// How many.
        sinusoids: usize,
    },
    /// An epsilon that is no small positive number.
    #[error("model.epsilon = {epsilon}\n  help: use a positive number below 1, such as 1e-6")]
    Epsilon {
        /// What was given.
        epsilon: f64,
    },
    /// A boundary that is no fraction.
    #[error(
        "model.boundary = {boundary}\n  help: use a fraction of the time between 0 and 1, such as 0.875, or leave it out for one model"
    )]
    Boundary {
        /// What was given.
        boundary: f64,
    },
}

impl WanConfig {
    /// Wan 2.1, text to video, 1.4 billion parameters.
    pub fn wan_2_1_t2v_1_3b() -> Self {
        Self {
            layers: 30,
            dim: 1536,
            ffn: 8960,
            heads: 12,
            channels: 16,
            out_channels: 16,
            patch: [1, 2, 2],
            text: 4096,
            text_tokens: 512,
            sinusoids: 256,
            epsilon: 1e-6,
            image: None,
            boundary: None,
        }
    }

    /// Wan 2.1, text to video, 14.3 billion parameters.
    pub fn wan_2_1_t2v_14b() -> Self {
        Self {
            layers: 40,
            dim: 5120,
            ffn: 13824,
            heads: 40,
            ..Self::wan_2_1_t2v_1_3b()
        }
    }

    /// Wan 2.1, image to video: 4 channels of the mask and 16 of the encoded image beside the latent,
    /// and CLIP's tokens of the image.
    pub fn wan_2_1_i2v_14b() -> Self {
        Self {
            channels: 36,
            image: Some(ImageConfig {
                width: 1280,
                positions: None,
            }),
            ..Self::wan_2_1_t2v_14b()
        }
    }

    /// Wan 2.1, first and last frame to video: the tokens of two images, 257 each.
    pub fn wan_2_1_flf2v_14b() -> Self {
        Self {
            image: Some(ImageConfig {
                width: 1280,
                positions: Some(2 * 257),
            }),
            ..Self::wan_2_1_i2v_14b()
        }
    }

    /// Wan 2.2, text to video: two models of 14.3 billion parameters.
    pub fn wan_2_2_t2v_a14b() -> Self {
        Self {
            boundary: Some(0.875),
            ..Self::wan_2_1_t2v_14b()
        }
    }

    /// Wan 2.2, image to video: two models, which see the image in the latent alone.
    pub fn wan_2_2_i2v_a14b() -> Self {
        Self {
            channels: 36,
            boundary: Some(0.9),
            ..Self::wan_2_1_t2v_14b()
        }
    }

    /// Wan 2.2, text or image to video, 5.0 billion parameters: the latent of a stronger autoencoder,
    /// and a time for each token.
    pub fn wan_2_2_ti2v_5b() -> Self {
        Self {
            layers: 30,
            dim: 3072,
            ffn: 14336,
            heads: 24,
            channels: 48,
            out_channels: 48,
            ..Self::wan_2_1_t2v_1_3b()
        }
    }

    /// A model for tests and small data, in seconds on a CPU.
    pub fn tiny() -> Self {
        Self {
            layers: 4,
            dim: 96,
            ffn: 256,
            heads: 4,
            text: 64,
            text_tokens: 32,
            ..Self::wan_2_1_t2v_1_3b()
        }
    }

    /// The model of a name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "wan-2.1-t2v-1.3b" => Some(Self::wan_2_1_t2v_1_3b()),
            "wan-2.1-t2v-14b" => Some(Self::wan_2_1_t2v_14b()),
            "wan-2.1-i2v-14b" => Some(Self::wan_2_1_i2v_14b()),
            "wan-2.1-flf2v-14b" => Some(Self::wan_2_1_flf2v_14b()),
            "wan-2.2-t2v-a14b" => Some(Self::wan_2_2_t2v_a14b()),
            "wan-2.2-i2v-a14b" => Some(Self::wan_2_2_i2v_a14b()),
            "wan-2.2-ti2v-5b" => Some(Self::wan_2_2_ti2v_5b()),
            "wan-tiny" => Some(Self::tiny()),
            _ => None,
        }
    }

    /// The names that [`WanConfig::preset`] knows.
    pub const PRESETS: [&str; 8] = [
        "wan-2.1-t2v-1.3b",
        "wan-2.1-t2v-14b",
        "wan-2.1-i2v-14b",
        "wan-2.1-flf2v-14b",
        "wan-2.2-t2v-a14b",
        "wan-2.2-i2v-a14b",
        "wan-2.2-ti2v-5b",
        "wan-tiny",
    ];

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// The elements of a head that turn with the frame, the height and the width.
    pub fn rotary(&self) -> [usize; 3] {
        let side = 2 * (self.head_dim() / 6);
        [self.head_dim() - 2 * side, side, side]
    }

    /// The numbers of `channels` channels in a token.
    pub fn patch_len(&self, channels: usize) -> usize {
        channels * self.patch.iter().product::<usize>()
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
        let [frames, height, width] = self.patch;
        let image = self.image.as_ref();
        let sizes = [
            ("layers", self.layers),
            ("dim", self.dim),
            ("ffn", self.ffn),
            ("heads", self.heads),
            ("channels", self.channels),
            ("out_channels", self.out_channels),
            ("patch", frames),
            ("patch", height),
            ("patch", width),
            ("text", self.text),
            ("text_tokens", self.text_tokens),
            ("sinusoids", self.sinusoids),
            ("image.width", image.map_or(1, |image| image.width)),
            (
                "image.positions",
                image.and_then(|image| image.positions).unwrap_or(1),
            ),
        ];
        for (key, size) in sizes {
            if size == 0 {
                return Err(ConfigError::Zero { key });
            }
            if size > LARGEST || key == "layers" && size > DEEPEST {
                return Err(ConfigError::Large { key, size });
            }
        }
        let (dim, heads) = (self.dim, self.heads);
        if !dim.is_multiple_of(2 * heads) {
            return Err(ConfigError::Heads { dim, heads });
        }
        if !self.sinusoids.is_multiple_of(2) {
            let sinusoids = self.sinusoids;
            return Err(ConfigError::Sinusoids { sinusoids });
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            let epsilon = self.epsilon;
            return Err(ConfigError::Epsilon { epsilon });
        }
        match self.boundary {
            Some(boundary) if !(boundary > 0.0 && boundary < 1.0) => {
                Err(ConfigError::Boundary { boundary })
            }
            _ => Ok(()),
        }
    }

    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        [("model.heads", Axis::Heads.of(self.dim).by(self.head_dim()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::Wan;
    use burn::tensor::{DType, Device};
    use kinora_shard::{Cx, Sharding};

    /// The counts are those of the released weights.
    #[test]
    fn the_presets_have_the_released_sizes() {
        for (name, billions) in [
            ("wan-2.1-t2v-1.3b", 1.42),
            ("wan-2.1-t2v-14b", 14.29),
            ("wan-2.1-i2v-14b", 16.40),
            ("wan-2.2-ti2v-5b", 5.00),
        ] {
            let config = WanConfig::preset(name).expect("a preset");
            let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
            Wan::new(&cx, &config);
            let table = cx.table();
            let count: usize = table.specs().iter().map(|spec| spec.local_len()).sum();
            let total = count as f64 / 1e9;
            assert!((total - billions).abs() < 0.01, "{name}: {total} billion");
        }
        for name in WanConfig::PRESETS {
            let config = WanConfig::preset(name).expect("a preset");
            assert_eq!(config.check(), Ok(()), "{name}");
            let rotary = if name == "wan-tiny" {
                [8, 8, 8]
            } else {
                [44, 42, 42]
            };
            assert_eq!(config.rotary(), rotary, "{name}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        let good = WanConfig::wan_2_1_i2v_14b();
        let cases: [(WanConfig, &str); 6] = [
            (
                WanConfig {
                    ffn: 0,
                    ..good.clone()
                },
                "model.ffn = 0",
            ),
            (
                WanConfig {
                    dim: 5160,
                    ..good.clone()
                },
                "such as 5200",
            ),
            (
                WanConfig {
                    layers: 5000,
                    ..good.clone()
                },
                "model.layers = 5000",
            ),
            (
                WanConfig {
                    sinusoids: 7,
                    ..good.clone()
                },
                "is odd",
            ),
            (
                WanConfig {
                    epsilon: 0.0,
                    ..good.clone()
                },
                "model.epsilon = 0",
            ),
            (
                WanConfig {
                    boundary: Some(875.0),
                    ..good
                },
                "a fraction",
            ),
        ];
        for (config, says) in cases {
            let error = config.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
