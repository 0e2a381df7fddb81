//! One training step: noise, loss, gradients, reduction, update.

use crate::{AdamW, Decays, LatentBatch, TrainConfig, TrainError};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_flow::noise;
use kinora_mesh::rng::Stream;
use kinora_models::{Condition, Denoiser, PromptEncoder};
use kinora_shard::{Cx, Gradients, ParamSpec, ParamTable, Precision, Sharding};
use std::convert::Infallible;
use std::sync::Arc;

/// A model in training on one rank: its part of the weights, their average, and the optimizer.
pub struct Trainer<M> {
    pub(crate) config: TrainConfig,
    pub(crate) seed: u64,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    pub(crate) sharding: Arc<Sharding>,
    pub(crate) model: M,
    pub(crate) encoder: Option<Arc<dyn PromptEncoder>>,
    pub(crate) table: ParamTable,
    pub(crate) optimizer: AdamW,
    pub(crate) average: Vec<Tensor<1>>,
    pub(crate) step: u64,
}

/// Samples somewhere between noise and data, and where the path leads from there.
#[derive(Clone, Debug)]
pub struct Point {
    /// `[B, C, T, H, W]`.
    pub at: Tensor<5>,
    /// `[B]`, 0 for noise to 1 for data.
    pub time: Tensor<1>,
    /// The velocity that the model should find, like `at`.
    pub target: Tensor<5>,
    /// What is wanted of each sample.
    pub given: Condition,
}

/// What a step did; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The step, counted from 1.
    pub step: u64,
    /// The mean loss of the global batch.
    pub loss: f64,
    /// The gradient's norm before clipping.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
    /// Clips that could not be decoded so far, in all data groups.
    pub skipped: u64,
}

impl<M: Module> Trainer<M> {
    /// A model at step 0, which `build` makes, on a plain device; training makes its own autodiff one
    /// of it.
    pub fn new(
        config: &TrainConfig,
        seed: u64,
        (device, precision): (&Device, impl Into<Precision>),
        sharding: &Arc<Sharding>,
        build: impl FnOnce(&Cx) -> M,
    ) -> Self {
        let build = |cx: &Cx| Ok::<M, Infallible>(build(cx));
        let Ok(trainer) = Self::try_new(config, seed, (device, precision), sharding, build);
        trainer
    }

    /// The same of a model that may fail to be made, because its weights are read.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn try_new<E>(
        config: &TrainConfig,
        seed: u64,
        (device, precision): (&Device, impl Into<Precision>),
        sharding: &Arc<Sharding>,
        build: impl FnOnce(&Cx) -> Result<M, E>,
    ) -> Result<Self, E> {
        let precision = precision.into();
        let cx = Cx::new(&device.clone().autodiff(), precision, seed, sharding)
            .recomputing(config.recompute);
        let model = build(&cx)?;
        let table = cx.table().clone();
        let params = flat_params(&model, &table);
        Ok(Self {
            config: config.clone(),
            seed,
            dtype: precision.stored,
            device: device.clone(),
            sharding: sharding.clone(),
            optimizer: AdamW::new(&params),
            average: params,
            model,
            encoder: None,
            table,
            step: 0,
        })
    }

    /// The same with a frozen text encoder, which makes texts of the captions.
    pub fn reading(self, encoder: Arc<dyn PromptEncoder>) -> Self {
        Self {
            encoder: Some(encoder),
            ..self
        }
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What is known of the parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The model in training.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// This rank's stored weights, flat, in the order of the table.
    pub fn weights(&self) -> Vec<Tensor<1>> {
        flat_params(&self.model, &self.table)
    }

    /// Sets this rank's part of every weight, and of its average, to what `values` gives for it.
    pub fn fill(&mut self, values: impl Fn(&ParamSpec) -> Vec<f64>) {
        let options = (&self.device, self.dtype);
        let flat = self.table.specs().iter().map(|spec| {
            let values = values(spec);
            let len = [values.len()];
            Tensor::from_data(TensorData::new(values, len), options)
        });
        self.average = flat.collect();
        let mut load = Load {
            table: &self.table,
            flat: &self.average,
            train: true,
        };
        self.model = self.model.clone().map(&mut load);
    }

    /// The model of averaged weights, without gradients: the one that generates.
    pub fn averaged(&self) -> M {
        let mut load = Load {
            table: &self.table,
            flat: &self.average,
            train: false,
        };
        self.model.clone().map(&mut load)
    }
}

