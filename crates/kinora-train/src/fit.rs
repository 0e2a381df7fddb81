//! Fitting the closed-form autoencoder on training videos.

use crate::{TrainError, videos};
use burn::tensor::Device;
use kinora_data::{Catalog, Loader, Part};
use kinora_media::Clip;
use kinora_models::autoencoder::{Pca, PcaConfig, PcaFit};
use std::sync::Arc;

/// Fits principal components on the first `samples` videos of the data's order (images only where
/// there are no videos). `progress` hears how many have been read.
///
/// # Errors
/// Those of the data, or if the sides do not divide into patches.
pub fn fit_pca(
    catalog: &Arc<Catalog>,
    config: &PcaConfig,
    samples: usize,
    device: &Device,
    mut progress: impl FnMut(usize),
) -> Result<Pca, TrainError> {
    let images_only = catalog
        .config()
        .buckets
        .iter()
        .all(|bucket| bucket.is_image());
    let mut loader = Loader::open(catalog.clone(), Part { index: 0, of: 1 }, 0)?;
    let mut fit = PcaFit::new(config, device);
    let mut seen = 0;
    while seen < samples {
        let batch = loader.next()?;
        if batch.bucket.is_image() && !images_only {
            continue;
        }
        let clips: Vec<&Clip> = batch
            .samples
            .iter()
            .map(|sample| sample.clip())
            .take(samples - seen)
            .collect();
        fit.add(videos(&clips, device))?;
        seen += clips.len();
        progress(seen);
    }
    Ok(fit.finish(device))
}
