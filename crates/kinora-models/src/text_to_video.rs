//! What a run trains: a text encoder and the transformer that reads it.

use crate::bytes::{Bytes, BytesConfig};
use crate::movie_gen::{MovieGen, MovieGenConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_shard::Cx;

/// Prompts to velocities.
#[derive(Module, Debug)]
pub struct TextToVideo {
    text: Bytes,
    video: MovieGen,
}

impl TextToVideo {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, video: &MovieGenConfig, text: &BytesConfig) -> Self {
        Self {
            text: Bytes::new(&cx.at("text"), text),
            video: MovieGen::new(&cx.at("video"), video),
        }
    }

    /// The transformer's sizes.
    pub fn config(&self) -> &MovieGenConfig {
        self.video.config()
    }

    /// Latents `[B, C, T, H, W]` at times `[B]` in 0..=1, with a prompt for each sample, to
    /// velocities. The empty prompt is the unconditional one.
    pub fn forward(&self, latent: Tensor<5>, time: Tensor<1>, prompts: &[String]) -> Tensor<5> {
        let text = self
            .text
            .forward(&self.text.encode(prompts), &latent.device());
        self.video.forward(latent, time, vec![text])
    }
}
