//! The encoder: pixels to the parameters of a Gaussian for each latent element.

use super::TemporalVaeConfig;
use super::block::{Down, Inflated, Middle, Residual};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{PixelNorm, Recall};
use kinora_shard::Cx;

/// Residual blocks, and perhaps a step down.
#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Residual>,
    down: Option<Down>,
}

/// Levels from pixels to latents.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv_in: Inflated,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: PixelNorm,
    conv_out: Inflated,
}

impl Encoder {
    pub(super) fn new(cx: &Cx, config: &TemporalVaeConfig) -> Self {
        let widths = config.widths();
        let last = widths[widths.len() - 1];
        let levels = widths.iter().enumerate().map(|(i, &to)| {
            let cx = cx.at("levels").at(i);
            let from = if i == 0 { to } else { widths[i - 1] };
            let blocks = (0..config.blocks).map(|j| {
                let from = if j == 0 { from } else { to };
                Residual::new(&cx.at("blocks").at(j), from, to)
            });
            Level {
                blocks: blocks.collect(),
                down: Down::new(&cx.at("down"), to, config.halves(i)),
            }
        });
        Self {
            conv_in: Inflated::square(&cx.at("conv_in"), config.pixel_channels(), widths[0]),
            levels: levels.collect(),
            middle: Middle::new(&cx.at("middle"), last),
            norm_out: PixelNorm::new(&cx.at("norm_out"), last),
            conv_out: Inflated::square(&cx.at("conv_out"), last, 2 * config.channels),
        }
    }

    /// A video, `[B, T, H, W, 3 patch^2]`, to `[B, t, h, w, 2 C]`.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let mut x = self.conv_in.forward(x, recall);
        for level in &self.levels {
            for block in &level.blocks {
                x = block.forward(x, recall);
            }
            if let Some(down) = &level.down {
                x = down.forward(x, recall);
            }
        }
        let x = self.middle.forward(x, recall);
        self.conv_out.forward(self.norm_out.silu(x), recall)
    }
}
