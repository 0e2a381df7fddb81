//! The `[model]` table: a preset, sizes, or a preset with other sizes.

use super::AutoencoderSection;
use crate::failure::{Failure, Outcome};
use kinora_models::VideoConfig;
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use kinora_models::wan::WanConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What was typed of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelSection {
    /// The sizes to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preset: Option<String>,
    /// Weights to start from: a file or folder, in diffusers' layout or the original one; or
    /// the folder of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<PathBuf>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    text_tokens: Option<usize>,
}

impl ModelSection {
    /// The sizes. Latent channels are the autoencoder's and the text's width the encoder's, where
    /// those are given.
    pub(crate) fn resolve(
        &self,
        text: Option<&BytesConfig>,
        autoencoder: Option<&AutoencoderSection>,
    ) -> Outcome<VideoConfig> {
        let preset = self.preset.as_deref().unwrap_or("movie-gen-tiny");
        let base = VideoConfig::preset(preset).ok_or_else(|| {
            Failure::input(format!(
                "model.preset = \"{preset}\" is not known\n  help: use one of {}",
                VideoConfig::presets().join(", ")
            ))
        })?;
        let latent = autoencoder.map(AutoencoderSection::channels).transpose()?;
        let channels = match (self.channels, latent) {
            (Some(channels), Some(latent)) if channels != latent => {
                return Err(Failure::input(format!(
                    "model.channels = {channels}, but the latents of [autoencoder] have {latent}\n  help: leave model.channels out"
                )));
            }
            (_, Some(latent)) => latent,
            (Some(channels), None) => channels,
            (None, None) => base.channels(),
        };
        match base {
            VideoConfig::MovieGen(base) => self.movie_gen(base, text, channels),
            VideoConfig::Wan(base) => self.wan(preset, base, text, channels),
        }
    }

    fn movie_gen(
        &self,
        base: MovieGenConfig,
        text: Option<&BytesConfig>,
        channels: usize,
    ) -> Outcome<VideoConfig> {
        if let Some(tokens) = self.text_tokens {
            return Err(Failure::input(format!(
                "model.text_tokens = {tokens} has no effect: Movie Gen's models read texts of any length\n  help: remove it"
            )));
        }
        let texts = match text {
            Some(text) => vec![TextInput {
                name: "bytes".into(),
                width: text.width,
            }],
            None => base.texts,
        };
        let config = MovieGenConfig {
            layers: self.layers.unwrap_or(base.layers),
            dim: self.dim.unwrap_or(base.dim),
            ffn: self.ffn.unwrap_or(base.ffn),
            heads: self.heads.unwrap_or(base.heads),
            channels,
            patch: self.patch.unwrap_or(base.patch),
            max_latent: self.max_latent.unwrap_or(base.max_latent),
            position_scale: self.position_scale.unwrap_or(base.position_scale),
            texts,
        };
        Ok(config.into())
    }

    fn wan(
        &self,
        preset: &str,
        base: WanConfig,
        text: Option<&BytesConfig>,
        channels: usize,
    ) -> Outcome<VideoConfig> {
        let given = [
            ("max_latent", self.max_latent.is_some()),
            ("position_scale", self.position_scale.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::input(format!(
                "model.{key} has no effect on {preset}, whose positions are rotations without tables\n  help: remove it"
            )));
        }
        // Beside the noisy latent, models of images read that of the image and a mask of four channels.
        let beside = if base.channels > base.out_channels {
            4 + channels
        } else {
            0
        };
        let config = WanConfig {
            layers: self.layers.unwrap_or(base.layers),
            dim: self.dim.unwrap_or(base.dim),
            ffn: self.ffn.unwrap_or(base.ffn),
            heads: self.heads.unwrap_or(base.heads),
            channels: channels + beside,
            out_channels: channels,
            patch: self.patch.unwrap_or(base.patch),
            text: text.map_or(base.text, |text| text.width),
            text_tokens: self.text_tokens.unwrap_or(base.text_tokens),
            ..base
        };
        Ok(config.into())
    }
}