impl<M: Denoiser> Trainer<M> {
    /// The loss of this rank's samples and its gradients, summed over the global count but not yet
    /// over ranks. `batch` is this data group's share.
    pub fn gradients(&self, batch: &LatentBatch) -> (f64, Gradients) {
        let [b, c, t, h, w] = batch.latents.dims();
        let share = b / self.config.accumulate;
        let mut total: Option<(f64, Gradients)> = None;
        for micro in 0..self.config.accumulate {
            let range = micro * share..(micro + 1) * share;
            let latents = batch
                .latents
                .clone()
                .narrow(0, range.start, share)
                .cast(self.dtype);
            let positions: Vec<u64> = range.clone().map(|i| batch.first + i as u64).collect();
            let (noise, times) = self.draw(batch.step, &positions, [c, t, h, w]);
            let captions = self.drop_captions(batch.step, &positions, &batch.captions[range]);
            let path = self.config.path;
            let at = path.at(latents.clone(), noise.clone(), times.clone());
            let target = path.velocity(latents, noise);
            let encode = |encoder: &Arc<dyn PromptEncoder>| encoder.encode(&captions);
            let given = Condition {
                texts: self.encoder.as_ref().map_or(vec![], encode),
                prompts: captions,
                ..Condition::default()
            };
            let point = Point {
                at,
                time: times,
                target,
                given,
            };
            let (value, gradients) = self.gradients_at(point, batch.global);
            total = Some(match total {
                Some((sum, all)) => (sum + value, all.plus(gradients)),
                None => (value, gradients),
            });
        }
        total.expect("a step has at least one micro-batch")
    }

    /// The same at points of the path that were chosen elsewhere; the global batch has `global` samples.
    pub fn gradients_at(&self, point: Point, global: usize) -> (f64, Gradients) {
        let Point {
            at,
            time,
            target,
            given,
        } = point;
        let each: usize = target.dims()[1..].iter().product();
        let velocity = self.model.velocity(at.autodiff(), time.autodiff(), &given);
        // A local sum over a global count: the sum over ranks is the mean of the whole batch. Multiplied,
        // because Burn takes the gradient of a division by a number in 32 bits.
        let share = ((global * each) as f64).recip();
        let loss = (velocity - target.autodiff()).square().sum() * share;
        let value = loss.clone().into_scalar::<f64>();
        let gradients = Gradients::take(&self.model, &self.table, &mut loss.backward());
        (value, gradients)
    }

    /// One step on this data group's share of the global batch.
    ///
    /// # Errors
    /// If the loss is not a number, or a peer fails.
    ///
    /// # Panics
    /// With a `CommError` as payload if a peer fails inside the graph.
    pub fn train(&mut self, batch: &LatentBatch) -> Result<Report, TrainError> {
        let found = self.gradients(batch);
        self.step_along(found, batch.skipped)
    }
}

