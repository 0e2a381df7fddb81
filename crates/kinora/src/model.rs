//! The model that a configuration describes: how it is made, and what tells it from others.

use crate::config::{RunConfig, read_run};
use crate::failure::{Failure, Outcome};
use burn::tensor::{DType, Device};
use kinora_ckpt::{Checkpoint, CkptError, Foreign, Layout, Prefixed, Weights, latest, which};
use kinora_models::bytes::BytesConfig;
use kinora_models::wan::keys;
use kinora_models::{TextToVideo, Video, VideoConfig};
use kinora_shard::{Adapters, Cx, Sharding, Source, load};
use kinora_train::{Build, checkpoints, identity};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A transformer, the text encoder that is trained with it, and what is trained of them.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) video: VideoConfig,
    pub(crate) text: Option<BytesConfig>,
    pub(crate) adapters: Option<Adapters>,
    weights: Option<Start>,
}

/// Weights to start from, or to train adapters beside.
#[derive(Clone, Debug)]
enum Start {
    /// The averaged ones of another run, its text encoder with them.
    Run(PathBuf),
    /// Those of a transformer that others have released.
    Released(PathBuf),
}

impl Start {
    fn of(path: &Path) -> Self {
        if is_run(path) {
            Self::Run(path.to_owned())
        } else {
            Self::Released(path.to_owned())
        }
    }
}

/// Refuses models that are there to be planned, and that no run can feed yet.
fn can_run(config: &RunConfig, video: &VideoConfig) -> Outcome {
    let VideoConfig::Wan(wan) = video else {
        return Ok(());
    };
    let lacks = if wan.boundary.is_some() {
        "is a pair of experts, of which each knows some of the times"
    } else if wan.image.is_some() || wan.channels > wan.out_channels {
        "reads a given image, beside the latent"
    } else {
        return Ok(());
    };
    Err(Failure::input(format!(
        "model.preset = \"{}\" {lacks}, which runs cannot give it yet\n  help: kinora plan and kinora verify know it; to train or generate, use a text-to-video model such as wan-2.1-t2v-1.3b",
        config.model.preset.as_deref().unwrap_or_default()
    )))
}

/// Whether a path is the folder of a run.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join("run.toml").is_file()
}

impl Model {
    /// # Errors
    /// If adapters have nothing to be beside, or another run's weights are of another model.
    pub(crate) fn of(config: &RunConfig) -> Outcome<Self> {
        let (video, text) = (config.video()?, config.text.clone());
        let weights = config.model.weights.as_deref().map(Start::of);
        can_run(config, &video)?;
        if let Some(Start::Run(run)) = &weights {
            let other = read_run(run, &[])?;
            let wrong = |what: &str, help: &str| {
                Failure::input(format!(
                    "model.weights = {} is a run {what}\n  help: {help}",
                    run.display()
                ))
            };
            if other.lora.is_some() {
                return Err(wrong(
                    "that trained adapters",
                    "merge them first: kinora convert RUN --merge --out FOLDER",
                ));
            }
            if other.video()? != video || other.text != text {
                return Err(wrong(
                    "with another [model] or [text]",
                    "give this run the same tables",
                ));
            }
        }
        Ok(Self {
            video,
            text,
            weights,
            adapters: config.lora.as_ref().map(|lora| lora.adapters()),
        })
    }

