//! All numbers that one rank computes of a case.

use crate::Case;
use crate::case::caption;
use burn::tensor::{Tensor, TensorData};
use kinora_generate::{Asked, SampleConfig, Sampler};
use kinora_mesh::MeshAxis;
use kinora_models::{Condition, Denoiser};
use kinora_shard::{Cx, Gradients, ParamSpec, Sharding};
use kinora_train::{TrainError, Trainer};
use std::sync::Arc;

/// What a rank computed.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which share of the global batch it took, and of how many.
    pub share: (usize, usize),
    /// One forward and backward pass for each latent shape.
    pub passes: Vec<Pass>,
    /// The loss and the gradient's norm of each step of training.
    pub steps: Vec<[f64; 2]>,
    /// The weights after training.
    pub weights: Vec<(ParamSpec, Vec<f64>)>,
    /// The latents of generated videos.
    pub generated: Option<Vec<f64>>,
    /// The fingerprint of each batch that it trained on.
    pub batches: Vec<u64>,
}

/// One forward and backward pass.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Tokens or latent elements, as errors name it.
    pub name: String,
    /// The velocities of this rank's samples.
    pub output: Vec<f64>,
    /// The gradient of their latents.
    pub input: Vec<f64>,
    /// This rank's box of each parameter's gradient.
    pub gradients: Vec<(ParamSpec, Vec<f64>)>,
}

/// Computes a case on one rank; every rank of the sharding calls it.
///
/// # Errors
/// Those of training.
///
/// # Panics
/// With a `CommError` as payload if a peer fails.
pub fn record<M: Denoiser>(case: &Case<M>, sharding: &Arc<Sharding>) -> Result<Record, TrainError> {
    let device = (&case.device, case.precision);
    let build = |cx: &Cx| (case.build)(cx);
    let mut trainer = Trainer::new(&case.config, case.seed(), device, sharding, build);
    trainer.fill(|spec| case.weights(spec));
    let passes = (0..case.latents.len() as u64).map(|i| pass(case, &trainer, i, sharding));
    let passes = passes.collect();
    let generated = case
        .sample
        .as_ref()
        .map(|config| generate(case, config, &trainer.averaged(), sharding));
    let (mut steps, mut batches) = (vec![], vec![]);
    for step in 0..case.steps {
        let batch = case.batch(step, sharding);
        batches.push(batch.fingerprint());
        let report = trainer.train(&batch)?;
        steps.push([report.loss, report.norm]);
    }
    let weights = trainer.weights();
    let specs = trainer.table().specs().iter().cloned();
    Ok(Record {
        share: sharding.share(),
        passes,
        steps,
        generated,
        weights: specs.zip(weights.iter().map(values)).collect(),
        batches,
    })
}

fn pass<M: Denoiser>(
    case: &Case<M>,
    trainer: &Trainer<M>,
    step: u64,
    sharding: &Arc<Sharding>,
) -> Pass {
    let batch = case.batch(step, sharding);
    let samples = batch.captions.len();
    let dtype = case.precision.stored;
    let [c, t, h, w] = case.latents[step as usize];
    let len = c * t * h * w;
    let of_samples = |purpose| -> Vec<f64> {
        (0..samples)
            .flat_map(|i| case.normals(purpose, step, batch.first as usize + i, len as u64))
            .collect()
    };
    let options = (&case.device, dtype);
    let shape = [samples, c, t, h, w];
    // A sum with random weights: each output element has a say of its own in each gradient.
    let say: Tensor<5> = Tensor::from_data(
        TensorData::new(of_samples("verify gradient"), shape),
        options,
    );
    let times: Vec<f64> = (0..samples)
        .map(|i| 0.1 + 0.8 * ((batch.first as usize + i) as f64 / case.global as f64))
        .collect();
    let times = Tensor::<1>::from_data(TensorData::new(times, [samples]), options);
    let latents = batch.latents.cast(dtype).autodiff().require_grad();
    let output = trainer.model().velocity(
        latents.clone(),
        times.autodiff(),
        &Condition::of_prompts(&batch.captions),
    );
    let loss = (output.clone() * say.autodiff()).sum() / (case.global * len) as f64;
    let mut gradients = loss.backward();
    let input = latents
        .grad_remove(&mut gradients)
        .expect("latents have a gradient");
    let all = Gradients::take(trainer.model(), trainer.table(), &mut gradients);
    let all = all.reduce(trainer.table(), sharding);
    let specs = trainer.table().specs().iter().cloned();
    Pass {
        name: format!("latents of {t}x{h}x{w}"),
        output: values(&output.inner()),
        input: values(&input),
        gradients: specs.zip(all.flat().iter().map(values)).collect(),
    }
}

/// Two videos with guidance; every rank gets the same.
fn generate<M: Denoiser>(
    case: &Case<M>,
    config: &SampleConfig,
    model: &M,
    sharding: &Arc<Sharding>,
) -> Vec<f64> {
    let sampler = Sampler {
        model,
        config,
        device: &case.device,
        dtype: case.precision.stored,
        cfg: sharding.group(&[MeshAxis::Cfg]),
    };
    let prompts: Vec<String> = (0..2).map(caption).collect();
    let shape = case.latents[0];
    let asked = Asked::new(&prompts, "", None);
    values(&sampler.sample(&asked, shape, (case.seed(), 0), |_| ()))
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}
