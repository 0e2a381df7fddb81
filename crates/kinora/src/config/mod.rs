//! A run's configuration: what was typed, and what follows from it.
//!
//! [`RunConfig`] is plain data with no key unknown; [`RunConfig::check`] looks only at the data itself
//! and, for the sizes of released weights, at the `config.json` beside them.

mod autoencoder;
mod encoder;
mod lora;
mod model;
mod read;
mod section;

pub(crate) use autoencoder::{AutoencoderSection, WanSection};
pub(crate) use encoder::{EncoderKind, EncoderSection};
pub(crate) use lora::LoraSection;
pub(crate) use model::ModelSection;
pub(crate) use read::{read, read_run};
pub(crate) use section::{PreviewSection, RunSection};

use crate::failure::{Failure, OrInput, Outcome};
use kinora_data::{Bucket, DataConfig};
use kinora_generate::SampleConfig;
use kinora_mesh::{Axis, Mesh, Plan};
use kinora_models::VideoConfig;
use kinora_models::bytes::BytesConfig;
use kinora_shapes::ShapesConfig;
use kinora_shard::Recompute;
use kinora_train::TrainConfig;
use serde::{Deserialize, Serialize};

/// All tables of a run's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// Where the run lives, and how it computes.
    pub(crate) run: RunSection,
    /// The ranks.
    #[serde(default)]
    pub(crate) mesh: Mesh,
    /// What is cut on which axis of the mesh.
    #[serde(default)]
    pub(crate) plan: Plan,
    /// The transformer.
    pub(crate) model: ModelSection,
    /// Adapters that are trained beside the frozen transformer, instead of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lora: Option<LoraSection>,
    /// The byte encoder that is trained with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<BytesConfig>,
    /// Frozen text encoders, in the order in which the model reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) encoders: Vec<EncoderSection>,
    /// The autoencoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) autoencoder: Option<AutoencoderSection>,
    /// The data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<DataConfig>,
    /// How the data is made, if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shapes: Option<ShapesConfig>,
    /// Training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) train: Option<TrainConfig>,
    /// Videos made while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) preview: Option<PreviewSection>,
    /// Sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<SampleConfig>,
}

impl RunConfig {
    /// The transformer's sizes.
    pub(crate) fn video(&self) -> Outcome<VideoConfig> {
        self.model
            .resolve(self.text.as_ref(), self.autoencoder.as_ref())
    }

    /// Writes out the buckets of a grid, and the batches that a budget of tokens gives.
    pub(crate) fn resolve(&mut self) -> Outcome {
        let (video, autoencoder) = (self.video()?, self.autoencoder.clone());
        let Some(data) = &mut self.data else {
            return Ok(());
        };
        // Where sizes do not fit, the check that follows says so.
        let tokens = |bucket: &Bucket| {
            let size = [bucket.frames, bucket.height, bucket.width];
            let latent = autoencoder
                .as_ref()
                .and_then(|section| section.latent(size));
            video.grid(latent.unwrap_or(size)).iter().product()
        };
        data.resolve(tokens).or_input()
    }

