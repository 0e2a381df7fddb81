//! What is computed, sharded and whole.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_generate::SampleConfig;
use kinora_mesh::rng::Stream;
use kinora_shard::{Cx, ParamSpec, Precision, Sharding};
use kinora_train::{Decay, LatentBatch, OptimConfig, TrainConfig};
use std::sync::Arc;

// One in three is long: text inside the sequence must reach every rank that holds a part of it.
const CAPTIONS: [&str; 3] = [
    "a caption that is longer than the others are",
    "two",
    "a red circle",
];

/// A model, and what it is given.
#[derive(Clone)]
pub struct Case<M> {
    /// How it trains.
    pub config: TrainConfig,
    /// What weights are stored in, and what is computed in.
    pub precision: Precision,
    /// The device of every rank.
    pub device: Device,
    /// Samples of the global batch, a multiple of the data groups.
    pub global: usize,
    /// Latents, `[C, T, H, W]`: one pass is compared for each, and training takes turns.
    pub latents: Vec<[usize; 4]>,
    /// Steps of training that are compared.
    pub steps: u64,
    /// How videos are generated and compared, if they are.
    pub sample: Option<SampleConfig>,
    /// What makes the model.
    pub build: Arc<dyn Fn(&Cx) -> M + Send + Sync>,
}

const SEED: u64 = 7;

/// Training whose results say something of a plan: a norm that is counted twice, or a caption that is
/// dropped on one rank only, shows in the losses.
pub fn train_config() -> TrainConfig {
    TrainConfig {
        steps: 20,
        accumulate: 1,
        caption_dropout: 0.2,
        checkpoint_every: 20,
        keep: 1,
        preview_every: 0,
        recompute: Default::default(),
        path: Default::default(),
        times: Default::default(),
        optim: OptimConfig {
            lr: 5e-4,
            betas: [0.9, 0.99],
            // Large against the rounding of gradients near zero, whose sign Adam would follow.
            epsilon: 1e-4,
            weight_decay: 0.01,
            // Below every norm here, so that a norm counted twice shows in the weights.
            clip: 0.1,
            warmup: 3,
            decay: Decay { from: 1.0, to: 1.0 },
            ema: 0.9,
            decays: Default::default(),
            ema_warmup: true,
        },
    }
}

/// The caption of a sample of the global batch.
pub(crate) fn caption(sample: usize) -> String {
    let caption = CAPTIONS[sample % CAPTIONS.len()];
    format!("{caption} {}", sample / CAPTIONS.len())
}

impl<M> Case<M> {
    pub(crate) fn seed(&self) -> u64 {
        SEED
    }

    /// A data group's share of a step's batch.
    pub(crate) fn batch(&self, step: u64, sharding: &Sharding) -> LatentBatch {
        let (index, of) = sharding.share();
        let each = self.global / of;
        let [c, t, h, w] = self.latents[step as usize % self.latents.len()];
        let positions = index * each..(index + 1) * each;
        let len = (c * t * h * w) as u64;
        let data: Vec<f32> = positions
            .clone()
            .flat_map(|i| self.normals("data", step, i, len))
            // A mean to be learned.
            .map(|x| x as f32 + 1.5)
            .collect();
        let captions = positions.clone().map(caption);
        LatentBatch {
            step,
            global: self.global,
            first: positions.start as u64,
            latents: Tensor::from_data(TensorData::new(data, [each, c, t, h, w]), &self.device),
            captions: captions.collect(),
            image: t == 1,
            epoch: 0,
            skipped: 0,
        }
    }

    /// Numbers of a sample that do not depend on who holds it.
    pub(crate) fn normals(&self, purpose: &str, step: u64, sample: usize, len: u64) -> Vec<f64> {
        Stream::new(SEED, purpose)
            .at(step)
            .at(sample as u64)
            .normals(0..len)
    }

    /// A parameter's values: none is zero, none is silent, and queries and keys are so large that
    /// attention is far from uniform. At a model's own start a wrong ring would hardly show.
    pub(crate) fn weights(&self, spec: &ParamSpec) -> Vec<f64> {
        let stream = Stream::new(SEED, &format!("verify/{}", spec.path));
        let shape = &spec.layout.shape;
        // A sharp softmax would turn the last of bfloat16's eight bits into another result.
        let eight_bits = self.precision.computed == DType::BF16;
        let sharp = spec.path.ends_with("query.weight") || spec.path.ends_with("key.weight");
        let (mean, std) = match shape.as_slice() {
            [_] => (1.0, 0.3),
            [from, ..] => (
                0.0,
                match (sharp, eight_bits) {
                    (true, false) => 1.5,
                    (true, true) => 0.7,
                    (false, _) => 1.0,
                } * (*from as f64).powf(-0.5),
            ),
            [] => (1.0, 0.0),
        };
        let mut values = vec![];
        spec.layout.runs(|start, len| {
            let normals = stream.normals(start as u64..(start + len) as u64);
            values.extend(normals.into_iter().map(|x| mean + std * x));
        });
        values
    }
}
