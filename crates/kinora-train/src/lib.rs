//! The training loop: batches in, a trained model and its records out.
//!
//! Separate from generation, so that neither grows into the other; both drive the same sharded
//! model. A [`Trainer`] takes batches of latents from anywhere and knows no files; [`train`] feeds it
//! from shards, and keeps checkpoints and records.

mod adamw;
mod ahead;
mod autoencoder;
mod autoencoder_file;
mod batch;
mod config;
mod encode;
mod error;
mod fit;
mod run;
mod save;
mod source;
mod trainer;

pub use adamw::AdamW;
pub use autoencoder::{AutoencoderReport, AutoencoderTraining, train_autoencoder};
pub use autoencoder_file::{read_autoencoder, write_autoencoder};
pub use batch::LatentBatch;
pub use config::{Decay, Decays, OptimConfig, TrainConfig};
pub use encode::{Encode, Report as EncodeReport, seconds_per_sample};
pub use error::TrainError;
pub use fit::fit_pca;
pub use run::{
    Build, BuildEncoder, DATA_FILE, Hooks, Outcome, Run, checkpoints, identity, resumable,
    same_model, train,
};
pub use save::{Weights, restore_weights};
pub use source::{Source, videos};
pub use trainer::{Point, Report, Trainer};
