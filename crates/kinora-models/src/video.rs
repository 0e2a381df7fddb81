//! The video transformers behind one name.

use crate::Condition;
use crate::movie_gen::{self, MovieGen, MovieGenConfig, TextInput, TextTokens};
use crate::wan::{self, Experts, Wan, WanConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Extent;
use kinora_shard::Cx;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The sizes of a model of some family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum VideoConfig {
    /// Movie Gen's.
    MovieGen(MovieGenConfig),
    /// Wan's.
    Wan(WanConfig),
}

impl From<MovieGenConfig> for VideoConfig {
    fn from(config: MovieGenConfig) -> Self {
        Self::MovieGen(config)
    }
}

impl From<WanConfig> for VideoConfig {
    fn from(config: WanConfig) -> Self {
        Self::Wan(config)
    }
}

/// A model that cannot be built.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum VideoError {
    /// Sizes of Movie Gen's.
    #[error(transparent)]
    MovieGen(#[from] movie_gen::ConfigError),
    /// Sizes of Wan's.
    #[error(transparent)]
    Wan(#[from] wan::ConfigError),
}

impl VideoConfig {
    /// The model of a name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        let movie_gen = MovieGenConfig::preset(name).map(Self::MovieGen);
        movie_gen.or_else(|| WanConfig::preset(name).map(Self::Wan))
    }

    /// The names that [`VideoConfig::preset`] knows.
    pub fn presets() -> Vec<&'static str> {
        [&MovieGenConfig::PRESETS[..], &WanConfig::PRESETS[..]].concat()
    }

    /// Transformer blocks.
    pub fn layers(&self) -> usize {
        match self {
            Self::MovieGen(config) => config.layers,
            Self::Wan(config) => config.layers,
        }
    }

    /// Hidden units of the feed-forward network.
    pub fn ffn(&self) -> usize {
        match self {
            Self::MovieGen(config) => config.ffn,
            Self::Wan(config) => config.ffn,
        }
    }

    /// Channels of the latent.
    pub fn channels(&self) -> usize {
        match self {
            Self::MovieGen(config) => config.channels,
            Self::Wan(config) => config.out_channels,
        }
    }

    /// Latent elements of a token along frames, height and width.
    pub fn patch(&self) -> [usize; 3] {
        match self {
            Self::MovieGen(config) => config.patch,
            Self::Wan(config) => config.patch,
        }
    }

    /// The largest latent along frames, height and width, for models with tables of positions.
    pub fn max_latent(&self) -> Option<[usize; 3]> {
        match self {
            Self::MovieGen(config) => Some(config.max_latent),
            Self::Wan(_) => None,
        }
    }

    /// The text encoders whose embeddings are read.
    pub fn texts(&self) -> Vec<TextInput> {
        match self {
            Self::MovieGen(config) => config.texts.clone(),
            Self::Wan(config) => vec![TextInput {
                name: "umt5".into(),
                width: config.text,
            }],
        }
    }

    /// The tokens of a latent of `[frames, height, width]`.
    pub fn grid(&self, latent: [usize; 3]) -> [usize; 3] {
        let patch = self.patch();
        [0, 1, 2].map(|i| latent[i] / patch[i])
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first that does not fit, with what would.
    pub fn check(&self) -> Result<(), VideoError> {
        match self {
            Self::MovieGen(config) => Ok(config.check()?),
            Self::Wan(config) => Ok(config.check()?),
        }
    }

    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        match self {
            Self::MovieGen(config) => config.extents(),
            Self::Wan(config) => config.extents(),
        }
    }
}

/// A transformer of some family.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a run has one of them, beside weights of gigabytes"
)]
pub enum Video {
    /// Movie Gen's.
    MovieGen(MovieGen),
    /// Wan's.
    Wan(Wan),
    /// Wan 2.2's pair.
    Experts(Experts),
}

impl Video {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &VideoConfig) -> Self {
        match config {
            VideoConfig::MovieGen(config) => Self::MovieGen(MovieGen::new(cx, config)),
            VideoConfig::Wan(config) if config.boundary.is_some() => {
                Self::Experts(Experts::new(cx, config))
            }
            VideoConfig::Wan(config) => Self::Wan(Wan::new(cx, config)),
        }
    }

    /// Latents `[B, C, T, H, W]` at times `[B]` in 0..=1 to velocities of the same shape, from noise to
    /// data; `texts` are what the encoders made of the prompts.
    ///
    /// # Panics
    /// If a pair of experts gets unlike times in one batch.
    pub(crate) fn velocity(
        &self,
        latent: Tensor<5>,
        time: Tensor<1>,
        texts: Vec<TextTokens>,
        given: &Condition,
    ) -> Tensor<5> {
        match self {
            Self::MovieGen(model) => model.forward(latent, time, texts),
            Self::Wan(model) => {
                let (latent, time) = (beside_known(latent, given), wans(time).unsqueeze_dim(1));
                let image = given.image.clone();
                // Wan's velocity leads from data to noise.
                model.forward(latent, time, one(texts), image).neg()
            }
            Self::Experts(pair) => {
                let times: Vec<f64> = wans(time).into_data().iter::<f64>().collect();
                let same = times.iter().all(|&time| time == times[0]);
                assert!(same, "a pair of experts takes one time for all samples");
                let (latent, image) = (beside_known(latent, given), given.image.clone());
                pair.forward(latent, times[0], one(texts), image).neg()
            }
        }
    }
}

/// Wan's time, which runs from 1,000, noise, to 0, data.
fn wans(time: Tensor<1>) -> Tensor<1> {
    (time.neg() + 1.0) * 1000.0
}

/// Wan reads one encoder's tokens, all of them: padding is zeros.
fn one(texts: Vec<TextTokens>) -> Tensor<3> {
    let [text] = <[TextTokens; 1]>::try_from(texts).unwrap_or_else(|texts| {
        panic!(
            "Wan reads the tokens of one encoder, not of {}",
            texts.len()
        )
    });
    let mask: Tensor<2> = text.mask.float().cast(text.embedding.dtype());
    let mask: Tensor<3> = mask.unsqueeze_dim(2);
    if text.embedding.device().is_autodiff() {
        return text.embedding * mask.autodiff();
    }
    text.embedding * mask
}

/// What Wan's image models read: the noisy latent, a mask with a channel for each of the four frames of
/// a latent one, and the latent of what is known.
fn beside_known(latent: Tensor<5>, given: &Condition) -> Tensor<5> {
    let Some(known) = &given.known else {
        return latent;
    };
    let options = latent.dtype();
    let mask = known.mask.clone().repeat_dim(1, 4).cast(options);
    let known = known.latent.clone().cast(options);
    let rest = Tensor::cat(vec![mask, known], 1);
    let rest = if latent.device().is_autodiff() {
        rest.autodiff()
    } else {
        rest
    };
    Tensor::cat(vec![latent, rest], 1)
}
