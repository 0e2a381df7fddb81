//! Wan's causal video autoencoders: 2.1's, and 2.2's with shortcuts and a patch of two pixels (Wan,
//! arXiv 2503.20314, section 4.1; `wan/modules/vae.py` and `vae2_2.py`; diffusers'
//! `autoencoder_kl_wan.py`).
//!
//! The first frame is a latent frame of its own, and every four that follow are one more. No layer looks
//! ahead, so a video of any length goes through a few frames at a time; a layer that looks back keeps at
//! most two frames.

mod block;
mod config;
mod decoder;
mod diffusers;
mod encoder;
pub mod keys;
mod shortcut;
mod stream;
mod tiled;

pub use config::WanVaeConfig;
pub use stream::{DecoderStream, EncoderStream};
pub use tiled::Tiling;

use super::{Autoencoder, Decode, ShapeError};
use block::POINT;
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use decoder::Decoder;
use encoder::Encoder;
use kinora_nn::{Conv, ConvConfig, Recall, Stripes};
use kinora_shard::Cx;

/// A Wan autoencoder.
#[derive(Module, Debug)]
pub struct WanVae {
    encoder: Encoder,
    to_moments: Conv,
    from_latent: Conv,
    decoder: Decoder,
    #[module(skip)]
    stripes: Stripes,
    #[module(skip)]
    config: WanVaeConfig,
    #[module(skip)]
    tiling: Option<Tiling>,
    #[module(skip)]
    place: (Device, DType),
}

impl WanVae {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &WanVaeConfig) -> Self {
        let (c, precision) = (config.channels, cx.precision());
        Self {
            encoder: Encoder::new(&cx.at("encoder"), config),
            to_moments: ConvConfig::new(2 * c, 2 * c, POINT).init(&cx.at("to_moments")),
            from_latent: ConvConfig::new(c, c, POINT).init(&cx.at("from_latent")),
            decoder: Decoder::new(&cx.at("decoder"), config),
            stripes: Stripes::new(cx),
            config: config.clone(),
            tiling: None,
            place: (cx.device().clone(), precision.computed),
        }
    }

    /// The same model, which cuts pictures that are larger than a tile.
    pub fn tiled(self, tiling: Tiling) -> Self {
        Self {
            tiling: Some(tiling),
            ..self
        }
    }

    /// The sizes.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// Begins to encode a video that comes a few frames at a time.
    pub fn encoder_stream(&self) -> EncoderStream<'_> {
        EncoderStream::new(self)
    }

    /// Begins to decode latents that come a few frames at a time.
    pub fn decoder_stream(&self) -> DecoderStream<'_> {
        DecoderStream::new(self)
    }

    /// A video `[B, 3, T, H, W]` to the means and the logarithms of the variances of its latents,
    /// `[B, 2 C, t, h, w]`: a few frames at a time, and in tiles if the model has any.
    ///
    /// # Panics
    /// If the sides do not divide, see [`WanVaeConfig::grid`].
    pub fn moments(&self, video: Tensor<5>) -> Tensor<5> {
        self.check(&video);
        let [_, _, _, h, w] = video.dims();
        let run = |video| {
            let moments = self.encoder_stream().push(video);
            moments.expect("a video has a first frame")
        };
        match self.tiling.filter(|tiling| tiling.cuts([h, w])) {
            Some(tiling) => tiling.run(&video, 1, self.config.scale()[1], run),
            None => run(video),
        }
    }

    /// [`WanVae::moments`] of the whole video at once, through which gradients flow.
    ///
    /// # Panics
    /// As [`WanVae::moments`].
    pub fn moments_at_once(&self, video: Tensor<5>) -> Tensor<5> {
        self.check(&video);
        let mut recall = Recall::whole(self.rows(video.dims()[3]));
        self.encode_part(video, &mut recall)
    }

    /// Latents `[B, C, t, h, w]`, as the encoder's means are, to a video `[B, 3, T, H, W]` that is not
    /// clamped: a frame at a time, and in tiles if the model has any.
    pub fn reconstruct(&self, latent: Tensor<5>) -> Tensor<5> {
        let [_, _, _, h, w] = latent.dims();
        let scale = self.config.scale()[1];
        let run = |latent| self.decoder_stream().push(latent);
        match self
            .tiling
            .filter(|tiling| tiling.cuts([h * scale, w * scale]))
        {
            Some(tiling) => tiling.run(&latent, scale, 1, run),
            None => run(latent),
        }
    }

    /// [`WanVae::reconstruct`] of all latent frames at once, through which gradients flow.
    pub fn reconstruct_at_once(&self, latent: Tensor<5>) -> Tensor<5> {
        let mut recall = Recall::whole(latent.dims()[3]);
        self.decode_part(latent, &mut recall)
    }

    /// The means of [`WanVae::moments`], made to be of about unit variance.
    pub fn normalise(&self, latent: Tensor<5>) -> Tensor<5> {
        let [mean, std] = self.statistics(&latent);
        (latent - mean) / std
    }

    /// The inverse of [`WanVae::normalise`].
    pub fn denormalise(&self, latent: Tensor<5>) -> Tensor<5> {
        let [mean, std] = self.statistics(&latent);
        latent * std + mean
    }

    fn statistics(&self, like: &Tensor<5>) -> [Tensor<5>; 2] {
        [&self.config.mean, &self.config.std].map(|values| {
            let data = TensorData::new(values.clone(), [1, values.len(), 1, 1, 1]);
            Tensor::from_data(data, (&like.device(), like.dtype()))
        })
    }

    fn check(&self, video: &Tensor<5>) {
        let [_, _, t, h, w] = video.dims();
        if let Err(error) = self.latent_shape([t, h, w]) {
            panic!("{error}");
        }
    }

    /// Latent rows of a video that is `height` pixels high.
    fn rows(&self, height: usize) -> usize {
        height / self.config.scale()[1]
    }

    /// The next part of a video to the moments of its latents.
    fn encode_part(&self, video: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        recall.rewind();
        let [b, _, t, h, w] = video.dims();
        let p = self.config.patch;
        let x = video
            .reshape([b, 3, t, h / p, p, w / p, p])
            .permute([0, 2, 3, 5, 1, 6, 4])
            .reshape([b, t, h / p, w / p, self.config.pixel_channels()]);
        let unit = self.config.scale()[1] / p;
        let x = self.stripes.split(x, unit);
        let x = self
            .to_moments
            .forward(self.encoder.forward(x, recall), recall);
        self.stripes
            .join(x, 1, recall.rows())
            .permute([0, 4, 1, 2, 3])
    }

    /// The next part of a latent to the frames of its video.
    fn decode_part(&self, latent: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        recall.rewind();
        let p = self.config.patch;
        let x = self.stripes.split(latent.permute([0, 2, 3, 4, 1]), 1);
        let x = self
            .decoder
            .forward(self.from_latent.forward(x, recall), recall);
        let unit = self.config.scale()[1] / p;
        let x = self.stripes.join(x, unit, recall.rows());
        let [b, t, h, w, _] = x.dims();
        x.reshape([b, t, h, w, 3, p, p])
            .permute([0, 4, 1, 2, 6, 3, 5])
            .reshape([b, 3, t, h * p, w * p])
    }
}

