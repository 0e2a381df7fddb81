//! The tables that belong to no library.

use crate::failure::{Failure, OrInput, Outcome};
use burn::tensor::DType;
use kinora_data::{Bucket, DataConfig};
use kinora_models::VideoConfig;
use kinora_models::autoencoder::PcaConfig;
use kinora_shard::{DeviceKind, Precision};
use kinora_train::TrainConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The `[run]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSection {
    /// The folder that everything of the run is written to.
    pub(crate) out: PathBuf,
    /// Decides initial weights, noise, times and dropout.
    #[serde(default)]
    pub(crate) seed: u64,
    /// The numbers of weights and computation.
    #[serde(default)]
    pub(crate) dtype: Dtype,
    /// What ranks compute on: `flex` (the CPU), `cuda` (each rank the GPU of its number on its host) or
    /// `cuda:1`.
    #[serde(default)]
    pub(crate) device: DeviceKind,
    /// Threads of each rank; 0 shares the machine's cores.
    #[serde(default)]
    pub(crate) threads: usize,
    /// Seconds without a sign of life after which a rank that others wait for is given up.
    #[serde(default = "minute")]
    pub(crate) deadline: f64,
}

fn minute() -> f64 {
    60.0
}

/// The kind of number that a run computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    /// 32-bit float.
    #[default]
    F32,
    /// 64-bit float.
    F64,
    /// bfloat16, with master copies in 32 bits.
    Bf16,
}

impl Dtype {
    pub(crate) fn precision(self) -> Precision {
        match self {
            Dtype::F32 => DType::F32.into(),
            Dtype::F64 => DType::F64.into(),
            Dtype::Bf16 => Precision::MIXED,
        }
    }
}

impl RunSection {
    pub(crate) fn check(&self) -> Outcome {
        if !(5.0..1e6).contains(&self.deadline) {
            return Err(Failure::input(format!(
                "run.deadline = {} seconds\n  help: use 5 or more; 60 is the default",
                self.deadline
            )));
        }
        if self.threads > 1024 {
            return Err(Failure::input(format!(
                "run.threads = {} for each rank\n  help: use 0, which shares the machine's cores",
                self.threads
            )));
        }
        Ok(())
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs_f64(self.deadline)
    }
}

/// The `[autoencoder]` table.
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
}

impl AutoencoderSection {
    pub(crate) fn channels(&self) -> usize {
        let Self::Pca { channels, .. } = self;
        *channels
    }

    /// The latent of a clip of frames, height and width, if its sides divide.
    pub(crate) fn latent(&self, size: [usize; 3]) -> Option<[usize; 3]> {
        let (pca, _) = self.pca();
        if pca.patch.contains(&0) {
            return None;
        }
        pca.grid(size).ok()
    }

    pub(crate) fn pca(&self) -> (PcaConfig, usize) {
        let Self::Pca {
            patch,
            channels,
            whiten,
            samples,
        } = self.clone();
        (
            PcaConfig {
                patch,
                channels,
                whiten,
            },
            samples,
        )
    }

    /// Checks that the buckets fit the autoencoder, and the latents the model; gives the latents.
    pub(crate) fn check(
        &self,
        data: &DataConfig,
        video: &VideoConfig,
    ) -> Outcome<Vec<(Bucket, [usize; 3])>> {
        let (pca, samples) = self.pca();
        if pca.patch.contains(&0) || pca.channels == 0 || samples == 0 {
            return Err(Failure::input(
                "a size in [autoencoder] is 0\n  help: patch, channels and samples are at least 1",
            ));
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
        let mut latents = vec![];
        for bucket in &data.buckets {
            let [t, h, w] = pca
                .grid([bucket.frames, bucket.height, bucket.width])
                .or_input()?;
            let latent = [t, h, w];
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

/// The `[preview]` table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewSection {
    /// What the videos show.
    pub(crate) prompts: Vec<String>,
}

/// Numbers of training that make no sense.
pub(crate) fn check_train(train: &TrainConfig) -> Outcome {
    let rules = [
        (
            "train.steps",
            train.steps as f64,
            train.steps > 0,
            "at least 1",
        ),
        (
            "train.accumulate",
            train.accumulate as f64,
            train.accumulate > 0,
            "at least 1",
        ),
        (
            "train.keep",
            train.keep as f64,
            train.keep > 0,
            "at least 1",
        ),
        (
            "train.checkpoint_every",
            train.checkpoint_every as f64,
            train.checkpoint_every > 0,
            "at least 1",
        ),
        (
            "train.caption_dropout",
            train.caption_dropout,
            (0.0..1.0).contains(&train.caption_dropout),
            "0 up to, not including, 1",
        ),
        (
            "train.optim.epsilon",
            train.optim.epsilon,
            train.optim.epsilon > 0.0 && train.optim.epsilon < 1.0,
            "a small positive number; 1e-8 is usual",
        ),
        (
            "train.optim.weight_decay",
            train.optim.weight_decay,
            (0.0..10.0).contains(&train.optim.weight_decay),
            "0 or a small positive number",
        ),
        (
            "train.times.mean",
            train.times.mean,
            train.times.mean.abs() <= 10.0,
            "-10 to 10; Movie Gen has 0",
        ),
        (
            "train.optim.lr",
            train.optim.lr,
            train.optim.lr > 0.0 && train.optim.lr < 10.0,
            "a positive number",
        ),
        (
            "train.optim.clip",
            train.optim.clip,
            train.optim.clip > 0.0,
            "a positive number",
        ),
        (
            "train.optim.ema",
            train.optim.ema,
            (0.0..1.0).contains(&train.optim.ema),
            "0 up to, not including, 1",
        ),
        (
            "train.optim.betas",
            train.optim.betas[0].max(train.optim.betas[1]),
            train
                .optim
                .betas
                .iter()
                .all(|beta| (0.0..1.0).contains(beta)),
            "0 up to, not including, 1",
        ),
        (
            "train.optim.decay.from",
            train.optim.decay.from,
            (0.0..=1.0).contains(&train.optim.decay.from),
            "0 to 1",
        ),
        (
            "train.optim.decay.to",
            train.optim.decay.to,
            (0.0..=1.0).contains(&train.optim.decay.to),
            "0 to 1",
        ),
        (
            "train.path.sigma_min",
            train.path.sigma_min,
            (0.0..0.5).contains(&train.path.sigma_min),
            "0 to 0.5; Movie Gen has 1e-5",
        ),
        (
            "train.times.std",
            train.times.std,
            train.times.std > 0.0 && train.times.std.is_finite(),
            "a positive number",
        ),
    ];
    match rules.into_iter().find(|(_, _, fits, _)| !fits) {
        Some((key, value, _, help)) => Err(Failure::input(format!(
            "{key} = {value}\n  help: use {help}"
        ))),
        None => Ok(()),
    }
}
