//! The loop: batches to steps, with records, checkpoints and previews.

use crate::{LatentBatch, Source, TrainConfig, TrainError, Trainer};
use burn::tensor::Device;
use kinora_ckpt::{Checkpoint, CkptError, latest};
use kinora_data::{Catalog, Identity};
use kinora_models::autoencoder::Autoencoder;
use kinora_models::bytes::BytesConfig;
use kinora_models::{PromptEncoder, TextToVideo, VideoConfig};
use kinora_shard::{Cx, Precision, Sharding};
use kinora_track::{Console, Tracker};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What makes a model.
pub type Build = Arc<dyn Fn(&Cx) -> Result<TextToVideo, CkptError> + Send + Sync>;

/// What makes a rank's part of a frozen text encoder, on its device.
pub type BuildEncoder =
    Arc<dyn Fn(&Arc<Sharding>, &Device) -> Result<Arc<dyn PromptEncoder>, CkptError> + Send + Sync>;

/// All that a training run needs, ready to use.
#[derive(Clone)]
pub struct Run {
    /// The run's folder.
    pub dir: PathBuf,
    /// The `[train]` table.
    pub config: TrainConfig,
    /// Makes the model, with weights that are drawn or read, and frozen or not.
    pub build: Build,
    /// What tells the model from any other: its checkpoints name it.
    pub model: Value,
    /// Makes the frozen text encoder, if the model reads one.
    pub encoder: Option<BuildEncoder>,
    /// The seed of weights, noise, times and dropout.
    pub seed: u64,
    /// The data.
    pub catalog: Arc<Catalog>,
    /// The autoencoder, fitted or loaded.
    pub autoencoder: Arc<dyn Autoencoder>,
    /// The device of this rank.
    pub device: Device,
    /// What weights are stored in, and what is computed in.
    pub precision: Precision,
    /// What shows progress.
    pub console: Console,
}

/// What a run does besides training.
pub trait Hooks: Sync {
    /// Makes preview videos with the averaged model; every rank calls it.
    ///
    /// # Errors
    /// Anything that should stop the run, in words.
    fn preview(
        &self,
        model: &TextToVideo,
        encoder: Option<&dyn PromptEncoder>,
        step: u64,
        sharding: &Arc<Sharding>,
    ) -> Result<(), String>;
}

/// How a run ended; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The last step.
    pub step: u64,
    /// The step it went on from, 0 for a new run.
    pub from: u64,
    /// The mean loss of the last hundred steps.
    pub loss: f64,
    /// Seconds of training.
    pub seconds: f64,
}

// One line of metrics.jsonl.
#[derive(Serialize)]
struct Row {
    step: u64,
    // Since the run was started or resumed.
    session_seconds: f64,
    loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_video: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_image: Option<f64>,
    lr: f64,
    grad_norm: f64,
    samples_per_second: f64,
    tokens_per_second: f64,
    step_seconds: f64,
    // From the end of the step before until the ranks hold the batch and agree on it.
    data_seconds: f64,
    // Of these, how long the first rank waited for a batch to be made.
    wait_seconds: f64,
    epoch: u64,
    skipped: u64,
    // The fingerprint of each data group's batch.
    batches: Vec<String>,
}

/// The folder of a run's checkpoints.
pub fn checkpoints(dir: &Path) -> PathBuf {
    dir.join("checkpoints")
}

/// Trains, from the newest checkpoint of the run's folder if it holds one; every rank calls it.
///
/// # Errors
/// The first thing that goes wrong; see [`TrainError`].
///
/// # Panics
/// With a `CommError` as payload if a peer fails inside a graph.
pub fn train(
    run: &Run,
    sharding: &Arc<Sharding>,
    hooks: &dyn Hooks,
) -> Result<Outcome, TrainError> {
    let config = &run.config;
    config.check_batches(&run.catalog.config().buckets, sharding.share().1)?;
    let device = (&run.device, run.precision);
    let build = |cx: &Cx| (run.build)(cx);
    let mut trainer = Trainer::try_new(config, run.seed, device, sharding, build)?;
    let encoder = run.encoder.as_ref();
    let encoder = encoder
        .map(|build| build(sharding, &run.device))
        .transpose()?;
    if let Some(encoder) = &encoder {
        trainer = trainer.reading(encoder.clone());
    }
    let root = checkpoints(&run.dir);
    let from = match resumable(&run.dir, &run.catalog)? {
        Some(checkpoint) => {
            same_model(&checkpoint, &run.model)?;
            trainer.restore(&checkpoint)?;
            trainer.step()
        }
        None => 0,
    };
    // Nobody may begin a save before all have read.
    sharding.world().barrier("checkpoint read")?;
    let meta = json!({
        "data": run.catalog.fingerprint(),
        "model": run.model,
        "seed": run.seed,
        "mesh": sharding.mesh(),
    });
    let mut records = Records::open(run, from, sharding.rank())?;
    let mut source = Source::open(&run.catalog, sharding, from, &run.autoencoder, &run.device)?;
    let mut skipped = 0;
    let mut repeated = false;
    while trainer.step() < config.steps {
        let started = Instant::now();
        let world = sharding.world();
        world.at(&format!("step {}, loading its batch", trainer.step() + 1));
        let batch = source.next()?;
        let end = batch.first + batch.captions.len() as u64;
        let samples = format!("samples {}..{end} of the batch", batch.first);
        world.at(&format!("step {}, {samples}", trainer.step() + 1));
        let batches = source.agree(&batch, sharding)?;
        let distinct: BTreeSet<&u64> = batches.iter().collect();
        if distinct.len() < batches.len() && !repeated {
            // Equal clips may be in the data twice, so this is said, and does not end the run.
            records.note(&format!(
                "step {}: data groups hold the same samples",
                batch.step + 1
            ))?;
            repeated = true;
        }
        let data_seconds = started.elapsed().as_secs_f64();
        let report = trainer.train(&batch)?;
        let times = [
            started.elapsed().as_secs_f64(),
            data_seconds,
            source.waited(),
        ];
        records.step(&batch, report, times, &batches, trainer.model().config())?;
        if report.skipped > skipped {
            skipped = report.skipped;
            for skip in source.newly_skipped()? {
                records.note(&skip)?;
            }
        }
        let step = report.step;
        let last = step == config.steps;
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || last);
        if due(config.checkpoint_every) || last {
            world.at(&format!("saving step {step}"));
            trainer.save(&root, &meta, config.keep)?;
        }
        if due(config.preview_every) {
            world.at(&format!("previews of step {step}"));
            let preview = hooks.preview(&trainer.averaged(), encoder.as_deref(), step, sharding);
            preview.map_err(TrainError::Sample)?;
        }
    }
    records.finish(trainer.step(), from)
}

