//! The shortcuts around the stages of Wan 2.2's autoencoder, which have no parameters: what is made
//! smaller is averaged, what is made larger is repeated. Videos are `[B, T, H, W, C]`.

use burn::tensor::Tensor;

/// A change of sizes by whole factors along frames, and along rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortcut {
    pub(super) to: usize,
    pub(super) frames: usize,
    pub(super) sides: usize,
}

impl Shortcut {
    /// Blocks of pixels become channels, and neighbouring channels are averaged to so many. The first
    /// frame has a block of its own, with zeros before it.
    pub(super) fn average(self, x: Tensor<5>) -> Tensor<5> {
        let Self { to, frames, sides } = self;
        let [b, t, h, w, c] = x.dims();
        let missing = (frames - t % frames) % frames;
        let x = if missing > 0 {
            let zeros = Tensor::zeros([b, missing, h, w, c], (&x.device(), x.dtype()));
            Tensor::cat(vec![zeros, x], 1)
        } else {
            x
        };
        let [t, h, w] = [(t + missing) / frames, h / sides, w / sides];
        let group = c * frames * sides * sides / to;
        x.reshape([b, t, frames, h, sides, w, sides, c])
            .permute([0, 1, 3, 5, 7, 2, 4, 6])
            .reshape([b * t, h, w, to, group])
            .mean_dim(4)
            .reshape([b, t, h, w, to])
    }

    /// Channels are repeated, and become blocks of pixels. Of the video's first frame only the last of
    /// its block is there.
    pub(super) fn repeat(self, x: Tensor<5>, first: bool) -> Tensor<5> {
        let Self { to, frames, sides } = self;
        let [b, t, h, w, c] = x.dims();
        let group = to * frames * sides * sides / c;
        let x = x
            .reshape([b * t, h, w, c, 1])
            .expand([b * t, h, w, c, group])
            .reshape([b, t, h, w, to, frames, sides, sides])
            .permute([0, 1, 5, 2, 6, 3, 7, 4])
            .reshape([b, t * frames, h * sides, w * sides, to]);
        if !first {
            return x;
        }
        x.narrow(1, frames - 1, (t - 1) * frames + 1)
    }
}
