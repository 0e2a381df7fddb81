//! Movie Gen's temporal autoencoder (arXiv 2410.13720, section 3.1.1): an image autoencoder in the
//! manner of Stable Diffusion whose every convolution is followed by one along time, and whose attention
//! within frames by attention along time.
//!
//! Time has no direction here: before the first frame and behind the last lie copies of them. So any
//! number of frames can be encoded, an image is a video of one frame, and a still video of any length
//! has the latent of its frame.

mod block;
mod config;
mod decoder;
mod encoder;
mod loss;
mod tiled;

pub use config::{ConfigError, TemporalVaeConfig};
pub use loss::{Distance, LossConfig, Losses};

use super::{Alone, Autoencoder, Decode, ShapeError};
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use decoder::Decoder;
use encoder::Encoder;
use kinora_nn::{Recall, Stripes};
use kinora_shard::Cx;

/// A temporal autoencoder.
#[derive(Module, Debug)]
pub struct TemporalVae {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    stripes: Stripes,
    #[module(skip)]
    config: TemporalVaeConfig,
    #[module(skip)]
    place: (Device, DType),
}

impl TemporalVae {
    /// A model with initial weights keyed by (seed, path).
    ///
    /// # Panics
    /// If the sizes do not fit, see [`TemporalVaeConfig::check`].
    pub fn new(cx: &Cx, config: &TemporalVaeConfig) -> Self {
        if let Err(error) = config.check() {
            panic!("{error}");
        }
        Self {
            encoder: Encoder::new(&cx.at("encoder"), config),
            decoder: Decoder::new(&cx.at("decoder"), config),
            stripes: Stripes::new(cx),
            config: config.clone(),
            place: (cx.device().clone(), cx.precision().computed),
        }
    }

    /// The same model, whose latents have these means and standard deviations, one a channel.
    ///
    /// # Panics
    /// If there are not as many as channels.
    pub fn with_statistics(mut self, mean: Vec<f64>, std: Vec<f64>) -> Self {
        assert_eq!([mean.len(), std.len()], [self.config.channels; 2]);
        (self.config.mean, self.config.std) = (mean, std);
        self
    }

    /// The same model for inputs without gradients, on this device.
    pub fn placed(mut self, device: &Device) -> Self {
        self.place.0 = device.clone();
        self
    }

    /// The sizes.
    pub fn config(&self) -> &TemporalVaeConfig {
        &self.config
    }

    /// A video `[B, 3, T, H, W]` to the means and the logarithms of the variances of its latents,
    /// `[B, 2 C, t, h, w]`, tile by tile.
    ///
    /// # Panics
    /// If the sides do not divide, see [`TemporalVaeConfig::grid`].
    pub fn moments(&self, video: Tensor<5>) -> Tensor<5> {
        tiled::apart(&video, self.config.tile, |tile| self.moments_at_once(tile))
    }

    /// [`TemporalVae::moments`] of the whole video at once, as in training.
    ///
    /// # Panics
    /// As [`TemporalVae::moments`].
    pub fn moments_at_once(&self, video: Tensor<5>) -> Tensor<5> {
        let [b, _, t, h, w] = video.dims();
        if let Err(error) = self.latent_shape([t, h, w]) {
            panic!("{error}");
        }
        let p = self.config.patch;
        let x = video
            .reshape([b, 3, t, h / p, p, w / p, p])
            .permute([0, 2, 3, 5, 1, 4, 6])
            .reshape([b, t, h / p, w / p, self.config.pixel_channels()]);
        let side = self.config.scale()[1];
        let mut recall = Recall::whole(h / side);
        let x = self.stripes.split(x, side / p);
        let x = self.encoder.forward(x, &mut recall);
        self.stripes
            .join(x, 1, recall.rows())
            .permute([0, 4, 1, 2, 3])
    }

    /// Latents `[B, C, t, h, w]`, as the encoder's means are, to a video `[B, 3, T, H, W]` of whole latent
    /// frames that is not clamped, in tiles whose seams are mixed.
    pub fn reconstruct(&self, latent: Tensor<5>) -> Tensor<5> {
        let step = self.config.scale()[0];
        let tiles = (self.config.tile / step, self.config.overlap / step);
        tiled::blended(&latent, tiles, step, |tile| self.reconstruct_at_once(tile))
    }

    /// [`TemporalVae::reconstruct`] of the whole latent at once, as in training.
    pub fn reconstruct_at_once(&self, latent: Tensor<5>) -> Tensor<5> {
        let [_, _, t, rows, _] = latent.dims();
        let (p, [step, side, _]) = (self.config.patch, self.config.scale());
        let mut recall = Recall::whole(rows);
        let x = self.stripes.split(latent.permute([0, 2, 3, 4, 1]), 1);
        let x = self.decoder.forward(x, &mut recall);
        let x = self.stripes.join(x, side / p, rows);
        // The only frame stands for all.
        let x = if t == 1 { block::each(x, step) } else { x };
        let [b, t, h, w, _] = x.dims();
        x.reshape([b, t, h, w, 3, p, p])
            .permute([0, 4, 1, 2, 5, 3, 6])
            .reshape([b, 3, t, h * p, w * p])
    }

    /// The means of [`TemporalVae::moments`], made to be of about unit variance; as they are if nothing
    /// was measured.
    pub fn normalise(&self, latent: Tensor<5>) -> Tensor<5> {
        match self.statistics(&latent) {
            Some([mean, std]) => (latent - mean) / std,
            None => latent,
        }
    }

    /// The inverse of [`TemporalVae::normalise`].
    pub fn denormalise(&self, latent: Tensor<5>) -> Tensor<5> {
        match self.statistics(&latent) {
            Some([mean, std]) => latent * std + mean,
            None => latent,
        }
    }

    fn statistics(&self, like: &Tensor<5>) -> Option<[Tensor<5>; 2]> {
        let TemporalVaeConfig { mean, std, .. } = &self.config;
        let measured = !mean.is_empty() && !std.is_empty();
        measured.then(|| {
            [mean, std].map(|values| {
                let data = TensorData::new(values.clone(), [1, values.len(), 1, 1, 1]);
                Tensor::from_data(data, (&like.device(), like.dtype()))
            })
        })
    }
}

impl Autoencoder for TemporalVae {
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

    /// Frames look both ways, but not beyond what is pushed together: where two pushes meet, frames may
    /// differ from those of the whole.
    fn decoder(&self) -> Box<dyn Decode + '_> {
        Box::new(Alone(self))
    }
}
