//! The solver's loop over the sharded model.

use crate::{Asked, SampleConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_flow::{Run, guide};
use kinora_mesh::rng::Stream;
use kinora_models::Denoiser;
use kinora_shard::Group;
use std::ops::Range;

/// Samples a model: every rank calls it with the same wishes, and gets the same latents.
pub struct Sampler<'a, M> {
    /// The model, without gradients.
    pub model: &'a M,
    /// The settings.
    pub config: &'a SampleConfig,
    /// The device of the model.
    pub device: &'a Device,
    /// The dtype of the model. Latents have single precision at least, whatever it is.
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
    /// One latent `[C, T, H, W]` for each wish, `[B, C, T, H, W]`; wish `i` is video `first + i`
    /// of the seed. `progress` hears of each step.
    pub fn sample(
        &self,
        asked: &Asked,
        shape: [usize; 4],
        (seed, first): (u64, u64),
        progress: impl FnMut(usize),
    ) -> Tensor<5> {
        let [c, t, h, w] = shape;
        let start: Vec<f64> = (0..asked.with.len() as u64)
            .flat_map(|i| noise(seed, first + i, 0..t, [c, h, w]))
            .collect();
        let start = self.tensor(start, [asked.with.len(), c, t, h, w]);
        self.follow(asked, start, progress)
    }

    /// The same from noise `[B, C, T, H, W]` that was drawn elsewhere.
    pub fn follow(
        &self,
        asked: &Asked,
        noise: Tensor<5>,
        mut progress: impl FnMut(usize),
    ) -> Tensor<5> {
        let [_, _, t, h, w] = noise.dims();
        let mut x = noise;
        let mut run = self.run([t, h, w]);
        while let Some(time) = run.time() {
            x = self.step(&mut run, x, asked, time, &mut progress);
        }
        x
    }

    /// The solver at its start, for latents of `[T, H, W]`.
    pub(crate) fn run(&self, latent: [usize; 3]) -> Run<5> {
        let SampleConfig {
            solver, schedule, ..
        } = self.config;
        Run::new(*solver, schedule, latent.iter().product())
    }

    /// One pass of the model and what the solver makes of it; `progress` hears of the end of a step.
    pub(crate) fn step(
        &self,
        run: &mut Run<5>,
        x: Tensor<5>,
        asked: &Asked,
        time: f64,
        progress: &mut impl FnMut(usize),
    ) -> Tensor<5> {
        let before = run.done();
        let velocity = self.velocity(x.clone(), asked, time);
        let next = run.step(x, velocity);
        if run.done() > before {
            progress(run.done());
        }
        next
    }

    /// What lies between steps adds up rounding errors, and the differences that solvers form enlarge
    /// them, so it is never narrower than single precision.
    fn precise(&self) -> DType {
        match self.dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    pub(crate) fn tensor(&self, values: Vec<f64>, shape: [usize; 5]) -> Tensor<5> {
        let data = TensorData::new(values, shape);
        Tensor::from_data(data, (self.device, self.precise()))
    }

    /// The guided velocity. With and without the wishes are one pass of twice the batch, or a pass on
    /// each of two ranks.
    fn velocity(&self, x: Tensor<5>, asked: &Asked, time: f64) -> Tensor<5> {
        let b = asked.with.len();
        // Always in 64 bits: in 32, rounding moves a thousandth of time by a part in ten thousand.
        let times = |n: usize| {
            let data = TensorData::new(vec![time; n], [n]);
            Tensor::<1>::from_data(data, (self.device, DType::F64))
        };
        if self.config.guidance == 1.0 {
            return self.model.velocity(x, times(b), &asked.with);
        }
        let velocities = if self.cfg.size() > 1 {
            let mine = if self.cfg.rank() == 0 {
                &asked.with
            } else {
                &asked.without
            };
            let velocity = self.model.velocity(x, times(b), mine);
            self.cfg.gather(velocity, 0, &[b, b], "guidance")
        } else {
            let both = asked.with.clone().and(asked.without.clone());
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
