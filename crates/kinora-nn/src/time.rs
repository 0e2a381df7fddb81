//! The embedding of the flow's time.

use crate::{Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Tensor, TensorData};
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
}

impl TimeEmbedding {
    /// An embedding of width `dim`.
    pub fn new(cx: &Cx, dim: Extent) -> Self {
        let sinusoids = Axis::Channel.of(2 * FREQUENCIES);
        Self {
            first: LinearConfig::new(sinusoids, dim)
                .with_bias()
                .init(&cx.at("first")),
            second: LinearConfig::new(dim, dim)
                .with_bias()
                .init(&cx.at("second")),
        }
    }

    /// Times in 0..=1, `[B]`, to `[B, 1, D]`.
    pub fn forward(&self, time: Tensor<1>) -> Tensor<3> {
        let b = time.dims()[0];
        // Computed in f64: at 1,000 steps an f32 phase is off by more than a rounding error.
        let rates: Vec<f64> = (0..FREQUENCIES)
            .map(|i| LONGEST.powf(-(i as f64) / FREQUENCIES as f64))
            .collect();
        let times: Vec<f64> = time.to_data().iter::<f64>().collect();
        let phases = |t: f64| rates.iter().map(move |rate| t * STEPS * rate);
        let sinusoids: Vec<f64> = times
            .iter()
            .flat_map(|&t| phases(t).map(f64::cos).chain(phases(t).map(f64::sin)))
            .collect();
        let data = TensorData::new(sinusoids, [b, 1, 2 * FREQUENCIES]);
        let sinusoids = Tensor::from_data(data, (&time.device(), self.first.dtype()));
        self.second.forward(silu(self.first.forward(sinusoids)))
    }
}
