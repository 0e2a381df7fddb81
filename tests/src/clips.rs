//! Real data: a few moving shapes in shards, and whole runs on them.

use crate::fixture::{Cut, text, train_config, video};
use burn::tensor::{DType, Device};
use kinora_comm::local::{self, OnStuck, RankFailure, World};
use kinora_data::{Bucket, Catalog, DataConfig};
use kinora_models::autoencoder::{Pca, PcaConfig};
use kinora_models::movie_gen::MovieGenConfig;
use kinora_models::{PromptEncoder, TextToVideo, VideoConfig};
use kinora_shapes::ShapesConfig;
use kinora_shard::Sharding;
use kinora_track::Console;
use kinora_train::{Hooks, Outcome, Run, TrainConfig, TrainError, fit_pca, identity};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A data set, an autoencoder fitted on it, and a folder for runs; gone when dropped.
pub(crate) struct Clips {
    folder: TempDir,
    catalog: Arc<Catalog>,
    pca: Arc<Pca>,
}

/// What happens where a run would make previews: at step 8, and at its end.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    None,
    /// Every rank stops at this step.
    Stop(u64),
    /// The last rank panics at this step.
    Panic(u64),
}

impl Hooks for Hook {
    fn preview(
        &self,
        _: &TextToVideo,
        _: Option<&dyn PromptEncoder>,
        step: u64,
        sharding: &Arc<Sharding>,
    ) -> Result<(), String> {
        match self {
            Hook::Stop(at) if *at == step => Err("enough for now".to_string()),
            Hook::Panic(at) if *at == step && sharding.rank() + 1 == sharding.mesh().ranks() => {
                panic!("the preview is on fire")
            }
            _ => Ok(()),
        }
    }
}

/// Twelve steps with checkpoints at 5, 10 and 12, and hooks at 8 and 12.
fn config() -> TrainConfig {
    TrainConfig {
        steps: 12,
        checkpoint_every: 5,
        preview_every: 8,
        ..train_config()
    }
}

/// Buckets that [`Clips::make`]'s data fills.
pub(crate) fn data(folder: &Path) -> DataConfig {
    let bucket = |frames, batch| Bucket::new(frames, 32, 32, batch);
    DataConfig {
        image_ratio: Some(0.25),
        workers: 1,
        ..DataConfig::new(
            vec![folder.to_string_lossy().into_owned()],
            vec![bucket(16, 4), bucket(1, 8)],
        )
    }
}

impl Clips {
    /// Draws 24 videos and 16 images.
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shapes = ShapesConfig {
            videos: 24,
            images: 16,
            ..ShapesConfig::default()
        };
        let at = folder.path().join("data");
        kinora_shapes::make(&shapes, &at, |_, _| {}).unwrap();
        Self::of(folder, &data(&at))
    }

    /// Uses the data of a folder as `config` says.
    pub(crate) fn of(folder: TempDir, config: &DataConfig) -> Self {
        let catalog = Arc::new(Catalog::open(config).unwrap());
        let pca = PcaConfig {
            patch: [4, 8, 8],
            channels: 6,
            whiten: 0.5,
        };
        let pca = Arc::new(fit_pca(&catalog, &pca, 8, &Device::flex(), |_| {}).unwrap());
        Self {
            folder,
            catalog,
            pca,
        }
    }

    /// The folder of a run.
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same clips, chosen by another configuration.
    pub(crate) fn with(self, change: impl FnOnce(&mut DataConfig)) -> Self {
        let mut config = self.catalog.config().clone();
        change(&mut config);
        Self {
            catalog: Arc::new(Catalog::open(&config).unwrap()),
            ..self
        }
    }

    /// Trains in the folder of a run, or goes on with it; the first rank's outcome.
    pub(crate) fn train(
        &self,
        name: &str,
        cut: &Cut,
        dtype: DType,
        hook: Hook,
    ) -> Result<Outcome, Box<RankFailure<TrainError>>> {
        let video = MovieGenConfig {
            channels: 6,
            max_latent: [4, 4, 4],
            ..video()
        };
        let video = VideoConfig::from(video);
        let run = Run {
            dir: self.run(name),
            config: config(),
            model: identity(&video, Some(&text()), json!(null)),
            build: Arc::new(move |cx| Ok(TextToVideo::new(cx, &video, Some(&text())))),
            encoder: None,
            seed: 3,
            catalog: self.catalog.clone(),
            autoencoder: self.pca.clone(),
            device: Device::flex(),
            precision: dtype.into(),
            console: Console::Silent,
        };
        let deadline = Duration::from_secs(60);
        let world = World {
            deadline,
            on_stuck: OnStuck::Leak,
            ..World::new(cut.mesh.ranks(), 1)
        };
        let (mesh, plan) = (cut.mesh, cut.plan.clone());
        let outcomes = local::run(&world, move |transport| {
            kinora_train::train(&run, &Sharding::new(transport, mesh, plan.clone())?, &hook)
        });
        Ok(outcomes.map_err(Box::new)?[0])
    }
}

/// The rows of a run's `metrics.jsonl`.
pub(crate) fn rows(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

/// Step and loss of each row.
pub(crate) fn losses(run: &Path) -> Vec<(u64, f64)> {
    let rows = rows(run);
    let row = |row: &Value| (row["step"].as_u64().unwrap(), row["loss"].as_f64().unwrap());
    rows.iter().map(row).collect()
}
