//! The `[model]` table: a preset, sizes, or a preset with other sizes.

use super::AutoencoderSection;
use crate::failure::{Failure, Outcome};
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use serde::{Deserialize, Serialize};

/// What was typed of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelSection {
    /// The sizes to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ffn: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<[usize; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_latent: Option<[usize; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_scale: Option<f64>,
}

impl ModelSection {
    /// The sizes. Latent channels are the autoencoder's and the text's width the encoder's, where
    /// those are given.
    pub(crate) fn resolve(
        &self,
        text: Option<&BytesConfig>,
        autoencoder: Option<&AutoencoderSection>,
    ) -> Outcome<MovieGenConfig> {
        let preset = self.preset.as_deref().unwrap_or("movie-gen-tiny");
        let base = MovieGenConfig::preset(preset).ok_or_else(|| {
            Failure::input(format!(
                "model.preset = \"{preset}\" is not known\n  help: use one of {}",
                MovieGenConfig::PRESETS.join(", ")
            ))
        })?;
        let channels = match (self.channels, autoencoder) {
            (Some(channels), Some(autoencoder)) if channels != autoencoder.channels() => {
                return Err(Failure::input(format!(
                    "model.channels = {channels}, but autoencoder.channels = {}\n  help: leave model.channels out",
                    autoencoder.channels()
                )));
            }
            (_, Some(autoencoder)) => autoencoder.channels(),
            (Some(channels), None) => channels,
            (None, None) => base.channels,
        };
        let texts = match text {
            Some(text) => vec![TextInput {
                name: "bytes".into(),
                width: text.width,
            }],
            None => base.texts,
        };
        Ok(MovieGenConfig {
            layers: self.layers.unwrap_or(base.layers),
            dim: self.dim.unwrap_or(base.dim),
            ffn: self.ffn.unwrap_or(base.ffn),
            heads: self.heads.unwrap_or(base.heads),
            channels,
            patch: self.patch.unwrap_or(base.patch),
            max_latent: self.max_latent.unwrap_or(base.max_latent),
            position_scale: self.position_scale.unwrap_or(base.position_scale),
            texts,
        })
    }
}
