//! Sizes of a HunyuanVideo transformer.

use kinora_mesh::{Axis, Extent};
use serde::{Deserialize, Serialize};
use thiserror::Error;

// Products of a few sizes stay far below the largest integer.
const LARGEST: usize = 1 << 20;
const DEEPEST: usize = 4096;

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HunyuanConfig {
    /// Blocks in which video and text have weights of their own.
    pub double: usize,
    /// Blocks in which they share them.
    pub single: usize,
    /// Blocks of the text's refiner.
    pub refiner: usize,
    /// Model width.
    pub dim: usize,
    /// Hidden units of the feed-forward networks.
    pub ffn: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of the latent.
    pub channels: usize,
    /// Channels of the velocity.
    pub out_channels: usize,
    /// Latent elements of a token along frames, height and width.
    pub patch: [usize; 3],
    /// Width of the text encoder's embeddings.
    pub text: usize,
    /// Width of the summary of the prompt.
    pub pooled: usize,
    /// Whether the model is told the guidance that it imitates.
    pub guidance: bool,
    /// The elements of a head that turn with the frame, the height and the width.
    pub rotary: [usize; 3],
    /// The slowest of them turns so many times as slowly as the fastest.
    pub theta: f64,
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
        "model.{key} = {size}\n  help: every size is at most {LARGEST}, and blocks at most {DEEPEST}"
    )]
    Large {
        /// The key.
        key: &'static str,
        /// The size.
        size: usize,
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
    /// Rotary parts that do not make a head.
    #[error(
        "model.rotary = {rotary:?} does not make a head of {head} elements\n  help: use three even numbers whose sum is {head}"
    )]
    Rotary {
        /// The parts.
        rotary: [usize; 3],
        /// The width of a head.
        head: usize,
    },
    /// A theta below one.
    #[error("model.theta = {theta}\n  help: use a number above 1, such as 256")]
    Theta {
        /// What was given.
        theta: f64,
    },
}

impl HunyuanConfig {
    /// The released model of 13 billion parameters.
    pub fn hunyuan_video() -> Self {
        Self {
            double: 20,
            single: 40,
            refiner: 2,
            dim: 3072,
            ffn: 4 * 3072,
            heads: 24,
            channels: 16,
            out_channels: 16,
            patch: [1, 2, 2],
            text: 4096,
            pooled: 768,
            guidance: true,
            rotary: [16, 56, 56],
            theta: 256.0,
        }
    }

    /// The model of a name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        (name == "hunyuan-video").then(Self::hunyuan_video)
    }

    /// The names that [`HunyuanConfig::preset`] knows.
    pub const PRESETS: [&str; 1] = ["hunyuan-video"];

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
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
        let sizes = [
            ("double", self.double),
            ("single", self.single),
            ("refiner", self.refiner),
            ("dim", self.dim),
            ("ffn", self.ffn),
            ("heads", self.heads),
            ("channels", self.channels),
            ("out_channels", self.out_channels),
            ("patch", frames),
            ("patch", height),
            ("patch", width),
            ("text", self.text),
            ("pooled", self.pooled),
        ];
        for (at, (key, size)) in sizes.into_iter().enumerate() {
            // The blocks are first.
            let limit = if at < 3 { DEEPEST } else { LARGEST };
            if size == 0 {
                return Err(ConfigError::Zero { key });
            }
            if size > limit {
                return Err(ConfigError::Large { key, size });
            }
        }
        let (dim, heads, rotary) = (self.dim, self.heads, self.rotary);
        if !dim.is_multiple_of(heads) {
            return Err(ConfigError::Heads { dim, heads });
        }
        let head = self.head_dim();
        let even = rotary
            .iter()
            .all(|part| part.is_multiple_of(2) && *part <= head);
        if !even || rotary.iter().sum::<usize>() != head {
            return Err(ConfigError::Rotary { rotary, head });
        }
        if !(self.theta > 1.0 && self.theta.is_finite()) {
            return Err(ConfigError::Theta { theta: self.theta });
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
    use crate::hunyuan::HunyuanVideo;
    use burn::tensor::{DType, Device};
    use kinora_shard::{Cx, Sharding};

    /// 12.46 billion in the blocks, and what stands around them.
    #[test]
    fn the_preset_has_the_released_size() {
        let config = HunyuanConfig::preset("hunyuan-video").expect("a preset");
        assert_eq!(config.check(), Ok(()));
        let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
        HunyuanVideo::new(&cx, &config);
        let table = cx.table();
        let count = |blocks: bool| {
            let of = |path: &str| path.starts_with("double.") || path.starts_with("single.");
            let specs = table.specs().iter();
            let mine = specs.filter(|spec| of(&spec.path) == blocks);
            mine.map(|spec| spec.local_len()).sum::<usize>() as f64 / 1e9
        };
        assert!((count(true) - 12.46).abs() < 0.01, "{}", count(true));
        assert!(count(false) < 0.4, "{}", count(false));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        let good = HunyuanConfig::hunyuan_video();
        let cases: [(HunyuanConfig, &str); 5] = [
            (
                HunyuanConfig {
                    pooled: 0,
                    ..good.clone()
                },
                "model.pooled = 0",
            ),
            (
                HunyuanConfig {
                    single: 5000,
                    ..good.clone()
                },
                "model.single = 5000",
            ),
            (
                HunyuanConfig {
                    heads: 25,
                    ..good.clone()
                },
                "a multiple of heads",
            ),
            (
                HunyuanConfig {
                    rotary: [16, 56, 54],
                    ..good.clone()
                },
                "whose sum is 128",
            ),
            (HunyuanConfig { theta: 0.5, ..good }, "model.theta = 0.5"),
        ];
        for (config, says) in cases {
            let error = config.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
