//! The solver's loop over the sharded model.

use crate::SampleConfig;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_flow::{euler_step, guide};
use kinora_mesh::rng::Stream;
use kinora_models::Denoiser;
use kinora_shard::Group;
use std::ops::Range;

/// Samples a model: every rank calls it with the same prompts, and gets the same latents.
pub struct Sampler<'a, M> {
    /// The model, without gradients.
    pub model: &'a M,
    /// The settings.
    pub config: &'a SampleConfig,
    /// The device of the model.
    pub device: &'a Device,
    /// The dtype of latents between steps.
    pub dtype: DType,
    /// The two ranks that share out the passes of guidance, or this rank alone.
    pub cfg: Group,
}

/// The noise `[1, C, T, H, W]` of latent frames `frames` of video `sample`: a function of (seed,
/// sample, frame, element) alone, so that windows agree on the frames they share.
pub fn noise(seed: u64, sample: u64, frames: Range<usize>, [c, h, w]: [usize; 3]) -> Vec<f64> {
    let stream = Stream::new(seed, "sample").at(sample);
    let count = frames.len();
    let plane = h * w;
    let mut out = vec![0.0; c * count * plane];
    for (t, frame) in frames.enumerate() {
        let values = stream.at(frame as u64).normals(0..(c * plane) as u64);
        for channel in 0..c {
            let to = (channel * count + t) * plane;
            out[to..to + plane].copy_from_slice(&values[channel * plane..(channel + 1) * plane]);
        }
    }
    out
}

impl<M: Denoiser> Sampler<'_, M> {
    /// One latent `[C, T, H, W]` for each prompt, `[B, C, T, H, W]`; prompt `i` is video `first + i`
    /// of the seed. `progress` hears of each step.
    pub fn sample(
        &self,
        prompts: &[String],
        shape: [usize; 4],
        (seed, first): (u64, u64),
        mut progress: impl FnMut(usize),
    ) -> Tensor<5> {
        let [c, t, h, w] = shape;
        let start: Vec<f64> = (0..prompts.len() as u64)
            .flat_map(|i| noise(seed, first + i, 0..t, [c, h, w]))
            .collect();
        let mut x = self.tensor(start, [prompts.len(), c, t, h, w]);
        for (step, window) in self.config.schedule.times().windows(2).enumerate() {
            x = self.step(x, prompts, window[0], window[1]);
            progress(step + 1);
        }
        x
    }

    /// One step of the solver, from time `from` to time `to`.
    pub(crate) fn step(&self, x: Tensor<5>, prompts: &[String], from: f64, to: f64) -> Tensor<5> {
        let velocity = self.velocity(x.clone(), prompts, from);
        euler_step(x, velocity, from, to)
    }

    pub(crate) fn tensor(&self, values: Vec<f64>, shape: [usize; 5]) -> Tensor<5> {
        Tensor::from_data(TensorData::new(values, shape), (self.device, self.dtype))
    }

    /// The guided velocity. With and without the prompts are one pass of twice the batch, or a pass on
    /// each of two ranks.
    fn velocity(&self, x: Tensor<5>, prompts: &[String], time: f64) -> Tensor<5> {
        let b = prompts.len();
        let times = |n: usize| {
            let data = TensorData::new(vec![time; n], [n]);
            Tensor::<1>::from_data(data, (self.device, self.dtype))
        };
        if self.config.guidance == 1.0 {
            return self.model.velocity(x, times(b), prompts);
        }
        let without = vec![String::new(); b];
        let velocities = if self.cfg.size() > 1 {
            let mine = if self.cfg.rank() == 0 {
                prompts
            } else {
                &without
            };
            let velocity = self.model.velocity(x, times(b), mine);
            self.cfg.gather(velocity, 0, &[b, b], "guidance")
        } else {
            let both = [prompts, &without].concat();
            let twice = Tensor::cat(vec![x.clone(), x], 0);
            self.model.velocity(twice, times(2 * b), &both)
        };
        let with = velocities.clone().narrow(0, 0, b);
        let without = velocities.narrow(0, b, b);
        guide(with, without, self.config.guidance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_agree_on_the_noise_of_the_frames_they_share() {
        let whole = noise(3, 1, 0..6, [2, 2, 1]);
        let window = noise(3, 1, 2..5, [2, 2, 1]);
        for channel in 0..2 {
            let of_whole = &whole[(channel * 6 + 2) * 2..(channel * 6 + 5) * 2];
            assert_eq!(&window[channel * 6..(channel + 1) * 6], of_whole);
        }
        assert_ne!(noise(3, 2, 0..1, [2, 2, 1]), noise(3, 1, 0..1, [2, 2, 1]));
    }
}
