//! The decoder: latents to pixels.

use super::WanVaeConfig;
use super::block::{CUBE, Middle, Residual, Up};
use super::shortcut::Shortcut;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{Conv, ConvConfig, PixelNorm, Recall};
use kinora_shard::Cx;

/// Residual blocks, and all but the last stage a step up.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Residual>,
    up: Option<Up>,
    #[module(skip)]
    shortcut: Option<Shortcut>,
}

/// Stages from latents to pixels.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Conv,
    middle: Middle,
    stages: Vec<Stage>,
    norm_out: PixelNorm,
    conv_out: Conv,
}

impl Decoder {
    pub(super) fn new(cx: &Cx, config: &WanVaeConfig) -> Self {
        let widths = config.decoder_widths();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let doubles: Vec<bool> = config.halves_frames.iter().rev().copied().collect();
        let stages = widths.windows(2).enumerate().map(|(i, width)| {
            let cx = cx.at("stages").at(i);
            let to = width[1];
            // Without shortcuts a step up halves the channels too.
            let halved = i > 0 && !config.shortcuts;
            let from = if halved { width[0] / 2 } else { width[0] };
            let doubles_frames = doubles.get(i).copied();
            let blocks = (0..=config.blocks).map(|j| {
                let from = if j == 0 { from } else { to };
                Residual::new(&cx.at("blocks").at(j), from, to)
            });
            let next = if config.shortcuts { to } else { to / 2 };
            let sizes = doubles_frames.filter(|_| config.shortcuts);
            Stage {
                blocks: blocks.collect(),
                up: doubles_frames.map(|doubles| Up::new(&cx.at("up"), to, next, doubles)),
                shortcut: sizes.map(|doubles| Shortcut {
                    to,
                    frames: if doubles { 2 } else { 1 },
                    sides: 2,
                }),
            }
        });
        Self {
            conv_in: ConvConfig::new(config.channels, first, CUBE).init(&cx.at("conv_in")),
            middle: Middle::new(&cx.at("middle"), first),
            stages: stages.collect(),
            norm_out: PixelNorm::new(&cx.at("norm_out"), last),
            conv_out: ConvConfig::new(last, config.pixel_channels(), CUBE).init(&cx.at("conv_out")),
        }
    }

    /// Part of a latent, `[B, t, h, w, C]`, to `[B, T, H, W, 3 patch^2]`.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = self.conv_in.forward(x, recall);
        let mut x = self.middle.forward(x, recall);
        for stage in &self.stages {
            x = stage.forward(x, recall);
        }
        self.conv_out.forward(self.norm_out.silu(x), recall)
    }
}

impl Stage {
    fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let first = recall.is_first();
        let around = (self.shortcut).map(|shortcut| shortcut.repeat(x.clone(), first));
        let blocks = self.blocks.iter();
        let x = blocks.fold(x, |x, block| block.forward(x, recall));
        let x = match &self.up {
            Some(up) => up.forward(x, recall),
            None => x,
        };
        match around {
            Some(around) => x + around,
            None => x,
        }
    }
}
