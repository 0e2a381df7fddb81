//! Training an autoencoder on clips: each data group a share of every batch, of videos and images in
//! turn, as `data.image_ratio` says (0.25 is Movie Gen's three to one).

use crate::{
    OptimConfig, Report, TrainConfig, TrainError, Trainer, checkpoints, resumable, same_model,
    videos,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_data::{Batch, Catalog, Loader, Part};
use kinora_flow::noise;
use kinora_media::Clip;
use kinora_mesh::Axis;
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::temporal::{LossConfig, Losses, TemporalVae, TemporalVaeConfig};
use kinora_shard::{Cx, Gradients, Precision, Sharding};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// How an autoencoder is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderTraining {
    /// The model; its mean and standard deviation are measured.
    pub model: TemporalVaeConfig,
    /// The loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// Steps in all.
    pub steps: u64,
    /// Micro-batches a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Clips on which the latents' mean and standard deviation are measured, rounded up to batches.
    pub measured: usize,
    /// Steps between checkpoints; one is always written at the end.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// The optimizer, and the average of weights that is the result.
    pub optim: OptimConfig,
}

fn one() -> usize {
    1
}

/// What a step did; the same on every rank. Parts of the loss are means of the global batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoencoderReport {
    /// The step, its loss, norm and learning rate.
    pub step: Report,
    /// The distance of pixels.
    pub reconstruction: f64,
    /// The divergence from a standard Gaussian, in nats a latent element.
    pub divergence: f64,
    /// The outlier penalty; 0 where it is off.
    pub outliers: f64,
    /// Whether the batch was of images.
    pub images: bool,
}

/// Trains an autoencoder, from the newest checkpoint below `dir` if there is one, and returns that of
/// averaged weights, without gradients; every rank calls it. `progress` hears of each step.
///
/// The steps do not depend on the number of data groups, but for rounding, nor on where the training was
/// stopped and resumed.
///
/// # Errors
/// The first thing that goes wrong; see [`TrainError`].
///
/// # Panics
/// With a `CommError` as payload if a peer fails inside a graph; if the model's sizes do not fit.
pub fn train_autoencoder(
    config: &AutoencoderTraining,
    seed: u64,
    (catalog, sharding): (&Arc<Catalog>, &Arc<Sharding>),
    (device, precision): (&Device, impl Into<Precision>),
    dir: &Path,
    mut progress: impl FnMut(&AutoencoderReport),
) -> Result<TemporalVae, TrainError> {
    let precision = precision.into();
    let train = config.train();
    let (index, of) = sharding.share();
    train.check_batches(&catalog.config().buckets, of)?;
    let build = |cx: &Cx| TemporalVae::new(cx, &config.model);
    let trainer = Trainer::new(&train, seed, (device, precision), sharding, build);
    let mut job = Job {
        config,
        trainer,
        catalog,
        device,
        dtype: precision.computed,
        part: Part { index, of },
    };
    for bucket in &catalog.config().buckets {
        let shape = [bucket.frames, bucket.height, bucket.width];
        job.trainer.model().latent_shape(shape)?;
    }
    if let Some(checkpoint) = resumable(dir, catalog)? {
        same_model(&checkpoint, &json!(config.model))?;
        checkpoint.verify()?;
        job.trainer.restore(&checkpoint)?;
    }
    let mut loader = Loader::open(catalog.clone(), job.part, job.trainer.step())?;
    while job.trainer.step() < config.steps {
        let report = job.step(&loader.next()?, loader.skipped().bad)?;
        progress(&report);
        let step = report.step.step;
        if step % config.checkpoint_every == 0 && step < config.steps {
            job.save(dir, Value::Null)?;
        }
    }
    let vae = job.measured()?;
    let latents = json!({ "mean": vae.config().mean, "std": vae.config().std });
    job.save(dir, latents)?;
    Ok(vae)
}

impl AutoencoderTraining {
    /// The settings of the trainer; an autoencoder has no captions, and no path from noise.
    fn train(&self) -> TrainConfig {
        TrainConfig {
            steps: self.steps,
            accumulate: self.accumulate,
            caption_dropout: 0.0,
            checkpoint_every: self.checkpoint_every,
            keep: self.keep,
            preview_every: 0,
            recompute: Default::default(),
            path: Default::default(),
            times: Default::default(),
            optim: self.optim.clone(),
        }
    }
}

struct Job<'a> {
    config: &'a AutoencoderTraining,
    trainer: Trainer<TemporalVae>,
    catalog: &'a Arc<Catalog>,
    device: &'a Device,
    dtype: DType,
    part: Part,
}

