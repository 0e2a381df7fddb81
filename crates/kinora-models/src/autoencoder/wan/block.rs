//! What both halves of the autoencoder are made of (Wan, arXiv 2503.20314, section 4.1; `vae.py` and
//! `vae2_2.py` of the models' own code). Videos are `[B, T, H, W, C]`.

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_nn::{Conv, ConvConfig, FrameAttention, PixelNorm, Recall};
use kinora_shard::Cx;

/// The window of most layers.
pub(super) const CUBE: [usize; 3] = [3, 3, 3];
/// Each pixel by itself.
pub(super) const POINT: [usize; 3] = [1, 1, 1];
/// Three frames, each pixel by itself.
const LINE: [usize; 3] = [3, 1, 1];
/// Each frame by itself.
const SQUARE: [usize; 3] = [1, 3, 3];

/// Two convolutions, each behind a norm, and the video itself.
#[derive(Module, Debug)]
pub(super) struct Residual {
    norm1: PixelNorm,
    conv1: Conv,
    norm2: PixelNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Residual {
    pub(super) fn new(cx: &Cx, from: usize, to: usize) -> Self {
        let shortcut = || ConvConfig::new(from, to, POINT).init(&cx.at("shortcut"));
        Self {
            norm1: PixelNorm::new(&cx.at("norm1"), from),
            conv1: ConvConfig::new(from, to, CUBE).init(&cx.at("conv1")),
            norm2: PixelNorm::new(&cx.at("norm2"), to),
            conv2: ConvConfig::new(to, to, CUBE).init(&cx.at("conv2")),
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

/// The blocks between the two halves' stages and the latent.
#[derive(Module, Debug)]
pub(super) struct Middle {
    first: Residual,
    norm: PixelNorm,
    attention: FrameAttention,
    second: Residual,
}

impl Middle {
    pub(super) fn new(cx: &Cx, width: usize) -> Self {
        Self {
            first: Residual::new(&cx.at("first"), width, width),
            norm: PixelNorm::new(&cx.at("norm"), width),
            attention: FrameAttention::new(&cx.at("attention"), width),
            second: Residual::new(&cx.at("second"), width, width),
        }
    }

    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = self.first.forward(x, recall);
        let y = self.attention.forward(self.norm.forward(x.clone()), recall);
        self.second.forward(x + y, recall)
    }
}

/// Half the rows and columns, and perhaps half the frames.
#[derive(Module, Debug)]
pub(super) struct Down {
    space: Conv,
    time: Option<Conv>,
}

impl Down {
    pub(super) fn new(cx: &Cx, width: usize, halves_frames: bool) -> Self {
        let time = || ConvConfig::new(width, width, LINE).skipping();
        Self {
            space: ConvConfig::new(width, width, SQUARE)
                .halving()
                .init(&cx.at("space")),
            time: halves_frames.then(|| time().init(&cx.at("time"))),
        }
    }

    /// The first frame of the video stays a frame of its own.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = self.space.forward(x, recall);
        let Some(time) = &self.time else {
            return x;
        };
        if !recall.is_first() {
            return time.forward(x, recall);
        }
        if x.dims()[1] == 1 {
            time.pass_by(x.clone(), recall);
            return x;
        }
        let first = x.clone().narrow(1, 0, 1);
        Tensor::cat(vec![first, time.forward(x, recall)], 1)
    }
}

/// Twice the rows and columns, and perhaps twice the frames.
#[derive(Module, Debug)]
pub(super) struct Up {
    time: Option<Conv>,
    space: Conv,
}

impl Up {
    pub(super) fn new(cx: &Cx, from: usize, to: usize, doubles_frames: bool) -> Self {
        let time = || ConvConfig::new(from, 2 * from, LINE).init(&cx.at("time"));
        Self {
            time: doubles_frames.then(time),
            space: ConvConfig::new(from, to, SQUARE)
                .doubling()
                .init(&cx.at("space")),
        }
    }

    /// The first frame of the video stays one frame, which those behind it do not look back to.
    pub(super) fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let x = match &self.time {
            None => x,
            Some(time) if !recall.is_first() => pairs(time.forward(x, recall)),
            Some(_) if x.dims()[1] == 1 => {
                recall.skip();
                x
            }
            Some(time) => {
                let rest = x.dims()[1] - 1;
                let first = x.clone().narrow(1, 0, 1);
                let rest = time.forward(x.narrow(1, 1, rest), recall);
                Tensor::cat(vec![first, pairs(rest)], 1)
            }
        };
        self.space.forward(x, recall)
    }
}

/// Two frames out of the two halves of the channels of each.
fn pairs(x: Tensor<5>) -> Tensor<5> {
    let [b, t, h, w, c] = x.dims();
    x.reshape([b, t, h * w, 2, c / 2])
        .swap_dims(2, 3) // [B, T, 2, H W, C / 2]
        .reshape([b, 2 * t, h, w, c / 2])
}