    /// The widths of the embeddings that it reads of frozen text encoders.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let texts = self.video.texts();
        texts.iter().map(|text| text.width).collect()
    }

    /// Checks that released weights are there and of this model, before anything is made to go with
    /// them. Of a run's, [`Model::of`] has.
    pub(crate) fn check(&self) -> Outcome {
        let Some(Start::Released(path)) = &self.weights else {
            return Ok(());
        };
        if !path.exists() {
            return Err(Failure::input(format!(
                "model.weights = {} is not there\n  help: name a file or folder of weights, or the folder of a run",
                path.display()
            )));
        }
        let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
        drop(Video::new(&cx, &self.video));
        let table = cx.table();
        let specs = table.specs().iter();
        let params: Vec<_> = specs
            .map(|spec| (spec.path.clone(), spec.layout.shape.clone()))
            .collect();
        released(path, &self.video, &params)?;
        Ok(())
    }

    /// The run whose weights it starts from, if they are a run's.
    pub(crate) fn base(&self) -> Option<&Path> {
        match &self.weights {
            Some(Start::Run(run)) => Some(run),
            _ => None,
        }
    }

    /// Makes it, with weights that are drawn, or read if the configuration names some.
    pub(crate) fn build(&self) -> Build {
        let model = self.clone();
        Arc::new(move |cx| model.make(cx))
    }

    fn make(&self, cx: &Cx) -> Result<TextToVideo, CkptError> {
        let whole = cx;
        let cx = match &self.adapters {
            Some(adapters) => cx.clone().adapting(adapters.clone()),
            None => cx.clone(),
        };
        let text = self.text.as_ref();
        match &self.weights {
            None => Ok(TextToVideo::new(&cx, &self.video, text)),
            Some(Start::Run(run)) => {
                let open = |_: &[(String, Vec<usize>)]| averaged(run);
                load(&cx, open, |cx| TextToVideo::new(cx, &self.video, text))
            }
            Some(Start::Released(path)) => {
                let open = |params: &[(String, Vec<usize>)]| released(path, &self.video, params);
                let video = load(&cx.at("video"), open, |cx| Video::new(cx, &self.video))?;
                // They hold no text encoder: one of the run's own is drawn, and so trained whatever else
                // is frozen.
                Ok(TextToVideo::with(whole, &self.video, text, video))
            }
        }
    }

    /// The frozen weights under our names, for adapters to be merged into; `params` are those of the
    /// transformer, with paths inside it.
    pub(crate) fn frozen(&self, params: &[(String, Vec<usize>)]) -> Outcome<Source> {
        match &self.weights {
            None => Err(Failure::input(
                "the model has no weights to merge into\n  help: set model.weights",
            )),
            Some(Start::Run(run)) => Ok(Arc::new(Prefixed::new(newest(run)?, "average/video."))),
            Some(Start::Released(path)) => Ok(released(path, &self.video, params)?),
        }
    }

    /// What checkpoints name it by. Adapters are of use beside the weights that they were trained
    /// beside.
    pub(crate) fn identity(&self) -> Value {
        let adapters = self.adapters.as_ref().map(|adapters| {
            let weights = match &self.weights {
                Some(Start::Run(path) | Start::Released(path)) => Some(path),
                None => None,
            };
            json!({
                "rank": adapters.rank,
                "alpha": adapters.alpha,
                "targets": adapters.targets,
                "weights": weights,
            })
        });
        identity(&self.video, self.text.as_ref(), json!(adapters))
    }
}

/// The newest checkpoint of a run.
pub(crate) fn newest(run: &Path) -> Result<Checkpoint, CkptError> {
    let root = checkpoints(run);
    Checkpoint::open(&latest(&root)?.unwrap_or(root))
}

fn averaged(run: &Path) -> Result<Source, CkptError> {
    Ok(Arc::new(Prefixed::new(newest(run)?, "average/")))
}

/// Whose names the tensors of a transformer have in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Names {
    /// The released code's, which ComfyUI reads too
    Original,
    /// Those of Hugging Face's diffusers
    Diffusers,
}

impl Names {
    /// Where a parameter of a transformer lies, by its path inside it.
    pub(crate) fn of(self, video: &VideoConfig, path: &str, shape: &[usize]) -> Foreign {
        match (video, self) {
            // Its weights were never released: ours are the only names.
            (VideoConfig::MovieGen(_), _) => Foreign::same(path, shape),
            (VideoConfig::Wan(config), Self::Original) => keys::original(config, path, shape),
            (VideoConfig::Wan(config), Self::Diffusers) => keys::diffusers(config, path, shape),
        }
    }
}

/// Weights of a transformer, under our names, whosever names they have in the file.
pub(crate) fn released(
    path: &Path,
    video: &VideoConfig,
    params: &[(String, Vec<usize>)],
) -> Result<Source, CkptError> {
    let names = |names: Names| move |path: &str, shape: &[usize]| names.of(video, path, shape);
    let (original, diffusers) = (names(Names::Original), names(Names::Diffusers));
    let layouts: [(&str, Layout<'_>); 2] = [("original", &original), ("diffusers", &diffusers)];
    let (_, renamed) = which(Weights::open(path)?, params, &layouts)?;
    Ok(Arc::new(renamed))
}
