//! The settings of training.

use crate::TrainError;
use kinora_data::Bucket;
use kinora_flow::{Path, Times};
use kinora_shard::Recompute;
use serde::{Deserialize, Serialize};

/// The `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in all.
    pub steps: u64,
    /// Micro-batches a step; each holds an equal share of the global batch.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The share of samples trained without their caption, for guidance.
    pub caption_dropout: f64,
    /// Steps between checkpoints; one is always written at the end.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between preview videos; 0 makes none.
    pub preview_every: u64,
    /// Which blocks are computed again in the backward pass instead of keeping their activations:
    /// "none", "all", or { first = 8 }.
    #[serde(default)]
    pub recompute: Recompute,
    /// The path from noise to data.
    #[serde(default)]
    pub path: Path,
    /// The times that training visits.
    #[serde(default)]
    pub times: Times,
    /// The optimizer.
    pub optim: OptimConfig,
}

fn one() -> usize {
    1
}

/// The `[train.optim]` table: AdamW, its schedule, and the average of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// The highest learning rate.
    pub lr: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Which weights decay.
    #[serde(default)]
    pub decays: Decays,
    /// The gradient's norm is clipped to this.
    pub clip: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// What the rate does after the warm-up.
    pub decay: Decay,
    /// The decay of the average of weights, which is what generates.
    pub ema: f64,
    /// Whether the average forgets faster in the first steps, so that it is not that of the start.
    /// Beside weights that were trained before, the start is as good as what follows.
    #[serde(default = "yes")]
    pub ema_warmup: bool,
}

fn yes() -> bool {
    true
}

/// Which weights decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decays {
    /// Tensors of two dimensions or more: not biases, and not norms.
    #[default]
    Matrices,
    /// All, as PyTorch's optimizer does unless told otherwise.
    All,
}

/// Constant up to `from`, then linear down to `to` of the highest rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// The share of all steps at which the decay starts, 0..=1.
    pub from: f64,
    /// The share of the highest rate at the end, 0..=1.
    pub to: f64,
}

impl TrainConfig {
    /// Checks that every bucket's batch can be shared evenly by `shares` data groups and their
    /// micro-batches, or results would depend on the mesh.
    ///
    /// # Errors
    /// [`TrainError::Batch`] for the first that cannot.
    pub fn check_batches(&self, buckets: &[Bucket], shares: usize) -> Result<(), TrainError> {
        let accumulate = self.accumulate;
        match buckets
            .iter()
            .find(|bucket| bucket.batch % (shares * accumulate) != 0)
        {
            Some(bucket) => {
                let (batch, bucket) = (bucket.batch, bucket.to_string());
                Err(TrainError::Batch {
                    batch,
                    bucket,
                    shares,
                    accumulate,
                })
            }
            None => Ok(()),
        }
    }
}

impl OptimConfig {
    /// How much of the average a step keeps, counted from 1.
    pub fn keep(&self, step: u64) -> f64 {
        let warm = step as f64 / (step as f64 + 10.0);
        if self.ema_warmup {
            self.ema.min(warm)
        } else {
            self.ema
        }
    }

    /// The learning rate of a step, counted from 1, of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = if self.warmup == 0 {
            1.0
        } else {
            step as f64 / self.warmup as f64
        };
        let from = self.decay.from * steps as f64;
        let left = (steps as f64 - step as f64) / (steps as f64 - from).max(1.0);
        let decay = self.decay.to + (1.0 - self.decay.to) * left.clamp(0.0, 1.0);
        self.lr * warm.min(1.0) * decay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_stays_and_decays() {
        let optim = OptimConfig {
            lr: 2.0,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            warmup: 10,
            decay: Decay { from: 0.5, to: 0.1 },
            ema: 0.99,
            decays: Decays::Matrices,
            ema_warmup: true,
        };
        let rate = |step| optim.rate(step, 100);
        assert!((rate(1) - 0.2).abs() < 1e-12);
        assert_eq!(rate(10), 2.0);
        assert_eq!(rate(50), 2.0);
        assert!((rate(75) - 2.0 * 0.55).abs() < 1e-12);
        assert!((rate(100) - 0.2).abs() < 1e-12);
    }
}
