//! The `[autoencoder]` table.

use crate::failure::{Failure, OrInput, OrRun, Outcome};
use kinora_data::{Bucket, DataConfig};
use kinora_models::VideoConfig;
use kinora_models::autoencoder::wan::WanVaeConfig;
use kinora_models::autoencoder::{PcaConfig, ShapeError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What makes latents of videos.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum AutoencoderSection {
    /// Principal components of spacetime patches, fitted on the training data.
    Pca {
        /// Pixels of a latent element along frames, height and width.
        patch: [usize; 3],
        /// Components, the channels of the latent.
        channels: usize,
        /// Components are divided by this power of their standard deviation.
        whiten: f64,
        /// Videos that the components are fitted on.
        samples: usize,
    },
    /// Wan's causal autoencoder, of released weights.
    Wan(WanSection),
}

/// Which weights, and how they are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WanSection {
    /// "2.1" or "2.2"; a folder of diffusers' says its sizes itself.
    #[serde(default = "first")]
    version: String,
    /// A .safetensors or .pth file, or diffusers' folder.
    pub(crate) weights: PathBuf,
    /// Pictures larger than this many pixels are cut into tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tile: Option<usize>,
}

fn first() -> String {
    "2.1".into()
}

impl WanSection {
    /// The sizes: those of `config.json` beside the weights, or of the version.
    pub(crate) fn sizes(&self) -> Outcome<WanVaeConfig> {
        let beside = if self.weights.is_dir() {
            Some(self.weights.as_path())
        } else {
            self.weights.parent()
        };
        let file = beside.map(|folder| folder.join("config.json"));
        if let Some(file) = file.filter(|file| is_diffusers(file)) {
            let text = fs::read(&file).or_run()?;
            let mut json = serde_json::Deserializer::from_slice(&text);
            return WanVaeConfig::from_diffusers(&mut json).map_err(|error| {
                Failure::input(format!(
                    "{}: {error}\n  help: it should be that of diffusers' AutoencoderKLWan",
                    file.display()
                ))
            });
        }
        match self.version.as_str() {
            "2.1" => Ok(WanVaeConfig::wan21()),
            "2.2" => Ok(WanVaeConfig::wan22()),
            other => Err(Failure::input(format!(
                "autoencoder.version = \"{other}\"\n  help: use \"2.1\" or \"2.2\""
            ))),
        }
    }

    fn check(&self) -> Outcome {
        // Neighbours share a quarter of a tile, which must be whole latents.
        let step = 4 * self.sizes()?.scale()[1];
        match self.tile {
            Some(tile) if tile == 0 || !tile.is_multiple_of(step) => Err(Failure::input(format!(
                "autoencoder.tile = {tile}\n  help: use a multiple of {step} pixels, such as {}",
                8 * step
            ))),
            _ => Ok(()),
        }
    }
}

fn is_diffusers(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.contains("AutoencoderKLWan")
}

impl AutoencoderSection {
    /// Channels of a latent.
    pub(crate) fn channels(&self) -> Outcome<usize> {
        match self {
            Self::Pca { channels, .. } => Ok(*channels),
            Self::Wan(wan) => Ok(wan.sizes()?.channels),
        }
    }

    /// The latent of a clip of frames, height and width, if its sides divide.
    pub(crate) fn latent(&self, size: [usize; 3]) -> Option<[usize; 3]> {
        self.grid(size).ok()?.ok()
    }

    fn grid(&self, size: [usize; 3]) -> Outcome<Result<[usize; 3], ShapeError>> {
        if let Some((pca, _)) = self.pca() {
            if pca.patch.contains(&0) {
                return Err(empty());
            }
            return Ok(pca.grid(size));
        }
        let Self::Wan(wan) = self else {
            unreachable!("the other kind is above");
        };
        Ok(wan.sizes()?.grid(size))
    }

    /// The settings of principal components, and how many videos they are fitted on.
    pub(crate) fn pca(&self) -> Option<(PcaConfig, usize)> {
        let Self::Pca {
            patch,
            channels,
            whiten,
            samples,
        } = *self
        else {
            return None;
        };
        let config = PcaConfig {
            patch,
            channels,
            whiten,
        };
        Some((config, samples))
    }

    fn check_pca(pca: &PcaConfig, samples: usize) -> Outcome {
        if pca.patch.contains(&0) || pca.channels == 0 || samples == 0 {
            return Err(empty());
        }
        if pca.patch.iter().any(|&side| side > 1024)
            || !(0.0..=1.0).contains(&pca.whiten)
            || samples > 1 << 20
        {
            return Err(Failure::input(format!(
                "autoencoder.patch = {:?}, whiten = {}, samples = {samples}\n  help: sides are at most 1024, whiten is 0 to 1, samples at most 1048576",
                pca.patch, pca.whiten
            )));
        }
        let most = 3 * pca.patch.iter().product::<usize>();
        if pca.channels > most {
            return Err(Failure::input(format!(
                "autoencoder.channels = {}, but a patch of {:?} has {most} numbers\n  help: use at most {most}",
                pca.channels, pca.patch
            )));
        }
        Ok(())
    }

    /// Checks that the buckets fit the autoencoder, and the latents the model; gives the latents.
    pub(crate) fn check(
        &self,
        data: &DataConfig,
        video: &VideoConfig,
    ) -> Outcome<Vec<(Bucket, [usize; 3])>> {
        if let Some((pca, samples)) = self.pca() {
            Self::check_pca(&pca, samples)?;
        }
        if let Self::Wan(wan) = self {
            wan.check()?;
        }
        let mut latents = vec![];
        for bucket in &data.buckets {
            let size = [bucket.frames, bucket.height, bucket.width];
            let latent = self.grid(size)?.or_input()?;
            let (patch, limit) = (video.patch(), video.max_latent());
            if let Some(limit) = limit.filter(|limit| (0..3).any(|i| latent[i] > limit[i])) {
                return Err(Failure::input(format!(
                    "{bucket} become latents of {latent:?}, but model.max_latent is {limit:?}\n  help: raise model.max_latent, or change the bucket"
                )));
            }
            if (0..3).any(|i| latent[i] % patch[i] != 0) {
                return Err(Failure::input(format!(
                    "{bucket} become latents of {latent:?}, which are no whole patches of {patch:?}\n  help: change the bucket, or model.patch"
                )));
            }
            latents.push((*bucket, latent));
        }
        Ok(latents)
    }
}

fn empty() -> Failure {
    Failure::input(
        "a size in [autoencoder] is 0\n  help: patch, channels and samples are at least 1",
    )
}
