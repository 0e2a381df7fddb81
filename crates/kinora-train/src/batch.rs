//! What a step trains on.

use burn::tensor::Tensor;

/// One data group's share of a step's batch, as latents.
#[derive(Clone, Debug)]
pub struct LatentBatch {
    /// The step, counted from 0, that keys noise and times.
    pub step: u64,
    /// Samples in the global batch.
    pub global: usize,
    /// The place of the first sample here in the global batch.
    pub first: u64,
    /// Latents `[B, C, T, H, W]`, f32, on a plain device.
    pub latents: Tensor<5>,
    /// One caption a sample.
    pub captions: Vec<String>,
    /// Whether the samples are images.
    pub image: bool,
    /// The epoch of the last sample.
    pub epoch: u64,
    /// Clips that could not be decoded so far, in this data group.
    pub skipped: u64,
}
