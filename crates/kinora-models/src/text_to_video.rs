//! What a run trains: a text encoder and the transformer that reads it.

use crate::bytes::{Bytes, BytesConfig};
use crate::movie_gen::{MovieGen, MovieGenConfig};
use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_shard::Cx;

/// A model that training and sampling can drive.
pub trait Denoiser: Module + Sync + 'static {
    /// Latents `[B, C, T, H, W]` at times `[B]` in 0..=1, with a prompt for each sample, to
    /// velocities of the same shape and dtype. The empty prompt is the unconditional one.
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, prompts: &[String]) -> Tensor<5>;
}

/// Prompts to velocities.
#[derive(Module, Debug)]
pub struct TextToVideo {
    text: Bytes,
    video: MovieGen,
    #[module(skip)]
    computed: DType,
}

impl TextToVideo {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, video: &MovieGenConfig, text: &BytesConfig) -> Self {
        Self {
            text: Bytes::new(&cx.at("text"), text),
            video: MovieGen::new(&cx.at("video"), video),
            computed: cx.precision().computed,
        }
    }

    /// The transformer's sizes.
    pub fn config(&self) -> &MovieGenConfig {
        self.video.config()
    }
}

impl Denoiser for TextToVideo {
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, prompts: &[String]) -> Tensor<5> {
        let dtype = latent.dtype();
        let text = self
            .text
            .forward(&self.text.encode(prompts), &latent.device());
        // Times stay as they are: their sinusoids need more digits than bfloat16 has.
        let velocity = self
            .video
            .forward(latent.cast(self.computed), time, vec![text]);
        velocity.cast(dtype)
    }
}
