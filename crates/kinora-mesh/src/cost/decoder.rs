//! A causal convolutional video decoder (Wan 2.1's, Wu et al. 2025): what it keeps and what it costs.

use super::Dtype;
use serde::{Deserialize, Serialize};

// Taps of a convolution along each side, and frames that a causal one keeps for the next chunk.
const TAPS: usize = 3;
const KEPT: usize = TAPS - 1;
// Channels of a picture.
const COLOURS: usize = 3;

/// Levels of residual blocks, coarsest first, each followed by an upsampling but the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// Parameters of the autoencoder, encoder included.
    pub elements: usize,
    /// Latent channels.
    pub channels: usize,
    /// The levels.
    pub levels: Vec<Level>,
    /// The type of weights and activations.
    pub dtype: Dtype,
}

/// One resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Channels that enter.
    pub input: usize,
    /// Channels inside.
    pub width: usize,
    /// Residual blocks of two convolutions each.
    pub blocks: usize,
    /// Pixels along each side for one of the latent.
    pub scale: usize,
    /// Frames for one of the latent.
    pub frames: usize,
}

impl Decoder {
    /// Wan 2.1's: base width 96, multiples 4, 4, 2 and 1, three residual blocks a level and two in
    /// the middle, which is counted as part of the first level.
    pub fn wan_2_1() -> Self {
        let level = |input, width, blocks, scale, frames| Level {
            input,
            width,
            blocks,
            scale,
            frames,
        };
        Self {
            elements: 126_892_531,
            channels: 16,
            levels: vec![
                level(384, 384, 5, 1, 1),
                level(192, 384, 3, 2, 2),
                level(192, 192, 3, 4, 4),
                level(96, 96, 3, 8, 4),
            ],
            dtype: Dtype::F32,
        }
    }

    /// Bytes of the weights.
    pub fn weights(&self) -> usize {
        self.elements * self.dtype.size()
    }

    /// Numbers of one frame of one channel at a level.
    fn pixels(level: &Level, [_, height, width]: [usize; 3]) -> usize {
        height * width * level.scale * level.scale
    }

    /// The most bytes of activations while one latent frame after the other is decoded: the frames
    /// kept for the next chunk, the pictures so far, and the operands of the widest convolution.
    pub fn peak(&self, latent: [usize; 3], conv_copies: bool) -> usize {
        let kept: usize = self
            .levels
            .iter()
            .map(|level| self.kept(level, latent))
            .sum();
        let last = self.levels.last().expect("a decoder has a level");
        let head = KEPT * last.width * Self::pixels(last, latent);
        let frames = latent[0] * last.frames;
        let pictures = frames * COLOURS * Self::pixels(last, latent);
        let live = self.levels.iter().map(|level| {
            // Frames alive in the second convolution of a residual block: the block's input, the
            // convolution's, the kept ones that are about to be replaced, those joined with the
            // input, and the same with a border.
            let (chunk, joined) = (level.frames, level.frames + KEPT);
            let padding = 2 * chunk + KEPT + 2 * joined;
            let product = 2 * chunk + KEPT + joined + chunk;
            let copies = if conv_copies { joined + chunk } else { 0 };
            padding.max(product + copies) * level.width * Self::pixels(level, latent)
        });
        let live = live.max().expect("a decoder has a level");
        (kept + head + pictures + live) * self.dtype.size()
    }

    /// Numbers kept between chunks at one level: the last frames of every convolution's input.
    fn kept(&self, level: &Level, latent: [usize; 3]) -> usize {
        let channels = level.input + (2 * level.blocks - 1) * level.width;
        KEPT * channels * Self::pixels(level, latent)
    }

    /// Operations to decode a latent.
    pub fn flops(&self, latent: [usize; 3]) -> f64 {
        let level = |level: &Level| {
            let taps = TAPS * TAPS * TAPS;
            let convs =
                level.input * level.width + (2 * level.blocks - 1) * level.width * level.width;
            // The upsampling that leads here halves the channels with one flat convolution.
            let up = if level.scale > 1 {
                2 * level.input * level.input * TAPS * TAPS
            } else {
                0
            };
            let pixels = latent[0] * level.frames * Self::pixels(level, latent);
            2.0 * (taps * convs + up) as f64 * pixels as f64
        };
        self.levels.iter().map(level).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_needs_memory_by_the_pixel_and_time_by_the_frame() {
        let decoder = Decoder::wan_2_1();
        let (small, large) = ([21, 60, 104], [21, 90, 160]);
        let ratio = decoder.peak(large, true) as f64 / decoder.peak(small, true) as f64;
        assert!(
            (ratio - (90.0 * 160.0) / (60.0 * 104.0)).abs() < 1e-3,
            "{ratio}"
        );
        let twice = decoder.flops([42, 60, 104]) / decoder.flops(small);
        assert!((twice - 2.0).abs() < 1e-12, "{twice}");
        assert!(decoder.peak(large, true) > decoder.peak(large, false));
    }
}
