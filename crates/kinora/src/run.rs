//! A trained run, ready to sample: its configuration, autoencoder and newest checkpoint.

use crate::autoencoder;
use crate::config::{RunConfig, read_run};
use crate::device::{RankDevices, host};
use crate::encoders::Encoders;
use crate::failure::{Failure, OrInput, Outcome};
use crate::model::Model;
use burn::tensor::{DType, Device, Tensor};
use kinora_ckpt::{Checkpoint, latest};
use kinora_data::Bucket;
use kinora_generate::{Asked, SampleConfig, clips};
use kinora_media::Clip;
use kinora_models::TextToVideo;
use kinora_models::autoencoder::{Autoencoder, Decode};
use kinora_shard::{Cx, Sharding};
use kinora_train::{BuildEncoder, TrainError, Weights, checkpoints, restore_weights, same_model};
use std::path::Path;
use std::sync::Arc;

/// What sampling needs of a run; ranks share it.
pub(crate) struct Trained {
    pub(crate) config: RunConfig,
    pub(crate) sample: SampleConfig,
    pub(crate) autoencoder: Arc<dyn Autoencoder>,
    encoder: Option<BuildEncoder>,
    pub(crate) checkpoint: Checkpoint,
    /// The size of the videos that it was trained on.
    pub(crate) bucket: Bucket,
    pub(crate) devices: RankDevices,
    model: Model,
}

impl Trained {
    /// Opens the folder of a run.
    pub(crate) fn open(run: &Path, set: &[String], verb: &str) -> Outcome<Self> {
        let config = read_run(run, set)?;
        let devices = RankDevices::open(&config)?;
        let root = checkpoints(run);
        let path = latest(&root)?.ok_or_else(|| {
            Failure::input(format!("{} holds no checkpoint\n  help: train the run first, at least to train.checkpoint_every", root.display()))
        })?;
        let checkpoint = Checkpoint::open(&path)?;
        checkpoint.verify()?;
        let section = config.need(&config.autoencoder, "autoencoder", verb)?;
        let autoencoder = autoencoder::read(run, section, &host())?.autoencoder;
        let data = config.need(&config.data, "data", verb)?;
        let moving = |bucket: &&Bucket| !bucket.is_image();
        let bucket = *data.buckets.iter().find(moving).unwrap_or(&data.buckets[0]);
        let model = Model::of(&config)?;
        same_model(&checkpoint, &model.identity())?;
        let precision = config.run.dtype.precision();
        let encoder = Encoders::open(&config.encoders, &model.widths(), precision)?;
        Ok(Self {
            sample: config.need(&config.sample, "sample", verb)?.clone(),
            model,
            config,
            autoencoder,
            encoder: encoder.map(Encoders::build),
            checkpoint,
            bucket,
            devices,
        })
    }

    /// Checks that ranks that share out guidance have some to share.
    pub(crate) fn check_guidance(&self) -> Outcome {
        if self.config.mesh.cfg > 1 && self.sample.guidance == 1.0 {
            return Err(Failure::input(
                "mesh.cfg = 2 has no effect: guidance is 1, so there is one pass only\n  help: set mesh.cfg = 1, or another guidance",
            ));
        }
        Ok(())
    }

    /// The dtype of stored weights, and of latents between steps.
    pub(crate) fn dtype(&self) -> DType {
        self.config.run.dtype.precision().stored
    }

    /// This rank's part of the averaged model, on this rank's device.
    pub(crate) fn model(
        &self,
        sharding: &Arc<Sharding>,
        device: &Device,
    ) -> Result<TextToVideo, TrainError> {
        let precision = self.config.run.dtype.precision();
        let cx = Cx::new(device, precision, self.config.run.seed, sharding);
        let model = (self.model.build())(&cx)?;
        let table = cx.table().clone();
        Ok(restore_weights(
            model,
            &table,
            &self.checkpoint,
            Weights::Average,
            (device, self.dtype()),
        )?)
    }

    /// The latent of a video of the trained size with so many frames.
    pub(crate) fn latent(&self, frames: usize) -> Outcome<[usize; 4]> {
        self.autoencoder
            .latent_shape([frames, self.bucket.height, self.bucket.width])
            .or_input()
    }

    /// What is asked for in words, read by the frozen encoders if the model has any; they are gone when
    /// this returns.
    pub(crate) fn ask(
        &self,
        prompts: &[String],
        sharding: &Arc<Sharding>,
        device: &Device,
    ) -> Result<Asked, TrainError> {
        let encoder = self.encoder.as_ref();
        let encoder = encoder.map(|build| build(sharding, device)).transpose()?;
        Ok(Asked::new(
            prompts,
            &self.sample.negative,
            encoder.as_deref(),
        ))
    }

    /// The next frames of a video that is decoded a few latents at a time.
    pub(crate) fn decode_next(&self, decoder: &mut dyn Decode, latents: Tensor<5>) -> Vec<Clip> {
        let latents = latents
            .cast(DType::F32)
            .to_device(&self.autoencoder.device());
        clips(decoder.push(latents), self.fps())
    }

    /// What latents of the model look like, of either dtype and on any device.
    pub(crate) fn decode(&self, latents: Tensor<5>) -> Vec<Clip> {
        let latents = latents
            .cast(DType::F32)
            .to_device(&self.autoencoder.device());
        clips(self.autoencoder.decode(latents), self.fps())
    }

    /// Frames per second of the videos that it was trained on.
    pub(crate) fn fps(&self) -> f64 {
        // Only the made data set says; others are shown at Movie Gen's rate.
        self.config
            .shapes
            .as_ref()
            .map_or(16.0, |shapes| shapes.fps)
    }
}
