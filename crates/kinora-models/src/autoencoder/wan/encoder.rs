//! The encoder: pixels to the parameters of a Gaussian for each latent element.

use super::WanVaeConfig;
use super::block::{CUBE, Down, Middle, Residual};
use super::shortcut::Shortcut;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{Conv, ConvConfig, PixelNorm, Recall};
use kinora_shard::Cx;

/// Residual blocks, and all but the last stage a step down.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Residual>,
    down: Option<Down>,
    #[module(skip)]
    shortcut: Option<Shortcut>,
}

/// Stages from pixels to latents.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv_in: Conv,
    stages: Vec<Stage>,
    middle: Middle,
    norm_out: PixelNorm,
    conv_out: Conv,
}

impl Encoder {
    pub(super) fn new(cx: &Cx, config: &WanVaeConfig) -> Self {
        let widths = config.encoder_widths();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let stages = widths.windows(2).enumerate().map(|(i, width)| {
            let cx = cx.at("stages").at(i);
            let (from, to) = (width[0], width[1]);
            let halves_frames = config.halves_frames.get(i).copied();
            let blocks = (0..config.blocks).map(|j| {
                let from = if j == 0 { from } else { to };
                Residual::new(&cx.at("blocks").at(j), from, to)
            });
            Stage {
                blocks: blocks.collect(),
                down: halves_frames.map(|halves| Down::new(&cx.at("down"), to, halves)),
                shortcut: config.shortcuts.then(|| Shortcut {
                    to,
                    frames: if halves_frames == Some(true) { 2 } else { 1 },
                    sides: if halves_frames.is_some() { 2 } else { 1 },
                }),
            }
        });
        Self {
            conv_in: ConvConfig::new(config.pixel_channels(), first, CUBE).init(&cx.at("conv_in")),
            stages: stages.collect(),
            middle: Middle::new(&cx.at("middle"), last),
            norm_out: PixelNorm::new(&cx.at("norm_out"), last),
            conv_out: ConvConfig::new(last, 2 * config.channels, CUBE).init(&cx.at("conv_out")),
        }
    }

    /// Part of a video, `[B, T, H, W, 3 patch^2]`, to `[B, t, h, w, 2 C]`.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let mut x = self.conv_in.forward(x, recall);
        for stage in &self.stages {
            x = stage.forward(x, recall);
        }
        let x = self.middle.forward(x, recall);
        self.conv_out.forward(self.norm_out.silu(x), recall)
    }
}

impl Stage {
    fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let around = self.shortcut.map(|shortcut| shortcut.average(x.clone()));
        let blocks = self.blocks.iter();
        let x = blocks.fold(x, |x, block| block.forward(x, recall));
        let x = match &self.down {
            Some(down) => down.forward(x, recall),
            None => x,
        };
        match around {
            Some(around) => x + around,
            None => x,
        }
    }
}