impl Autoencoder for WanVae {
    fn latent_shape(&self, video: [usize; 3]) -> Result<[usize; 4], ShapeError> {
        let [t, h, w] = self.config.grid(video)?;
        let stripes = self.stripes.count();
        if h < stripes {
            return Err(ShapeError::Stripes { rows: h, stripes });
        }
        Ok([self.config.channels, t, h, w])
    }

    fn scale(&self) -> [usize; 3] {
        self.config.scale()
    }

    fn device(&self) -> Device {
        self.place.0.clone()
    }

    fn encode(&self, video: Tensor<5>) -> Tensor<5> {
        let dtype = video.dtype();
        let moments = self.moments(video.cast(self.place.1));
        let mean = moments.narrow(1, 0, self.config.channels);
        self.normalise(mean).cast(dtype)
    }

    fn decode(&self, latent: Tensor<5>) -> Tensor<5> {
        let dtype = latent.dtype();
        let latent = self.denormalise(latent.cast(self.place.1));
        self.reconstruct(latent).clamp(-1.0, 1.0).cast(dtype)
    }

    fn frames(&self, latent: usize) -> usize {
        latent.saturating_sub(1) * self.config.scale()[0] + 1
    }

    fn decoder(&self) -> Box<dyn Decode + '_> {
        Box::new(Decoding {
            vae: self,
            stream: self.decoder_stream(),
        })
    }
}

/// A stream of normalised latents.
struct Decoding<'a> {
    vae: &'a WanVae,
    stream: DecoderStream<'a>,
}

impl Decode for Decoding<'_> {
    fn push(&mut self, latent: Tensor<5>) -> Tensor<5> {
        let dtype = latent.dtype();
        let latent = self.vae.denormalise(latent.cast(self.vae.place.1));
        self.stream.push(latent).clamp(-1.0, 1.0).cast(dtype)
    }
}
