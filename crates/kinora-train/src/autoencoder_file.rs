//! Trained autoencoders as folders of `config.json` and safetensors.

use crate::{TrainError, Weights as Which};
use kinora_ckpt::{Checkpoint, Dtype, Foreign, Prefixed, Renamed, TensorSource, Weights, Writer};
use kinora_models::autoencoder::temporal::{TemporalVae, TemporalVaeConfig};
use kinora_shard::{Cx, load};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const CONFIG: &str = "config.json";

/// Writes the averaged weights of a finished training's checkpoint, and the settings with the latents'
/// statistics, into a folder; weights are rounded to `dtype`.
///
/// # Errors
/// If the checkpoint is not one of a finished training, or the folder is there or cannot be written.
pub fn write_autoencoder(
    checkpoint: Checkpoint,
    dtype: Dtype,
    folder: &Path,
) -> Result<(), TrainError> {
    let meta = checkpoint.meta();
    let mut config: TemporalVaeConfig = field(&meta["model"], "model")?;
    config.mean = field(&meta["latents"]["mean"], "latents.mean")?;
    config.std = field(&meta["latents"]["std"], "latents.std")?;
    let json = serde_json::to_vec_pretty(&config).expect("settings are plain data");
    let source = Prefixed::new(checkpoint, format!("{}/", Which::Average.prefix()));
    let params: Vec<(String, Vec<usize>)> = source
        .names()
        .into_iter()
        .map(|name| Ok((name.to_owned(), source.shape(name)?.to_vec())))
        .collect::<Result<_, TrainError>>()?;
    let writer = Writer::new(dtype).beside(CONFIG, json);
    let same = |path: &str, shape: &[usize]| Foreign::same(path, shape);
    writer.write(&source, &params, same, folder, |_, _| {})?;
    Ok(())
}

fn field<T: DeserializeOwned>(value: &Value, what: &'static str) -> Result<T, TrainError> {
    serde_json::from_value(value.clone()).map_err(|_| TrainError::Meta { what })
}

/// Reads an autoencoder that [`write_autoencoder`] wrote.
///
/// # Errors
/// If a file is missing, says what makes no autoencoder, or does not fit the others.
pub fn read_autoencoder(folder: &Path, cx: &Cx) -> Result<TemporalVae, TrainError> {
    let path = folder.join(CONFIG);
    let unreadable = |reason: String| TrainError::Autoencoder {
        path: path.clone(),
        reason,
    };
    let json = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let config: TemporalVaeConfig =
        serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
    config
        .check()
        .map_err(|error| unreadable(error.to_string()))?;
    let weights = Weights::open(folder)?;
    let open = |params: &[(String, Vec<usize>)]| {
        let same = |path: &str, shape: &[usize]| Foreign::same(path, shape);
        Ok(Arc::new(Renamed::new(weights, params, same)?) as _)
    };
    Ok(load(cx, open, |cx| TemporalVae::new(cx, &config))?)
}
