//! What a run trains: a transformer, and the text encoder that is trained with it, if there is one.

use crate::bytes::{Bytes, BytesConfig};
use crate::{Condition, Video, VideoConfig};
use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_shard::Cx;

/// A model that training and sampling can drive.
pub trait Denoiser: Module + Sync + 'static {
    /// Latents `[B, C, T, H, W]` at times `[B]` in 0..=1, with what is wanted of each sample, to
    /// velocities of the same shape and dtype.
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, given: &Condition) -> Tensor<5>;
}

/// What is wanted, to velocities.
#[derive(Module, Debug)]
pub struct TextToVideo {
    text: Option<Bytes>,
    video: Video,
    #[module(skip)]
    config: VideoConfig,
    #[module(skip)]
    computed: DType,
}

impl TextToVideo {
    /// A model with initial weights keyed by (seed, path), which reads the prompts with a text encoder
    /// of its own, or what frozen ones made of them.
    pub fn new(cx: &Cx, video: &VideoConfig, text: Option<&BytesConfig>) -> Self {
        Self::with(cx, video, text, Video::new(&cx.at("video"), video))
    }

    /// The same with a transformer that was made or loaded, with the builder `cx.at("video")`.
    pub fn with(cx: &Cx, config: &VideoConfig, text: Option<&BytesConfig>, video: Video) -> Self {
        Self {
            text: text.map(|text| Bytes::new(&cx.at("text"), text)),
            video,
            config: config.clone(),
            computed: cx.precision().computed,
        }
    }

    /// The transformer's sizes.
    pub fn config(&self) -> &VideoConfig {
        &self.config
    }
}

impl Denoiser for TextToVideo {
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, given: &Condition) -> Tensor<5> {
        let dtype = latent.dtype();
        let mut texts = given.texts.clone();
        for text in &mut texts {
            text.embedding = text.embedding.clone().cast(self.computed);
            if latent.device().is_autodiff() && !text.embedding.device().is_autodiff() {
                text.embedding = text.embedding.clone().autodiff();
            }
        }
        if let Some(text) = &self.text {
            texts.push(text.forward(&text.encode(&given.prompts), &latent.device()));
        }
        // Times stay as they are: their sinusoids need more digits than bfloat16 has.
        let latent = latent.cast(self.computed);
        self.video.velocity(latent, time, texts, given).cast(dtype)
    }
}
