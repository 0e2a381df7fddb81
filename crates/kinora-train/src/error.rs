//! What ends a training run.

use kinora_ckpt::CkptError;
use kinora_comm::CommError;
use kinora_data::DataError;
use kinora_models::autoencoder::ShapeError;
use kinora_shard::ShardError;
use kinora_track::TrackError;
use std::path::PathBuf;
use thiserror::Error;

/// Why training stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Ranks that share samples, but hold different ones.
    #[error(
        "step {step}: ranks {first} and {second} are of one data group, but their batches differ ({of_first:016x}, {of_second:016x})\n  help: this is a fault of the data path, not of your configuration; please report it"
    )]
    OtherBatch {
        /// The step.
        step: u64,
        /// A rank of the group.
        first: usize,
        /// Its batch's fingerprint.
        of_first: u64,
        /// Another rank of the group.
        second: usize,
        /// Its batch's fingerprint.
        of_second: u64,
    },
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CkptError),
    /// The records.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// A peer.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The plan.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The autoencoder.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A batch that the mesh cannot share.
    #[error("a global batch of {batch} samples of {bucket} cannot be shared by {shares} data groups x {accumulate} micro-batches\n  help: make data.buckets' batch a multiple of {}", shares * accumulate)]
    Batch {
        /// The global batch.
        batch: usize,
        /// The bucket.
        bucket: String,
        /// Data groups.
        shares: usize,
        /// Micro-batches.
        accumulate: usize,
    },
    /// A loss that is not a number.
    #[error(
        "step {step}: the loss is {loss} and the gradient's norm {norm}\n  help: lower train.optim.lr, or start again from the last checkpoint with other data"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
        /// The norm.
        norm: f64,
    },
    /// Weights that are not numbers any more.
    #[error(
        "step {step}: the weights are no numbers any more, so they are not saved\n  help: lower train.optim.lr; the checkpoint before is kept"
    )]
    NotNumbers {
        /// The step.
        step: u64,
    },
    /// A checkpoint of another model.
    #[error(
        "the checkpoint of step {step} is of another model:\n  it was {was}\n  it is {is}\n  help: restore [model] and [text], or train into another folder"
    )]
    OtherModel {
        /// The step.
        step: u64,
        /// What was trained.
        was: String,
        /// What the configuration says.
        is: String,
    },
    /// Latents that were made for another bucket.
    #[error(
        "{sample} holds latents of shape {found:?}, but the bucket of {bucket} takes {wanted:?}\n  help: use the buckets that the data was encoded with, or encode it again"
    )]
    LatentShape {
        /// The sample.
        sample: String,
        /// The bucket that it came in.
        bucket: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the bucket's latents.
        wanted: [usize; 4],
    },
    /// A checkpoint that saw other data.
    #[error(
        "the checkpoint of step {step} was trained on other data:\n  {}\n  help: restore the data, or train into another folder", .changes.join("\n  ")
    )]
    OtherData {
        /// The step.
        step: u64,
        /// What has changed since.
        changes: Vec<String>,
    },
    /// Metadata of a checkpoint that cannot be read.
    #[error(
        "the checkpoint's metadata lacks {what}\n  help: it was written by another version; train into another folder"
    )]
    Meta {
        /// What is missing.
        what: &'static str,
    },
    /// An autoencoder's settings that cannot be read.
    #[error(
        "{}: {reason}\n  help: name the folder of a trained autoencoder, with its config.json", path.display()
    )]
    Autoencoder {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A video that could not be made, in words.
    #[error("{0}")]
    Sample(String),
}