impl<M: Module> Trainer<M> {
    /// One step along this rank's loss and gradients; `skipped` clips go into the report.
    ///
    /// # Errors
    /// If the loss is not a number, or a peer fails.
    ///
    /// # Panics
    /// With a `CommError` as payload if a peer fails in the sums of gradients.
    pub fn step_along(
        &mut self,
        (loss, gradients): (f64, Gradients),
        skipped: u64,
    ) -> Result<Report, TrainError> {
        let batch_axes = self.sharding.cuts(kinora_mesh::Axis::Batch);
        let sums = vec![loss, skipped as f64];
        let sums = self.sharding.group(&batch_axes).sum(sums, "loss")?;
        let (loss, skipped) = (sums[0], sums[1] as u64);
        let gradients = gradients.reduce(&self.table, &self.sharding);
        let norm = gradients.norm(&self.table, &self.sharding)?;
        let step = self.step + 1;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(TrainError::Diverged { step, loss, norm });
        }
        let clip = self.config.optim.clip;
        let gradients = if norm > clip {
            gradients.scale(clip / norm)
        } else {
            gradients
        };
        let rate = self.config.optim.rate(step, self.config.steps);
        self.update(&gradients, step, rate);
        self.step = step;
        Ok(Report {
            step,
            loss,
            norm,
            rate,
            skipped,
        })
    }

    fn update(&mut self, gradients: &Gradients, step: u64, rate: f64) {
        let optim = self.config.optim.clone();
        let params = flat_params(&self.model, &self.table);
        let mut updated = Vec::with_capacity(params.len());
        for (index, (param, gradient)) in params.into_iter().zip(gradients.flat()).enumerate() {
            let matrix = self.table.specs()[index].layout.shape.len() > 1;
            let decay = matrix || optim.decays == Decays::All;
            let param =
                self.optimizer
                    .update(index, param, gradient.clone(), decay, (step, rate), &optim);
            let average = self.average[index].clone();
            let keep = optim.keep(step);
            self.average[index] = average * keep + param.clone() * (1.0 - keep);
            updated.push(param);
        }
        let mut load = Load {
            table: &self.table,
            flat: &updated,
            train: true,
        };
        self.model = self.model.clone().map(&mut load);
    }
}

impl<M: Denoiser> Trainer<M> {
    /// The noise `[B, C, T, H, W]` and the times `[B]` of samples of the global batch.
    fn draw(&self, step: u64, positions: &[u64], shape: [usize; 4]) -> (Tensor<5>, Tensor<1>) {
        let len = shape.iter().product();
        let noise: Vec<f64> = positions
            .iter()
            .flat_map(|&position| noise(self.seed, "noise", step, position, len))
            .collect();
        let times: Vec<f64> = positions
            .iter()
            .map(|&position| self.config.times.draw(self.seed, step, position))
            .collect();
        let [c, t, h, w] = shape;
        let options = (&self.device, self.dtype);
        (
            Tensor::from_data(
                TensorData::new(noise, [positions.len(), c, t, h, w]),
                options,
            ),
            Tensor::from_data(TensorData::new(times, [positions.len()]), options),
        )
    }

    fn drop_captions(&self, step: u64, positions: &[u64], captions: &[String]) -> Vec<String> {
        let stream = Stream::new(self.seed, "caption dropout").at(step);
        let kept = |position: u64| stream.uniform(position) >= self.config.caption_dropout;
        positions
            .iter()
            .zip(captions)
            .map(|(&position, caption)| {
                if kept(position) {
                    caption.clone()
                } else {
                    String::new()
                }
            })
            .collect()
    }
}

/// All trained parameters of this rank, flat, without gradients, in the order of the table.
pub(crate) fn flat_params(model: &impl Module, table: &ParamTable) -> Vec<Tensor<1>> {
    struct Read<'a>(&'a ParamTable, Vec<Option<Tensor<1>>>);
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(index) = self.0.index(param.id) {
                self.1[index] = Some(param.val().inner().reshape([-1]));
            }
        }
    }
    let mut read = Read(table, vec![None; table.specs().len()]);
    model.visit(&mut read);
    let flat = read.1.into_iter().zip(table.specs());
    flat.map(|(param, spec)| {
        param.unwrap_or_else(|| panic!("parameter {} is not a field of the model", spec.path))
    })
    .collect()
}

/// Puts flat values into the trained parameters of a model.
pub(crate) struct Load<'a> {
    pub(crate) table: &'a ParamTable,
    pub(crate) flat: &'a [Tensor<1>],
    pub(crate) train: bool,
}

