//! The settings of sampling.

use kinora_flow::{Schedule, ScheduleError, Solver};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The `[sample]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The levels of noise that the solver visits.
    pub schedule: Schedule,
    /// How the flow is followed between them.
    #[serde(default)]
    pub solver: Solver,
    /// The strength of the prompt; 1 is the model as it is, and costs half as much.
    pub guidance: f64,
    /// The prompt that guidance leads away from; the empty one unless told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub negative: String,
    /// Latent frames that neighbouring windows of a long video share.
    pub overlap: usize,
}

/// Settings that make no video.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SampleError {
    /// A schedule that the solver cannot follow.
    #[error("sample.{0}")]
    Schedule(#[from] ScheduleError),
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
        self.solver.check(&self.schedule)?;
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