    /// Checks everything that needs no look at the world.
    pub(crate) fn check(&self) -> Outcome {
        self.plan.check(&self.mesh).or_input()?;
        let video = self.video()?;
        video.check().or_input()?;
        for (name, extent) in video.extents() {
            self.plan.check_even(name, extent, &self.mesh).or_input()?;
            self.plan.check_heads(name, extent, &self.mesh).or_input()?;
        }
        let short = |name: &str, extent| self.plan.check_parts(name, extent, &self.mesh).or_input();
        short("model.ffn", Axis::Hidden.of(video.ffn()))?;
        self.run.check()?;
        if let Some(lora) = &self.lora {
            if self.model.weights.is_none() {
                return Err(Failure::input(
                    "[lora] trains adapters beside frozen weights, and there are none\n  help: set model.weights to those of a released model or to the folder of a run",
                ));
            }
            lora.check(&video)?;
        }
        if let Some(text) = &self.text {
            if text.width == 0 || text.heads == 0 || text.ffn == 0 || text.max_words == 0 {
                return Err(Failure::input(
                    "a size in [text] is 0\n  help: width, heads, ffn and max_words are at least 1",
                ));
            }
            let sizes = [
                text.width,
                text.layers,
                text.ffn,
                text.windows,
                text.max_words,
            ];
            if sizes.iter().any(|&size| size > 1 << 24) {
                return Err(Failure::input(
                    "a size in [text] is beyond any model\n  help: every size is at most 16777216",
                ));
            }
            if !text.width.is_multiple_of(text.heads) {
                return Err(Failure::input(format!(
                    "text.width = {} cannot be shared by text.heads = {}\n  help: make width a multiple of heads",
                    text.width, text.heads
                )));
            }
            for (name, extent) in text.extents() {
                self.plan.check_even(name, extent, &self.mesh).or_input()?;
            }
            short("text.ffn", Axis::Hidden.of(text.ffn))?;
        }
        self.check_texts(&video)?;
        if let Some(data) = &self.data {
            data.validate().or_input()?;
            if data.audio {
                return Err(Failure::input(
                    "data.audio has no effect: no model here takes sound\n  help: remove it",
                ));
            }
            if let Some(autoencoder) = &self.autoencoder {
                for (bucket, latent) in autoencoder.check(data, &video)? {
                    let tokens = video.grid(latent).iter().product();
                    short(&format!("the tokens of {bucket}"), Axis::Seq.of(tokens))?;
                }
            }
        }
        if let Some(train) = &self.train {
            section::check_train(train)?;
            if let Recompute::First(count) = train.recompute
                && count > video.layers()
            {
                return Err(Failure::input(format!(
                    "train.recompute = {{ first = {count} }}, but the model has {} layers\n  help: use at most as many, or \"all\"",
                    video.layers()
                )));
            }
            if let Some(data) = &self.data {
                let shares = self.mesh.span(&self.plan.cuts(Axis::Batch, &self.mesh));
                train.check_batches(&data.buckets, shares).or_input()?;
            }
            let prompts = self
                .preview
                .as_ref()
                .map_or(0, |preview| preview.prompts.len());
            match (train.preview_every, prompts) {
                (0, 1..) => {
                    return Err(Failure::input(
                        "preview.prompts has no effect: train.preview_every = 0\n  help: set train.preview_every, or remove [preview]",
                    ));
                }
                (1.., 0) => {
                    return Err(Failure::input(
                        "train.preview_every has no effect: there are no preview.prompts\n  help: add [preview] with prompts, or set train.preview_every = 0",
                    ));
                }
                _ => {}
            }
        }
        if let Some(sample) = &self.sample {
            let frames = video
                .max_latent()
                .map_or(usize::MAX, |[frames, _, _]| frames);
            sample.check(frames).or_input()?;
            if sample.guidance == 1.0 && !sample.negative.is_empty() {
                return Err(Failure::input(
                    "sample.negative has no effect: sample.guidance is 1, so nothing is led away from\n  help: remove it, or set another guidance",
                ));
            }
        }
        if let Some(shapes) = &self.shapes {
            shapes.validate().or_input()?;
        }
        if self.shapes.is_some() && self.data.as_ref().is_none_or(|data| data.paths.len() != 1) {
            return Err(Failure::input(
                "[shapes] makes the folder of data.paths, so that must name exactly one\n  help: name one folder, or remove [shapes]",
            ));
        }
        Ok(())
    }

    /// Checks that what reads the prompts is what the model reads.
    fn check_texts(&self, video: &VideoConfig) -> Outcome {
        for encoder in &self.encoders {
            encoder.check()?;
        }
        let (frozen, own) = (self.encoders.len(), usize::from(self.text.is_some()));
        let wanted: Vec<String> = video.texts().into_iter().map(|text| text.name).collect();
        if frozen + own > 0 && frozen + own != wanted.len() {
            return Err(Failure::input(format!(
                "the model reads {} text encoders ({}), but {frozen} [[encoders]] and {own} [text] are given\n  help: give it one [text], which is trained with it, or as many [[encoders]] as it reads",
                wanted.len(),
                wanted.join(", ")
            )));
        }
        Ok(())
    }

    /// A table that a verb cannot do without.
    pub(crate) fn need<'a, T>(
        &self,
        table: &'a Option<T>,
        name: &str,
        verb: &str,
    ) -> Outcome<&'a T> {
        table.as_ref().ok_or_else(|| {
            Failure::input(format!("`kinora {verb}` needs the table [{name}]\n  help: add it; configs/quickstart.toml has one with comments"))
        })
    }
}
