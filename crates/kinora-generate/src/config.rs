//! The settings of sampling.

use kinora_flow::Schedule;
use serde::{Deserialize, Serialize};
use thiserror::Error;

// More than any solver needs.
const MOST: usize = 10_000;

/// The `[sample]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The times that the solver visits.
    pub schedule: Schedule,
    /// The strength of the prompt; 1 is the model as it is, and costs half as much.
    pub guidance: f64,
    /// Latent frames that neighbouring windows of a long video share.
    pub overlap: usize,
}

/// Settings that make no video.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SampleError {
    /// A schedule without steps, or without an end.
    #[error(
        "sample.schedule.steps = {steps}\n  help: use 1 to {MOST}; more follow the flow more closely"
    )]
    Steps {
        /// The number.
        steps: usize,
    },
    /// A first half that leaves no time for the second.
    #[error("sample.schedule.threshold = {threshold}\n  help: use a time between 0 and 0.5")]
    Threshold {
        /// The threshold.
        threshold: f64,
    },
    /// Guidance that is not a positive number.
    #[error("sample.guidance = {guidance}\n  help: use 1 (none) to about 8")]
    Guidance {
        /// The strength.
        guidance: f64,
    },
    /// Windows that share everything, or nothing.
    #[error("sample.overlap = {overlap} latent frames, but a window has {window}\n  help: use 1 to {}", window - 1)]
    Overlap {
        /// Shared frames.
        overlap: usize,
        /// Frames of a window.
        window: usize,
    },
}

impl SampleConfig {
    /// Checks the settings for windows of `window` latent frames.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self, window: usize) -> Result<(), SampleError> {
        let steps = self.schedule.steps();
        if !(1..=MOST).contains(&steps) {
            return Err(SampleError::Steps { steps });
        }
        if let Schedule::LinearQuadratic { threshold, .. } = self.schedule
            && !(threshold > 0.0 && threshold <= 0.5)
        {
            return Err(SampleError::Threshold { threshold });
        }
        if !(self.guidance > 0.0 && self.guidance <= 100.0) {
            return Err(SampleError::Guidance {
                guidance: self.guidance,
            });
        }
        let overlap = self.overlap;
        if window > 1 && !(1..window).contains(&overlap) {
            return Err(SampleError::Overlap { overlap, window });
        }
        Ok(())
    }
}
