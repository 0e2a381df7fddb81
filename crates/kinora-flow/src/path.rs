//! The straight path between noise and data (Lipman et al. 2022, the optimal transport path).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `x_t = t data + (1 - (1 - sigma_min) t) noise`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Path {
    /// The share of noise left at time 1. Movie Gen: 1e-5.
    pub sigma_min: f64,
}

impl Default for Path {
    fn default() -> Self {
        Self { sigma_min: 1e-5 }
    }
}

impl Path {
    /// The point at times `[B]` between noise and data, both `[B, C, T, H, W]`.
    pub fn at(&self, data: Tensor<5>, noise: Tensor<5>, time: Tensor<1>) -> Tensor<5> {
        let time = time.reshape([-1, 1, 1, 1, 1]);
        let keep = time.clone() * (self.sigma_min - 1.0) + 1.0;
        data * time + noise * keep
    }

    /// The velocity of the path, `data - (1 - sigma_min) noise`, the same at all times.
    pub fn velocity(&self, data: Tensor<5>, noise: Tensor<5>) -> Tensor<5> {
        data - noise * (1.0 - self.sigma_min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn the_path_starts_at_noise_ends_at_data_and_has_its_velocity() {
        let device = Device::flex();
        let full = |x: f64| Tensor::<5>::full([2, 1, 1, 1, 1], x, &device);
        let path = Path::default();
        let at = |t: [f32; 2]| {
            let time = Tensor::<1>::from_floats(t, &device);
            path.at(full(3.0), full(-1.0), time)
                .into_data()
                .iter::<f64>()
                .collect::<Vec<_>>()
        };
        let ends = at([0.0, 1.0]);
        assert_eq!(ends[0], -1.0);
        assert!((ends[1] - (3.0 - 1e-5)).abs() < 1e-6);
        let near = at([0.25, 0.75]);
        let velocity = path
            .velocity(full(3.0), full(-1.0))
            .into_data()
            .iter::<f64>()
            .next();
        assert!(((near[1] - near[0]) / 0.5 - velocity.unwrap()).abs() < 1e-5);
    }
}