impl Job<'_> {
    /// One step on this data group's share of a batch.
    fn step(&mut self, batch: &Batch, skipped: u64) -> Result<AutoencoderReport, TrainError> {
        let micro = batch.samples.len() / self.config.accumulate;
        let mut sums = vec![0.0; 3];
        let mut total: Option<(f64, Gradients)> = None;
        for samples in batch.samples.chunks(micro) {
            let clips: Vec<&Clip> = samples.iter().map(|sample| sample.clip()).collect();
            let positions = samples.iter().map(|sample| sample.position);
            let video = videos(&clips, self.device).cast(self.dtype);
            let eps = self.noise(batch.step, positions, &video)?;
            let model = self.trainer.model();
            let losses = model.losses(video.autodiff(), eps.autodiff(), &self.config.loss);
            // The sum over ranks of these shares is the mean of the whole batch.
            let share = samples.len() as f64 / batch.bucket.batch as f64;
            for (sum, part) in sums.iter_mut().zip(parts(&losses)) {
                *sum += part * share;
            }
            let loss = losses.total * share;
            let value = loss.clone().into_scalar::<f64>();
            let table = self.trainer.table();
            let gradients = Gradients::take(model, table, &mut loss.backward());
            total = Some(match total {
                Some((sum, all)) => (sum + value, all.plus(gradients)),
                None => (value, gradients),
            });
        }
        let found = total.expect("every data group has a share of each batch");
        let step = self.trainer.step_along(found, skipped)?;
        let sums = self.sum(sums, "parts of the loss")?;
        Ok(AutoencoderReport {
            step,
            reconstruction: sums[0],
            divergence: sums[1],
            outliers: sums[2],
            images: batch.bucket.is_image(),
        })
    }

    /// What the latents of these samples are drawn with.
    fn noise(
        &self,
        step: u64,
        positions: impl ExactSizeIterator<Item = u64>,
        video: &Tensor<5>,
    ) -> Result<Tensor<5>, TrainError> {
        let [_, _, t, h, w] = video.dims();
        let [c, t, h, w] = self.trainer.model().latent_shape([t, h, w])?;
        let shape = [positions.len(), c, t, h, w];
        let draw = |at| noise(self.trainer.seed, "posterior", step, at, c * t * h * w);
        let values: Vec<f64> = positions.flat_map(draw).collect();
        let options = (self.device, self.dtype);
        Ok(Tensor::from_data(TensorData::new(values, shape), options))
    }

    /// The averaged model, with the mean and standard deviation of its latents' means over the first
    /// clips of the data's order; images only where there are no videos.
    fn measured(&self) -> Result<TemporalVae, TrainError> {
        let vae = self.trainer.averaged().placed(self.device);
        let channels = vae.config().channels;
        let buckets = &self.catalog.config().buckets;
        let images_only = buckets.iter().all(|bucket| bucket.is_image());
        let mut loader = Loader::open(self.catalog.clone(), self.part, 0)?;
        let mut sums = vec![0.0; 1 + 2 * channels];
        let mut seen = 0;
        while seen < self.config.measured.max(1) {
            let batch = loader.next()?;
            if batch.bucket.is_image() && !images_only {
                continue;
            }
            seen += batch.bucket.batch;
            let clips: Vec<&Clip> = batch.samples.iter().map(|sample| sample.clip()).collect();
            let video = videos(&clips, self.device).cast(self.dtype);
            let mean = vae.moments(video).narrow(1, 0, channels).cast(DType::F64);
            let values = mean.swap_dims(0, 1).reshape([channels as i64, -1]);
            sums[0] += values.dims()[1] as f64;
            let powers = [values.clone(), values.square()].map(|x| x.sum_dim(1).into_data());
            for (sum, value) in sums[1..]
                .iter_mut()
                .zip(powers.iter().flat_map(|x| x.iter::<f64>()))
            {
                *sum += value;
            }
        }
        let sums = self.sum(sums, "latents' statistics")?;
        let (mean, square) = sums[1..].split_at(channels);
        let mean: Vec<f64> = mean.iter().map(|sum| sum / sums[0]).collect();
        let std = mean.iter().zip(square).map(|(mean, square)| {
            // A channel that says nothing is not to be divided by nothing.
            (square / sums[0] - mean * mean).max(1e-12).sqrt()
        });
        let std = std.collect();
        Ok(vae.with_statistics(mean, std))
    }

    fn sum(&self, values: Vec<f64>, label: &'static str) -> Result<Vec<f64>, TrainError> {
        let sharding = &self.trainer.sharding;
        let group = sharding.group(&sharding.cuts(Axis::Batch));
        Ok(group.sum(values, label)?)
    }

    fn save(&self, dir: &Path, latents: Value) -> Result<(), TrainError> {
        let meta = json!({
            "kind": "temporal autoencoder",
            "model": self.config.model,
            "data": self.catalog.fingerprint(),
            "latents": latents,
        });
        self.trainer
            .save(&checkpoints(dir), &meta, self.config.keep)?;
        Ok(())
    }
}

fn parts(losses: &Losses) -> [f64; 3] {
    let value = |part: &Tensor<1>| part.clone().into_scalar::<f64>();
    [
        value(&losses.reconstruction),
        value(&losses.divergence),
        losses.outliers.as_ref().map_or(0.0, value),
    ]
}