impl ModuleMapper for Load<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, _) = param.consume();
        let value = match self.table.index(id) {
            Some(index) => self.flat[index].clone().reshape(old.dims()),
            None if self.train => return Param::initialized(id, old),
            None => old.inner(),
        };
        let value = if self.train {
            value.autodiff().require_grad()
        } else {
            value
        };
        Param::initialized(id, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decay, OptimConfig};
    use kinora_models::bytes::BytesConfig;
    use kinora_models::movie_gen::{MovieGenConfig, TextInput};
    use kinora_models::{TextToVideo, VideoConfig};

    /// A trainer in f64 after a few steps, when no weight is zero any more, and a batch for it.
    fn trained() -> (Trainer<TextToVideo>, LatentBatch) {
        let optim = OptimConfig {
            lr: 1e-2,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            warmup: 0,
            decay: Decay { from: 1.0, to: 1.0 },
            ema: 0.9,
            decays: Default::default(),
            ema_warmup: true,
        };
        let config = TrainConfig {
            steps: 10,
            accumulate: 1,
            caption_dropout: 0.0,
            checkpoint_every: 10,
            keep: 1,
            preview_every: 0,
            recompute: Default::default(),
            path: Default::default(),
            times: Default::default(),
            optim,
        };
        let video = MovieGenConfig {
            layers: 2,
            dim: 12,
            ffn: 10,
            heads: 2,
            channels: 3,
            patch: [1, 1, 2],
            max_latent: [2, 3, 4],
            position_scale: 1.0,
            texts: vec![TextInput {
                name: "bytes".into(),
                width: 8,
            }],
        };
        let text = BytesConfig {
            width: 8,
            layers: 1,
            heads: 2,
            ffn: 6,
            windows: 11,
            max_words: 4,
        };
        let device = Device::flex();
        let sharding = Sharding::single();
        let video = VideoConfig::from(video);
        let build = |cx: &Cx| TextToVideo::new(cx, &video, Some(&text));
        let mut trainer = Trainer::new(&config, 1, (&device, DType::F64), &sharding, build);
        let data: Vec<f32> = Stream::new(5, "data")
            .normals(0..144)
            .into_iter()
            .map(|x| x as f32)
            .collect();
        let batch = LatentBatch {
            step: 0,
            global: 2,
            first: 0,
            latents: Tensor::from_data(TensorData::new(data, [2, 3, 2, 3, 4]), &device),
            captions: vec!["a red circle".into(), "two moving".into()],
            image: false,
            epoch: 0,
            skipped: 0,
        };
        for _ in 0..3 {
            trainer.train(&batch).unwrap();
        }
        (trainer, batch)
    }

    /// Every parameter's gradient is the slope of the loss along a random direction.
    #[test]
    fn gradients_are_slopes_of_the_loss() {
        let (mut trainer, batch) = trained();
        let (_, gradients) = trainer.gradients(&batch);
        let params = flat_params(&trainer.model, &trainer.table);
        for index in 0..params.len() {
            let path = trainer.table.specs()[index].path.clone();
            let len = params[index].dims()[0];
            let direction = Stream::new(2, &path).normals(0..len as u64);
            let direction = Tensor::<1>::from_data(
                TensorData::new(direction, [len]),
                (&trainer.device, DType::F64),
            );
            let mut loss = |step: f64| {
                let mut moved = params.clone();
                moved[index] = params[index].clone() + direction.clone() * step;
                let mut load = Load {
                    table: &trainer.table,
                    flat: &moved,
                    train: true,
                };
                trainer.model = trainer.model.clone().map(&mut load);
                trainer.gradients(&batch).0
            };
            let step = 1e-5;
            let slope = (loss(step) - loss(-step)) / (2.0 * step);
            let claimed = (gradients.flat()[index].clone() * direction)
                .sum()
                .into_scalar::<f64>();
            let error = (slope - claimed).abs() / slope.abs().max(1e-3);
            assert!(error < 1e-5, "{path}: slope {slope}, gradient {claimed}");
        }
    }
}
