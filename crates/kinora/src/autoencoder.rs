//! The run's autoencoder: fitted once, then read from the run's folder.

use crate::config::{AutoencoderSection, WanSection};
use crate::failure::{Failure, OrRun, Outcome};
use burn::tensor::{DType, Device};
use kinora_ckpt::{
    Checkpoint, CkptError, Dtype, Layout, Piece, Saver, TensorSource, Weights, latest, which,
};
use kinora_data::Catalog;
use kinora_mesh::rng::fnv1a;
use kinora_models::autoencoder::wan::{Tiling, WanVae, keys};
use kinora_models::autoencoder::{Autoencoder, Pca, PcaConfig};
use kinora_shard::{Cx, Sharding, Source, load};
use kinora_track::Console;
use kinora_train::checkpoints;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder(run: &Path) -> PathBuf {
    run.join("autoencoder")
}

/// An autoencoder ready to use, and what tells it from any other: latents are of use with the one that
/// made them only.
#[derive(Clone)]
pub(crate) struct Coder {
    pub(crate) autoencoder: Arc<dyn Autoencoder>,
    pub(crate) identity: String,
}

/// Reads the run's autoencoder, or the released weights that it names.
pub(crate) fn read(run: &Path, section: &AutoencoderSection, device: &Device) -> Outcome<Coder> {
    match section {
        AutoencoderSection::Wan(section) => wan(section, device),
        AutoencoderSection::Pca { .. } => {
            let pca = read_pca(run, section, device)?;
            Ok(Coder {
                identity: pca_identity(&pca),
                autoencoder: Arc::new(pca),
            })
        }
    }
}

/// Wan's autoencoder of released weights.
fn wan(section: &WanSection, device: &Device) -> Outcome<Coder> {
    let sizes = section.sizes()?;
    let cx = Cx::new(device, DType::F32, 0, &Sharding::single());
    let mut identity = String::new();
    let open = |params: &[(String, Vec<usize>)]| {
        let diffusers = |path: &str, shape: &[usize]| keys::diffusers(&sizes, path, shape);
        let original = |path: &str, shape: &[usize]| keys::original(&sizes, path, shape);
        let layouts: [(&str, Layout<'_>); 2] = [("original", &original), ("diffusers", &diffusers)];
        let (_, renamed) = which(Weights::open(&section.weights)?, params, &layouts)?;
        identity = contents(&renamed)?;
        Ok(Arc::new(renamed) as Source)
    };
    let vae = load(&cx, open, |cx| WanVae::new(cx, &sizes))?;
    let vae = match section.tile {
        // Neighbours share a quarter of a tile.
        Some(size) => vae.tiled(Tiling {
            size: [size; 2],
            stride: [size / 4 * 3; 2],
        }),
        None => vae,
    };
    Ok(Coder {
        autoencoder: Arc::new(vae),
        identity,
    })
}

/// What weights are, whatever file they are in.
fn contents(weights: &dyn TensorSource) -> Result<String, CkptError> {
    let mut sum = 0_u64;
    for name in weights.names() {
        let bytes = weights.read_whole(name)?;
        let mut all = name.as_bytes().to_vec();
        all.extend(format!("{:?}", weights.dtype(name)?).bytes());
        all.extend(bytes);
        // In whatever order names come.
        sum = sum.wrapping_add(fnv1a(&all));
    }
    Ok(format!("wan-{sum:016x}"))
}

fn read_pca(run: &Path, section: &AutoencoderSection, device: &Device) -> Outcome<Pca> {
    let folder = folder(run);
    let path = latest(&folder)?.ok_or_else(|| {
        Failure::input(format!(
            "{} holds no autoencoder\n  help: train the run first",
            folder.display()
        ))
    })?;
    let checkpoint = Checkpoint::open(&path)?;
    checkpoint.verify()?;
    let (config, _) = section.pca().expect("principal components are read");
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
        let numbers = checkpoint.dtype(name)?.numbers(&bytes);
        Ok(numbers.into_iter().map(|x| x as f32).collect())
    };
    let parts = [
        floats("mean")?,
        floats("basis")?,
        floats("scale")?,
        floats("explained")?,
    ];
    Pca::from_parts(&config, parts, device).map_err(|error| Failure::Input(error.into()))
}

fn pca_identity(pca: &Pca) -> String {
    let mut bytes = Vec::new();
    for (name, shape, data) in pca.parts() {
        bytes.extend(format!("{name}{shape:?}").bytes());
        bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
    }
    format!("pca-{:016x}", fnv1a(&bytes))
}

/// Copies the autoencoder of a run or an encoded data set into a run that has none.
pub(crate) fn adopt(from: &Path, run: &Path) -> Outcome {
    let (from, to) = (folder(from), folder(run));
    if latest(&to)?.is_some() {
        return Ok(());
    }
    let Some(checkpoint) = latest(&from)? else {
        return Ok(());
    };
    Checkpoint::open(&checkpoint)?.verify()?;
    let name = checkpoint.file_name().unwrap_or_default();
    // Under a hidden name first, so that it is there whole or not at all.
    let partial = to.join(format!(".copy-{}", std::process::id()));
    let copied = fs::create_dir_all(&partial).and_then(|()| {
        for entry in fs::read_dir(&checkpoint)? {
            let entry = entry?;
            fs::copy(entry.path(), partial.join(entry.file_name()))?;
        }
        fs::rename(&partial, to.join(name))
    });
    copied.or_run()
}

/// Takes over the autoencoder that made the latents which a run is to train on.
pub(crate) fn of_latents(
    run: &Path,
    section: &AutoencoderSection,
    catalog: &Catalog,
    device: &Device,
) -> Outcome<Coder> {
    let sets = catalog.config().all_sets();
    let paths = sets.iter().flat_map(|set| &set.paths);
    for path in paths.map(Path::new).filter(|path| path.is_dir()) {
        adopt(path, run)?;
    }
    if section.pca().is_some() && latest(&folder(run))?.is_none() {
        return Err(Failure::input(format!(
            "data.latents needs the autoencoder that made them, and {} holds none\n  help: copy the folder autoencoder of the encoded data set there",
            run.display()
        )));
    }
    let coder = read(run, section, device)?;
    let (is, was) = (&coder.identity, catalog.autoencoder());
    if was != Some(is.as_str()) {
        return Err(Failure::input(format!(
            "the latents were made by the autoencoder {}, but {} holds {is}\n  help: train into another folder, or encode the data with this one",
            was.unwrap_or("of nobody"),
            run.display()
        )));
    }
    Ok(coder)
}

/// Reads an autoencoder that was taken over, whatever data it was fitted on, or fits one.
pub(crate) fn adopted_or_fit(
    folder_of: &Path,
    section: &AutoencoderSection,
    catalog: &Arc<Catalog>,
    device: &Device,
    console: Console,
) -> Outcome<Coder> {
    match latest(&folder(folder_of))? {
        Some(_) => read(folder_of, section, device),
        None => read_or_fit(folder_of, section, catalog, device, console),
    }
}

/// Reads the run's autoencoder, or fits it on the data and stores it.
pub(crate) fn read_or_fit(
    run: &Path,
    section: &AutoencoderSection,
    catalog: &Arc<Catalog>,
    device: &Device,
    console: Console,
) -> Outcome<Coder> {
    if catalog.config().latents {
        return of_latents(run, section, catalog, device);
    }
    let Some((config, samples)) = section.pca() else {
        // Its weights are given: there is nothing to fit.
        return read(run, section, device);
    };
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
