//! The sizes in diffusers' `config.json`.

use super::WanVaeConfig;
use serde::{Deserialize, Deserializer};

// AutoencoderKLWan's own names, with its defaults.
#[derive(Deserialize)]
struct File {
    #[serde(default = "base")]
    base_dim: usize,
    decoder_base_dim: Option<usize>,
    #[serde(default = "channels")]
    z_dim: usize,
    #[serde(default = "multipliers")]
    dim_mult: Vec<usize>,
    #[serde(default = "blocks")]
    num_res_blocks: usize,
    #[serde(default = "halves")]
    temperal_downsample: Vec<bool>,
    latents_mean: Option<Vec<f64>>,
    latents_std: Option<Vec<f64>>,
    #[serde(default)]
    is_residual: bool,
    patch_size: Option<usize>,
}

fn base() -> usize {
    96
}

fn channels() -> usize {
    16
}

fn multipliers() -> Vec<usize> {
    vec![1, 2, 4, 4]
}

fn blocks() -> usize {
    2
}

fn halves() -> Vec<bool> {
    vec![false, true, true]
}

impl WanVaeConfig {
    /// From the `config.json` of diffusers' `AutoencoderKLWan`, parsed.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn from_diffusers<'de, D: Deserializer<'de>>(config: D) -> Result<Self, D::Error> {
        let file = File::deserialize(config)?;
        let standard = Self::wan21();
        Ok(Self {
            encoder_base: file.base_dim,
            decoder_base: file.decoder_base_dim.unwrap_or(file.base_dim),
            channels: file.z_dim,
            multipliers: file.dim_mult,
            blocks: file.num_res_blocks,
            halves_frames: file.temperal_downsample,
            shortcuts: file.is_residual,
            patch: file.patch_size.unwrap_or(1),
            mean: file.latents_mean.unwrap_or(standard.mean),
            std: file.latents_std.unwrap_or(standard.std),
        })
    }
}
