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

impl LatentBatch {
    /// A number that two batches share only if they hold the same samples: of latents and captions,
    /// not of places in the data.
    pub fn fingerprint(&self) -> u64 {
        let latents = self.latents.to_data();
        let captions = self.captions.join("\u{1f}");
        let bytes = latents.as_bytes().iter().chain(captions.as_bytes());
        // FNV-1a.
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}
