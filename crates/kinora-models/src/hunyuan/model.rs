//! The whole transformer: latents, time, prompt and guidance to a velocity.

use super::HunyuanConfig;
use super::condition::Condition;
use super::double::{Double, Place};
use super::head::Head;
use super::refiner::Refiner;
use super::single::Single;
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{JointTokens, Linear, LinearConfig, Rotary, Sequence};
use kinora_shard::{Cx, Stack};

/// The HunyuanVideo transformer.
#[derive(Module, Debug)]
pub struct HunyuanVideo {
    patch: Linear,
    condition: Condition,
    refiner: Refiner,
    rotary: Rotary,
    double: Stack<Double>,
    single: Stack<Single>,
    head: Head,
    sequence: Sequence,
    #[module(skip)]
    config: HunyuanConfig,
}

/// What the text encoders made of the prompts.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The language model's states, `[B, L, width]`.
    pub text: Tensor<3>,
    /// `[B, L]`, false for padding, which comes last.
    pub mask: Tensor<2, Bool>,
    /// CLIP's summary, `[B, 1, width]`.
    pub pooled: Tensor<3>,
}

impl HunyuanVideo {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &HunyuanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let token = Axis::Channel.of(config.patch_len(config.channels));
        let (double, single) = (cx.at("double"), cx.at("single"));
        Self {
            patch: LinearConfig::new(token, width)
                .with_bias()
                .init(&cx.at("patch")),
            condition: Condition::new(&cx.at("condition"), config),
            refiner: Refiner::new(&cx.at("refiner"), config),
            rotary: Rotary::new(cx, config.rotary, config.theta),
            double: Stack::new(&double, config.double, |cx| Double::new(cx, config)),
            single: Stack::new(&single, config.single, |cx| Single::new(cx, config)),
            head: Head::new(&cx.at("head"), config),
            sequence: Sequence::new(cx),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &HunyuanConfig {
        &self.config
    }

    /// Latents `[B, C, T, H, W]` to velocities, noise minus data, of `[B, C of the velocity, T, H, W]`.
    ///
    /// `time`, `[B, 1]`, is in 0..=1000, 1,000 being noise; `guidance`, `[B, 1]`, is a thousand times
    /// the scale, and is given if and only if the config says so.
    ///
    /// # Panics
    /// If sizes do not fit each other or the config.
    pub fn forward(
        &self,
        latent: Tensor<5>,
        time: Tensor<2>,
        prompt: Prompt,
        guidance: Option<Tensor<2>>,
    ) -> Tensor<5> {
        let [b, channels, t, h, w] = latent.dims();
        assert_eq!(channels, self.config.channels, "channels of the latent");
        assert_eq!(time.dims(), [b, 1], "one time for each latent");
        assert_eq!(prompt.text.dims()[0], b, "one prompt for each latent");
        let grid = self.config.grid([t, h, w]);
        let tokens = JointTokens {
            video: grid.iter().product(),
            text: prompt.text.dims()[1],
        };
        let rotation = self.rotary.forward(grid, &latent.device(), latent.dtype());
        let mask = prompt.mask.inner();
        let text = self
            .refiner
            .forward(prompt.text, mask.clone(), time.clone());
        let condition = self.condition.forward(time, prompt.pooled, guidance); // [B, 1, D]

        let patches = self.patchify(latent); // [B, S, C * pt * ph * pw]
        let video = self.patch.forward(self.sequence.split(patches)); // [B, S, D]
        let text = self.sequence.part_of_text(text); // [B, L, D]
        let place = Place {
            rotation,
            mask,
            tokens,
            video: video.dims()[1],
        };
        let both = Tensor::cat(vec![video, text], 1);
        let here = place.clone();
        let both = self
            .double
            .forward([both, condition.clone()], move |block, inputs| {
                block.forward(inputs, &here)
            });
        let here = place.clone();
        let both = self
            .single
            .forward([both, condition.clone()], move |block, inputs| {
                block.forward(inputs, &here)
            });
        let [video, _] = place.apart(both);
        let video = self.head.forward(video, condition); // [B, S, C * pt * ph * pw]
        self.unpatchify(self.sequence.join(video, tokens.video), [t, h, w])
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

    /// The inverse of [`HunyuanVideo::patchify`], of the velocity's channels.
    fn unpatchify(&self, tokens: Tensor<3>, [t, h, w]: [usize; 3]) -> Tensor<5> {
        let b = tokens.dims()[0];
        let c = self.config.out_channels;
        let [pt, ph, pw] = self.config.patch;
        let [nt, nh, nw] = self.config.grid([t, h, w]);
        tokens
            .reshape([b, nt, nh, nw, c, pt, ph, pw])
            .permute([0, 4, 1, 5, 2, 6, 3, 7])
            .reshape([b, c, t, h, w])
    }
}
