//! The times that training visits.

use kinora_mesh::rng::Stream;
use serde::{Deserialize, Serialize};

/// Logit-normal times: `sigmoid(mean + std n)` (Esser et al. 2024, section 3.1; Movie Gen uses mean 0
/// and std 1). A lower mean spends more steps near noise, where motion is decided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Times {
    /// Mean of the logit.
    pub mean: f64,
    /// Standard deviation of the logit.
    pub std: f64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            mean: 0.0,
            std: 1.0,
        }
    }
}

impl Times {
    /// The time of one sample: a function of (seed, step, position in the global batch) alone.
    pub fn draw(&self, seed: u64, step: u64, position: u64) -> f64 {
        let n = Stream::new(seed, "time").at(step).normal(position);
        1.0 / (1.0 + (-(self.mean + self.std * n)).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_median_of_their_distribution() {
        let times = Times {
            mean: -0.8,
            std: 1.0,
        };
        let mut draws: Vec<f64> = (0..10_001).map(|i| times.draw(1, 2, i)).collect();
        draws.sort_by(f64::total_cmp);
        let median = 1.0 / (1.0 + 0.8_f64.exp());
        assert!(
            (draws[5000] - median).abs() < 0.01,
            "{} instead of {median}",
            draws[5000]
        );
        assert!(draws[0] > 0.0 && draws[10_000] < 1.0);
        assert_ne!(times.draw(1, 2, 0), times.draw(1, 3, 0));
    }
}
