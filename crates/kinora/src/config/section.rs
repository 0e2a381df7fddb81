//! The tables that belong to no library.

use crate::failure::{Failure, Outcome};
use burn::tensor::DType;
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
