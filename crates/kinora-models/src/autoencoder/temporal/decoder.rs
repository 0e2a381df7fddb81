//! The decoder: latents to pixels.

use super::TemporalVaeConfig;
use super::block::{Inflated, Middle, Residual, Up};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{PixelNorm, Recall};
use kinora_shard::Cx;

/// Perhaps a step up, and residual blocks.
#[derive(Module, Debug)]
struct Level {
    up: Option<Up>,
    blocks: Vec<Residual>,
}

/// Levels from latents to pixels.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Inflated,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: PixelNorm,
    conv_out: Inflated,
}

impl Decoder {
    pub(super) fn new(cx: &Cx, config: &TemporalVaeConfig) -> Self {
        let widths = config.widths();
        let last = widths[widths.len() - 1];
        let levels = widths.iter().enumerate().rev().map(|(i, &to)| {
            let cx = cx.at("levels").at(widths.len() - 1 - i);
            let from = widths.get(i + 1).copied().unwrap_or(last);
            let blocks = (0..=config.blocks).map(|j| {
                let from = if j == 0 { from } else { to };
                Residual::new(&cx.at("blocks").at(j), from, to)
            });
            Level {
                up: Up::new(&cx.at("up"), from, config.halves(i)),
                blocks: blocks.collect(),
            }
        });
        Self {
            conv_in: Inflated::square(&cx.at("conv_in"), config.channels, last),
            middle: Middle::new(&cx.at("middle"), last),
            levels: levels.collect(),
            norm_out: PixelNorm::new(&cx.at("norm_out"), widths[0]),
            conv_out: Inflated::square(&cx.at("conv_out"), widths[0], config.pixel_channels()),
        }
    }

    /// A latent, `[B, t, h, w, C]`, to `[B, T, H, W, 3 patch^2]`; to one frame if there is only one.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = self.conv_in.forward(x, recall);
        let mut x = self.middle.forward(x, recall);
        for level in &self.levels {
            if let Some(up) = &level.up {
                x = up.forward(x, recall);
            }
            for block in &level.blocks {
                x = block.forward(x, recall);
            }
        }
        self.conv_out.forward(self.norm_out.silu(x), recall)
    }
}