/// The file of a run's folder that holds the [`Identity`] of its data.
pub const DATA_FILE: &str = "data.json";

/// The newest checkpoint of a run's folder, if there is one, which must be of these data.
///
/// # Errors
/// If it is not whole, or of other data.
pub fn resumable(dir: &Path, catalog: &Catalog) -> Result<Option<Checkpoint>, TrainError> {
    let Some(path) = latest(&checkpoints(dir))? else {
        return Ok(None);
    };
    let checkpoint = Checkpoint::open(&path)?;
    let was = checkpoint.meta()["data"]
        .as_str()
        .ok_or(TrainError::Meta { what: "data" })?;
    let is = catalog.identity();
    if was != is.fingerprint() {
        // The checkpoint holds a hash; what it is the hash of lies beside it.
        let recorded = fs::read(dir.join(DATA_FILE)).ok();
        let recorded = recorded.and_then(|json| serde_json::from_slice::<Identity>(&json).ok());
        let changes = match recorded.filter(|recorded| recorded.fingerprint() == was) {
            Some(recorded) => recorded.changes(&is),
            None => vec![
                format!("it was {was}"),
                format!("it is {}", is.fingerprint()),
            ],
        };
        return Err(TrainError::OtherData {
            step: checkpoint.step(),
            changes,
        });
    }
    Ok(Some(checkpoint))
}

/// What makes weights those of one model and not of another: all sizes, but no number that only
/// decides how they started; and what they are beside, if they are adapters.
pub fn identity(video: &VideoConfig, text: Option<&BytesConfig>, adapters: Value) -> Value {
    let mut video = video.clone();
    if let VideoConfig::MovieGen(config) = &mut video {
        config.position_scale = 1.0;
    }
    json!({ "video": video, "text": text, "adapters": adapters })
}

/// Checks that a checkpoint is of this model.
///
/// # Errors
/// [`TrainError::OtherModel`].
pub fn same_model(checkpoint: &Checkpoint, model: &Value) -> Result<(), TrainError> {
    let was = &checkpoint.meta()["model"];
    if was == model {
        return Ok(());
    }
    let (was, is) = (was.to_string(), model.to_string());
    Err(TrainError::OtherModel {
        step: checkpoint.step(),
        was,
        is,
    })
}

/// What rank 0 writes down.
struct Records {
    tracker: Option<Tracker>,
    started: Instant,
    recent: Vec<f64>,
}

impl Records {
    fn open(run: &Run, from: u64, rank: usize) -> Result<Self, TrainError> {
        let resume = (from > 0).then_some(from);
        let tracker = if rank == 0 {
            Some(Tracker::open(
                &run.dir,
                resume,
                run.config.steps,
                run.console,
            )?)
        } else {
            None
        };
        Ok(Self {
            tracker,
            started: Instant::now(),
            recent: vec![],
        })
    }

    fn step(
        &mut self,
        batch: &LatentBatch,
        report: crate::Report,
        [step_seconds, data_seconds, wait_seconds]: [f64; 3],
        batches: &[u64],
        model: &VideoConfig,
    ) -> Result<(), TrainError> {
        self.recent.push(report.loss);
        if self.recent.len() > 100 {
            self.recent.remove(0);
        }
        let Some(tracker) = &mut self.tracker else {
            return Ok(());
        };
        let [_, _, t, h, w] = batch.latents.dims();
        let tokens = batch.global * model.grid([t, h, w]).iter().product::<usize>();
        tracker.step(&Row {
            step: report.step,
            session_seconds: self.started.elapsed().as_secs_f64(),
            loss: report.loss,
            loss_video: (!batch.image).then_some(report.loss),
            loss_image: batch.image.then_some(report.loss),
            lr: report.rate,
            grad_norm: report.norm,
            samples_per_second: batch.global as f64 / step_seconds,
            tokens_per_second: tokens as f64 / step_seconds,
            step_seconds,
            data_seconds,
            wait_seconds,
            epoch: batch.epoch,
            skipped: report.skipped,
            batches: batches.iter().map(|of| format!("{of:016x}")).collect(),
        })?;
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<(), TrainError> {
        if let Some(tracker) = &mut self.tracker {
            tracker.note(text)?;
        }
        Ok(())
    }

    fn finish(self, step: u64, from: u64) -> Result<Outcome, TrainError> {
        if let Some(tracker) = self.tracker {
            tracker.finish()?;
        }
        let loss = self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64;
        Ok(Outcome {
            step,
            from,
            loss,
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}
