//! What happened: a JSON line for each training step in `metrics.jsonl`, and a progress bar or
//! plain lines for whoever watches.
//!
//! Only rank 0 uses it. A resumed run drops the rows behind the checkpoint that it goes on from, so
//! the file of a run that was killed five times reads as that of one which was not.
//!
//! Separate because every long task wants progress and none should know how it is drawn. It
//! deliberately computes no metric, and knows no tensor, clock of the run, or network service.

mod console;
mod error;
mod metrics;
mod tracker;

pub use console::{Bar, Console};
pub use error::TrackError;
pub use tracker::Tracker;
