//! The times that sampling visits, and Euler's step between them.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The times of a sampler.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// Even steps.
    Linear {
        /// The number of steps.
        steps: usize,
    },
    /// Even small steps through the first `threshold` of time, in half of the steps, then steps that
    /// grow quadratically (Movie Gen, section 3.4.2: 50 steps stand for 1,000 even ones at
    /// `threshold = 0.025`).
    LinearQuadratic {
        /// The number of steps.
        steps: usize,
        /// The time that the first half of the steps reaches, 0..1.
        threshold: f64,
    },
}

impl Schedule {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        match *self {
            Schedule::Linear { steps } | Schedule::LinearQuadratic { steps, .. } => steps,
        }
    }

    /// The same schedule with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        match self {
            Schedule::Linear { .. } => Schedule::Linear { steps },
            Schedule::LinearQuadratic { threshold, .. } => {
                Schedule::LinearQuadratic { steps, threshold }
            }
        }
    }

    /// The times from 0 to 1, one more than there are steps.
    pub fn times(&self) -> Vec<f64> {
        match *self {
            Schedule::Linear { steps } => (0..=steps).map(|i| i as f64 / steps as f64).collect(),
            Schedule::LinearQuadratic { steps, threshold } => {
                let linear = (steps / 2).max(1);
                let quadratic = (steps - linear).max(1) as f64;
                let rate = threshold / linear as f64;
                // What is left of time after the even steps and as many more at their rate.
                let rest = 1.0 - threshold - rate * quadratic;
                (0..=steps)
                    .map(|i| match i.checked_sub(linear) {
                        _ if i == steps => 1.0,
                        None => rate * i as f64,
                        Some(k) => {
                            let k = k as f64;
                            threshold + rate * k + rest * (k / quadratic).powi(2)
                        }
                    })
                    .collect()
            }
        }
    }
}

/// Euler's step of the flow from time `from` to time `to`.
pub fn euler_step<const D: usize>(
    x: Tensor<D>,
    velocity: Tensor<D>,
    from: f64,
    to: f64,
) -> Tensor<D> {
    x + velocity * (to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_run_from_noise_to_data_in_growing_steps() {
        for steps in 1..60 {
            for schedule in [
                Schedule::Linear { steps },
                Schedule::LinearQuadratic {
                    steps,
                    threshold: 0.025,
                },
            ] {
                let times = schedule.times();
                assert_eq!(times.len(), steps + 1);
                assert_eq!((times[0], times[steps]), (0.0, 1.0));
                let deltas: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
                assert!(
                    deltas.windows(2).all(|w| w[1] >= w[0] - 1e-12),
                    "{schedule:?} {deltas:?}"
                );
            }
        }
    }

    // The first half of 50 steps are those of a schedule of 1,000 even steps.
    #[test]
    fn fifty_steps_start_like_a_thousand() {
        let times = Schedule::LinearQuadratic {
            steps: 50,
            threshold: 0.025,
        }
        .times();
        for (i, time) in times.iter().take(26).enumerate() {
            assert!((time - i as f64 / 1000.0).abs() < 1e-12);
        }
    }

    #[test]
    fn euler_follows_a_constant_velocity_exactly() {
        let device = burn::tensor::Device::flex();
        let times = Schedule::LinearQuadratic {
            steps: 7,
            threshold: 0.1,
        }
        .times();
        let mut x = Tensor::<1>::from_floats([1.0], &device);
        for w in times.windows(2) {
            x = euler_step(x, Tensor::from_floats([-3.0], &device), w[0], w[1]);
        }
        assert!((x.into_scalar::<f32>() + 2.0).abs() < 1e-5);
    }
}
