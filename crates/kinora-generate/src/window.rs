//! Videos longer than the model was trained for: overlapping windows in time, blended in latent space.
//!
//! Each window follows the solver over the trained length. On the frames that it shares with the
//! window before, its point is blended at every pass with the one that that window had at the same
//! pass, in a linear ramp: MultiDiffusion (Bar-Tal et al. 2023) in one direction. What is kept is one
//! window and the shared frames' points, however long the video is.
//!
//! The blend acts on points alone. What a multistep solver remembers, its earlier guesses at the data,
//! belongs to one window: each window follows a run of its own. These guesses were made at blended
//! points, and a correction is a movement of the blended point, so the history holds nothing that the
//! blend has not seen.

use crate::sampler::noise;
use crate::{Asked, Sampler};
use burn::tensor::{Tensor, TensorData};
use kinora_models::Denoiser;

/// The latent frames of a long video, a segment at a time.
pub struct Windows<'a, M> {
    sampler: &'a Sampler<'a, M>,
    asked: &'a Asked,
    seed: u64,
    shape: [usize; 3],
    window: usize,
    total: usize,
    start: usize,
    // The points of the shared frames, `[1, C, overlap, H, W]`, at each pass and at the end.
    tail: Vec<Tensor<5>>,
}

impl<'a, M: Denoiser> Windows<'a, M> {
    /// A video of `total` latent frames of `[C, H, W]` for one wish, in windows of `window` frames.
    pub fn new(
        sampler: &'a Sampler<'a, M>,
        asked: &'a Asked,
        seed: u64,
        shape: [usize; 3],
        (window, total): (usize, usize),
    ) -> Self {
        let window = window.min(total.max(1));
        Self {
            sampler,
            asked,
            seed,
            shape,
            window,
            total,
            start: 0,
            tail: vec![],
        }
    }

    /// The number of windows.
    pub fn count(&self) -> usize {
        if self.total <= self.window {
            return 1;
        }
        let fresh = self.window - self.sampler.config.overlap;
        1 + (self.total - self.window).div_ceil(fresh)
    }

    /// The next segment `[1, C, t, H, W]`, or `None` after the last. `progress` hears of each step.
    pub fn next(&mut self, mut progress: impl FnMut(usize)) -> Option<Tensor<5>> {
        if self.start >= self.total {
            return None;
        }
        let [c, h, w] = self.shape;
        let frames = self.start..self.start + self.window;
        let start = noise(self.seed, 0, frames.clone(), self.shape);
        let mut x = self.sampler.tensor(start, [1, c, self.window, h, w]);
        let last = frames.end >= self.total;
        let overlap = self.sampler.config.overlap;
        let mut tail = vec![];
        let mut run = self.sampler.run([self.window, h, w]);
        for pass in 0.. {
            if let Some(before) = self.tail.get(pass) {
                x = blend(before.clone(), x);
            }
            if !last {
                tail.push(x.clone().narrow(2, self.window - overlap, overlap));
            }
            let Some(time) = run.time() else { break };
            x = self
                .sampler
                .step(&mut run, x, self.asked, time, &mut progress);
        }
        self.tail = tail;
        let done = if last {
            self.total - self.start
        } else {
            self.window - overlap
        };
        self.start += if last { self.window } else { done };
        Some(x.narrow(2, 0, done))
    }
}

/// The first frames of `x` fade from `before` to `x`.
fn blend(before: Tensor<5>, x: Tensor<5>) -> Tensor<5> {
    let [_, _, overlap, _, _] = before.dims();
    let frames = x.dims()[2];
    let ramp: Vec<f64> = (1..=overlap)
        .map(|i| i as f64 / (overlap + 1) as f64)
        .collect();
    let ramp = Tensor::<5>::from_data(
        TensorData::new(ramp, [1, 1, overlap, 1, 1]),
        (&x.device(), x.dtype()),
    );
    let shared = x.clone().narrow(2, 0, overlap);
    let shared = before.clone() + (shared - before) * ramp;
    Tensor::cat(vec![shared, x.narrow(2, overlap, frames - overlap)], 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SampleConfig;
    use burn::module::Module;
    use burn::tensor::{DType, Device};
    use kinora_flow::{Schedule, Solver};
    use kinora_models::Condition;
    use kinora_shard::Group;

    /// A flow that looks at each element alone.
    #[derive(Module, Debug)]
    struct Pointwise {
        #[module(skip)]
        speed: f64,
    }

    impl Denoiser for Pointwise {
        fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, _: &Condition) -> Tensor<5> {
            let time = time.reshape([-1, 1, 1, 1, 1]).cast(latent.dtype());
            latent.sin() * self.speed + time
        }
    }

    // Where the model cannot tell that a video is cut, windows are as the whole: each solver's memory
    // is of its own window, from its start.
    #[test]
    fn windows_of_a_pointwise_flow_are_the_whole_video() {
        let device = Device::flex();
        let model = Pointwise { speed: 1.5 };
        let asked = Asked::new(&[String::new()], "", None);
        for solver in [
            Solver::Euler {},
            Solver::Heun {},
            Solver::Midpoint {},
            Solver::Unipc {},
            Solver::UnipcWan {},
            Solver::DpmppWan {},
        ] {
            let config = SampleConfig {
                schedule: Schedule::Shift {
                    steps: 6,
                    shift: 3.0,
                    terminal: None,
                },
                solver,
                guidance: 1.0,
                negative: String::new(),
                overlap: 2,
            };
            let sampler = Sampler {
                model: &model,
                config: &config,
                device: &device,
                dtype: DType::F32,
                cfg: Group::alone(),
            };
            let mut steps = 0;
            let mut whole = Windows::new(&sampler, &asked, 7, [2, 3, 2], (9, 9));
            let whole = whole.next(|_| steps += 1).expect("one window");
            assert_eq!(steps, 6, "{solver:?}");

            let mut windows = Windows::new(&sampler, &asked, 7, [2, 3, 2], (4, 9));
            let mut parts = vec![];
            while let Some(part) = windows.next(|_| steps += 1) {
                parts.push(part);
            }
            assert_eq!(
                (parts.len(), steps),
                (windows.count(), 6 * (1 + parts.len()))
            );
            let apart = (Tensor::cat(parts, 2) - whole).abs().max();
            let apart = apart.into_scalar::<f32>();
            assert!(apart < 1e-5, "{solver:?}: {apart}");
        }
    }
}
