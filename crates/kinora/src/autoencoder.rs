//! The run's autoencoder: fitted once, then read from the run's folder.

use crate::config::AutoencoderSection;
use crate::failure::{Failure, Outcome};
use burn::tensor::Device;
use kinora_ckpt::{Checkpoint, Dtype, Piece, Saver, TensorSource, latest};
use kinora_data::Catalog;
use kinora_models::autoencoder::{Pca, PcaConfig};
use kinora_track::Console;
use kinora_train::checkpoints;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(run: &Path) -> PathBuf {
    run.join("autoencoder")
}

/// Reads the run's autoencoder.
pub(crate) fn read(run: &Path, section: &AutoencoderSection, device: &Device) -> Outcome<Pca> {
    let folder = folder(run);
    let path = latest(&folder)?.ok_or_else(|| {
        Failure::input(format!(
            "{} holds no autoencoder\n  help: train the run first",
            folder.display()
        ))
    })?;
    let checkpoint = Checkpoint::open(&path)?;
    checkpoint.verify()?;
    let (config, _) = section.pca();
    let stored: Option<PcaConfig> =
        serde_json::from_value(checkpoint.meta()["config"].clone()).ok();
    if stored.as_ref() != Some(&config) {
        return Err(Failure::input(format!(
            "{} was fitted with other settings than [autoencoder] has now\n  help: restore the settings, or train into another folder",
            path.display()
        )));
    }
    let floats = |name: &str| -> Outcome<Vec<f32>> {
        let bytes = checkpoint.read_whole(name)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    };
    let parts = [
        floats("mean")?,
        floats("basis")?,
        floats("scale")?,
        floats("explained")?,
    ];
    Pca::from_parts(&config, parts, device).map_err(|error| Failure::Input(error.into()))
}

/// Reads the run's autoencoder, or fits it on the data and stores it.
pub(crate) fn read_or_fit(
    run: &Path,
    section: &AutoencoderSection,
    catalog: &Arc<Catalog>,
    device: &Device,
    console: Console,
) -> Outcome<Pca> {
    let (config, samples) = section.pca();
    let meta = json!({
        "kind": "pca",
        "config": config,
        "samples": samples,
        "data": catalog.fingerprint(),
    });
    let trained = latest(&checkpoints(run))?.is_some();
    if let Some(path) = latest(&folder(run))? {
        let stored = Checkpoint::open(&path)?;
        if *stored.meta() == meta {
            return read(run, section, device);
        }
        // Weights were trained on its latents, so it cannot be replaced under them.
        if trained {
            return Err(Failure::input(format!(
                "{} was fitted on other data or with other settings:\n  it was {}\n  it is {meta}\n  help: restore them, or train into another folder",
                path.display(),
                stored.meta()
            )));
        }
    }
    if trained {
        // Says what is missing.
        return read(run, section, device);
    }
    let bar = console.progress(samples as u64, "fitting the autoencoder, video");
    let pca = kinora_train::fit_pca(catalog, &config, samples, device, |done| {
        bar.at(done as u64)
    })?;
    bar.finish();
    let pieces: Vec<Piece> = pca
        .parts()
        .into_iter()
        .map(|(name, shape, data)| Piece {
            name: name.to_string(),
            offset: vec![0; shape.len()],
            extent: shape.clone(),
            shape,
            dtype: Dtype::F32,
            bytes: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
        .collect();
    let saver = Saver::begin(&folder(run), 0, 0)?;
    saver.write_part(&pieces)?;
    saver.commit(&meta, 1)?;
    // What was stored is what is used, in this run and in all that go on from it.
    read(run, section, device)
}
