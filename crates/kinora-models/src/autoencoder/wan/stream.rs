//! Videos and latents that go through the autoencoder a few frames at a time: the memory that it takes
//! does not depend on how many come.

use super::WanVae;
use burn::tensor::Tensor;
use kinora_nn::Recall;

/// Frames to latent frames: the first frame alone, then as many together as become one latent frame.
#[derive(Debug)]
pub struct EncoderStream<'a> {
    vae: &'a WanVae,
    recall: Option<Recall>,
    waiting: Option<Tensor<5>>,
}

impl<'a> EncoderStream<'a> {
    pub(super) fn new(vae: &'a WanVae) -> Self {
        Self {
            vae,
            recall: None,
            waiting: None,
        }
    }

    /// Takes frames, `[B, 3, T, H, W]`, any number of them, and gives the parameters of the latents that
    /// are complete, `[B, 2 C, t, h, w]`: means, then logarithms of variances.
    ///
    /// # Panics
    /// If the sides do not divide, or change.
    pub fn push(&mut self, frames: Tensor<5>) -> Option<Tensor<5>> {
        let step = self.vae.config().scale()[0];
        let mut waiting = match self.waiting.take() {
            Some(waiting) => Tensor::cat(vec![waiting, frames], 2),
            None => frames,
        };
        let mut latents = vec![];
        loop {
            let (n, needed) = (
                waiting.dims()[2],
                if self.recall.is_none() { 1 } else { step },
            );
            if n < needed {
                break;
            }
            let part = waiting.clone().narrow(2, 0, needed);
            let height = part.dims()[3];
            let recall = (self.recall).get_or_insert_with(|| Recall::new(self.vae.rows(height)));
            latents.push(self.vae.encode_part(part, recall));
            if n == needed {
                return joined(latents);
            }
            waiting = waiting.narrow(2, needed, n - needed);
        }
        self.waiting = Some(waiting);
        joined(latents)
    }

    /// Frames that wait for others to become a latent frame; what is left at the end of a video is lost.
    pub fn waiting(&self) -> usize {
        self.waiting.as_ref().map_or(0, |frames| frames.dims()[2])
    }
}

/// Latent frames to frames: one, then as many for each as became a latent frame.
#[derive(Debug)]
pub struct DecoderStream<'a> {
    vae: &'a WanVae,
    recall: Option<Recall>,
}

impl<'a> DecoderStream<'a> {
    pub(super) fn new(vae: &'a WanVae) -> Self {
        Self { vae, recall: None }
    }

    /// Takes latent frames `[B, C, t, h, w]`, as the encoder's means are, not normalised, and gives
    /// their frames, `[B, 3, T, H, W]`, not clamped.
    ///
    /// # Panics
    /// If the sides change.
    pub fn push(&mut self, latents: Tensor<5>) -> Tensor<5> {
        let [_, _, t, h, _] = latents.dims();
        let recall = self.recall.get_or_insert_with(|| Recall::new(h));
        let frames = (0..t).map(|at| {
            let part = latents.clone().narrow(2, at, 1);
            self.vae.decode_part(part, recall)
        });
        joined(frames.collect()).expect("at least one latent frame")
    }
}

fn joined(mut parts: Vec<Tensor<5>>) -> Option<Tensor<5>> {
    if parts.len() > 1 {
        return Some(Tensor::cat(parts, 2));
    }
    parts.pop()
}
