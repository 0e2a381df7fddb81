//! What both halves of the autoencoder are made of: the blocks of an image autoencoder, inflated. Videos
//! are `[B, T, H, W, C]`.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{Conv, ConvConfig, FrameAttention, PixelNorm, Recall, TimeAttention, TimeConv};
use kinora_shard::Cx;

/// Each frame by itself.
const SQUARE: [usize; 3] = [1, 3, 3];
/// Each pixel by itself.
const POINT: [usize; 3] = [1, 1, 1];

/// A convolution of each frame, then one along time.
#[derive(Module, Debug)]
pub(super) struct Inflated {
    space: Conv,
    time: TimeConv,
}

impl Inflated {
    fn new(cx: &Cx, space: ConvConfig, to: usize) -> Self {
        Self {
            space: space.init(&cx.at("space")),
            time: TimeConv::new(&cx.at("time"), to),
        }
    }

    /// Over a square of three by three pixels.
    pub(super) fn square(cx: &Cx, from: usize, to: usize) -> Self {
        Self::new(cx, ConvConfig::new(from, to, SQUARE), to)
    }

    /// Over channels only.
    fn point(cx: &Cx, from: usize, to: usize) -> Self {
        Self::new(cx, ConvConfig::new(from, to, POINT), to)
    }

    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        self.time.forward(self.space.forward(x, recall))
    }
}

/// Two convolutions, each behind a norm, and the video itself.
#[derive(Module, Debug)]
pub(super) struct Residual {
    norm1: PixelNorm,
    conv1: Inflated,
    norm2: PixelNorm,
    conv2: Inflated,
    shortcut: Option<Inflated>,
}

impl Residual {
    pub(super) fn new(cx: &Cx, from: usize, to: usize) -> Self {
        let shortcut = || Inflated::point(&cx.at("shortcut"), from, to);
        Self {
            norm1: PixelNorm::new(&cx.at("norm1"), from),
            conv1: Inflated::square(&cx.at("conv1"), from, to),
            norm2: PixelNorm::new(&cx.at("norm2"), to),
            conv2: Inflated::square(&cx.at("conv2"), to, to),
            shortcut: (from != to).then(shortcut),
        }
    }

    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let y = self.conv1.forward(self.norm1.silu(x.clone()), recall);
        let y = self.conv2.forward(self.norm2.silu(y), recall);
        match &self.shortcut {
            Some(shortcut) => y + shortcut.forward(x, recall),
            None => y + x,
        }
    }
}

/// The blocks between the two halves' levels and the latent, where pixels attend to those of their
/// frame, then to themselves in all frames.
#[derive(Module, Debug)]
pub(super) struct Middle {
    first: Residual,
    norm_space: PixelNorm,
    space: FrameAttention,
    norm_time: PixelNorm,
    time: TimeAttention,
    second: Residual,
}

impl Middle {
    pub(super) fn new(cx: &Cx, width: usize) -> Self {
        Self {
            first: Residual::new(&cx.at("first"), width, width),
            norm_space: PixelNorm::new(&cx.at("norm_space"), width),
            space: FrameAttention::new(&cx.at("space"), width),
            norm_time: PixelNorm::new(&cx.at("norm_time"), width),
            time: TimeAttention::new(&cx.at("time"), width),
            second: Residual::new(&cx.at("second"), width, width),
        }
    }

    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = self.first.forward(x, recall);
        let x = x.clone() + self.space.forward(self.norm_space.forward(x), recall);
        let x = x.clone() + self.time.forward(self.norm_time.forward(x));
        self.second.forward(x, recall)
    }
}

/// Half the frames, half the rows and columns, or both: convolutions of stride two.
#[derive(Module, Debug)]
pub(super) struct Down {
    space: Conv,
    time: TimeConv,
}

impl Down {
    /// `None` where nothing is halved.
    pub(super) fn new(cx: &Cx, width: usize, [frames, sides]: [bool; 2]) -> Option<Self> {
        let space = ConvConfig::new(width, width, SQUARE);
        let space = if sides { space.halving() } else { space };
        (frames || sides).then(|| Self {
            space: space.init(&cx.at("space")),
            time: TimeConv::new(&cx.at("time"), width).halving(frames),
        })
    }

    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        self.time.forward(self.space.forward(x, recall))
    }
}

/// Twice the frames, twice the rows and columns, or both: the nearest, then convolutions.
#[derive(Module, Debug)]
pub(super) struct Up {
    space: Conv,
    time: TimeConv,
    #[module(skip)]
    doubles_frames: bool,
}

impl Up {
    /// `None` where nothing is doubled.
    pub(super) fn new(cx: &Cx, width: usize, [frames, sides]: [bool; 2]) -> Option<Self> {
        let space = ConvConfig::new(width, width, SQUARE);
        let space = if sides { space.doubling() } else { space };
        (frames || sides).then(|| Self {
            space: space.init(&cx.at("space")),
            time: TimeConv::new(&cx.at("time"), width),
            doubles_frames: frames,
        })
    }

    /// A single frame stays one: with copies of it before and behind, no layer could tell its copies
    /// apart.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        // The convolution of a frame does not depend on how often the frame comes.
        let x = self.space.forward(x, recall);
        let single = x.dims()[1] == 1;
        let x = if self.doubles_frames && !single {
            each(x, 2)
        } else {
            x
        };
        self.time.forward(x)
    }
}

/// Each frame so many times.
pub(super) fn each(x: Tensor<5>, times: usize) -> Tensor<5> {
    let [b, t, h, w, c] = x.dims();
    x.reshape([b, t, 1, h * w, c])
        .repeat_dim(2, times)
        .reshape([b, t * times, h, w, c])
}
