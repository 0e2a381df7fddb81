//! The embedding of the flow's time.

use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

// The sinusoids are those of DiT (Peebles and Xie 2023): periods from 1 to 10,000 steps of a
// process of 1,000 steps, cosines first.
const FREQUENCIES: usize = 128;
const LONGEST: f64 = 10_000.0;
const STEPS: f64 = 1_000.0;

/// Sinusoids, then two linear layers.
#[derive(Module, Debug)]
pub struct TimeEmbedding {
    first: Linear,
    second: Linear,
    #[module(skip)]
    frequencies: usize,
}

impl TimeEmbedding {
    /// An embedding of width `dim`, of 256 sinusoids.
    pub fn new(cx: &Cx, dim: Extent) -> Self {
        Self::with_sinusoids(cx, 2 * FREQUENCIES, dim)
    }

    /// An embedding of width `dim`, of `sinusoids` cosines and sines, an even number.
    pub fn with_sinusoids(cx: &Cx, sinusoids: usize, dim: Extent) -> Self {
        let from = Axis::Channel.of(sinusoids);
        Self {
            first: LinearConfig::new(from, dim)
                .with_bias()
                .init(&cx.at("first")),
            second: LinearConfig::new(dim, dim)
                .with_bias()
                .init(&cx.at("second")),
            frequencies: sinusoids / 2,
        }
    }

    /// Times in 0..=1, `[B]`, to `[B, 1, D]`.
    pub fn forward(&self, time: Tensor<1>) -> Tensor<3> {
        let [b] = time.dims();
        let steps: Vec<f64> = time.to_data().iter::<f64>().map(|t| t * STEPS).collect();
        self.embed(&steps, [b, 1], &time.device())
    }

    /// Times in steps, 0..=1000, `[B, S]`, one for each token, to `[B, S, D]`.
    pub fn of_steps(&self, steps: Tensor<2>) -> Tensor<3> {
        let host: Vec<f64> = steps.to_data().iter::<f64>().collect();
        self.embed(&host, steps.dims(), &steps.device())
    }

    fn embed(&self, steps: &[f64], [b, s]: [usize; 2], device: &Device) -> Tensor<3> {
        // Computed in f64: at 1,000 steps an f32 phase is off by more than a rounding error.
        let rates: Vec<f64> = (0..self.frequencies)
            .map(|i| LONGEST.powf(-(i as f64) / self.frequencies as f64))
            .collect();
        let phases = |step: f64| rates.iter().map(move |rate| step * rate);
        let sinusoids: Vec<f64> = steps
            .iter()
            .flat_map(|&step| phases(step).map(f64::cos).chain(phases(step).map(f64::sin)))
            .collect();
        let data = TensorData::new(sinusoids, [b, s, 2 * self.frequencies]);
        let sinusoids = Tensor::from_data(data, (device, self.first.dtype()));
        self.second.forward(silu(self.first.forward(sinusoids)))
    }
}
