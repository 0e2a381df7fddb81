//! The whole transformer: latents, time, text and image to a velocity.

use super::WanConfig;
use super::block::{Block, Place};
use super::head::Head;
use super::image::Image;
use super::text::Text;
use super::time::Time;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{Linear, LinearConfig, Rotary, Sequence, TextEntry};
use kinora_shard::{Cx, Stack};

/// The slowest part of a head turns so many times as slowly as the fastest.
const THETA: f64 = 10_000.0;

/// A Wan video transformer.
#[derive(Module, Debug)]
pub struct Wan {
    patch: Linear,
    time: Time,
    text: Text,
    image: Option<Image>,
    entry: TextEntry,
    rotary: Rotary,
    blocks: Stack<Block>,
    head: Head,
    sequence: Sequence,
    #[module(skip)]
    config: WanConfig,
}

impl Wan {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &WanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let token = Axis::Channel.of(config.patch_len(config.channels));
        let image = config.image.as_ref();
        Self {
            patch: LinearConfig::new(token, width)
                .with_bias()
                .init(&cx.at("patch")),
            time: Time::new(&cx.at("time"), config),
            text: Text::new(&cx.at("text"), config),
            image: image.map(|image| Image::new(&cx.at("image"), config, image)),
            entry: TextEntry::new(cx),
            rotary: Rotary::new(cx, config.rotary(), THETA),
            blocks: Stack::new(&cx.at("blocks"), config.layers, |cx| Block::new(cx, config)),
            head: Head::new(&cx.at("head"), config),
            sequence: Sequence::new(cx),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// Latents `[B, C, T, H, W]` to velocities, noise minus data, of `[B, C of the velocity, T, H, W]`.
    ///
    /// `time` is in 0..=1000, 1,000 being noise: `[B, 1]`, or `[B, S]` for each token, width fastest
    /// (Wan 2.2, where the tokens of a given image are at time 0). `text` is `[B, L, width]` of the
    /// text encoder, without padding; a model that was made with `config.image` also reads `image`,
    /// `[B, I, width]` of the image encoder.
    ///
    /// # Panics
    /// If sizes do not fit each other or the config.
    pub fn forward(
        &self,
        latent: Tensor<5>,
        time: Tensor<2>,
        text: Tensor<3>,
        image: Option<Tensor<3>>,
    ) -> Tensor<5> {
        let [b, channels, t, h, w] = latent.dims();
        assert_eq!(channels, self.config.channels, "channels of the latent");
        assert_eq!(time.dims()[0], b, "one time for each latent");
        assert_eq!(text.dims()[0], b, "one text for each latent");
        let grid = self.config.grid([t, h, w]);
        let tokens = grid.iter().product();
        let (device, dtype) = (latent.device(), latent.dtype());
        let patches = self.patchify(latent); // [B, S, C * pt * ph * pw]
        let time = self.time.forward(time, tokens); // [B, 1 or S, D]
        let (other, image) = self.other(text, image); // [B, I + L, D]

        let x = self.patch.forward(self.sequence.split(patches)); // [B, S, D]
        let place = Place {
            rotation: self.rotary.forward(grid, &device, dtype),
            tokens,
            image,
        };
        let inputs = [x, time.shared, other];
        let x = self
            .blocks
            .forward(inputs, move |block, inputs| block.forward(inputs, &place));
        let x = self.head.forward(x, time.time); // [B, S, pt * ph * pw * C]
        self.unpatchify(self.sequence.join(x, tokens), [t, h, w])
    }

    /// What cross-attention reads, `[B, I + L, D]`, and how many tokens of it are the image's.
    fn other(&self, text: Tensor<3>, image: Option<Tensor<3>>) -> (Tensor<3>, usize) {
        let text = self.text.forward(text);
        let (other, len) = match (&self.image, image) {
            (None, None) => (text, 0),
            (Some(embed), Some(image)) => {
                let image = embed.forward(image);
                let len = image.dims()[1];
                (Tensor::cat(vec![image, text], 1), len)
            }
            (Some(_), None) => panic!("the model reads an image, and none was given"),
            (None, Some(_)) => panic!("an image was given, and the model reads none"),
        };
        (self.entry.forward(other), len)
    }

    /// `[B, C, T, H, W]` to `[B, t h w, C * pt * ph * pw]`, width fastest.
    fn patchify(&self, latent: Tensor<5>) -> Tensor<3> {
        let [b, c, t, h, w] = latent.dims();
        let [pt, ph, pw] = self.config.patch;
        let [nt, nh, nw] = self.config.grid([t, h, w]);
        assert_eq!(
            [nt * pt, nh * ph, nw * pw],
            [t, h, w],
            "a latent of whole patches"
        );
        latent
            .reshape([b, c, nt, pt, nh, ph, nw, pw])
            .permute([0, 2, 4, 6, 1, 3, 5, 7])
            .reshape([b, nt * nh * nw, c * pt * ph * pw])
    }

    /// `[B, t h w, pt * ph * pw * C]` to `[B, C, T, H, W]`: unlike going in, channels are last.
    fn unpatchify(&self, tokens: Tensor<3>, [t, h, w]: [usize; 3]) -> Tensor<5> {
        let b = tokens.dims()[0];
        let c = self.config.out_channels;
        let [pt, ph, pw] = self.config.patch;
        let [nt, nh, nw] = self.config.grid([t, h, w]);
        tokens
            .reshape([b, nt, nh, nw, pt, ph, pw, c])
            .permute([0, 7, 1, 4, 2, 5, 3, 6])
            .reshape([b, c, t, h, w])
    }
}
