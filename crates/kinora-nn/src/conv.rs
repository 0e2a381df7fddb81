//! Convolutions of videos that look back in time only, and may be cut into stripes.
//!
//! Shapes: `B` samples, `T` frames, `H` rows of this rank, `W` columns, `C` and `D` channels.

use crate::{Recall, Stripes};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_kernels::{Window, convolve};
use kinora_mesh::Axis;
use kinora_shard::{Cx, Init, Weight};

/// What a [`Conv`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    from: usize,
    to: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    // Zeros before the first frame, and around the picture: above and left, below and right.
    front: usize,
    before: usize,
    after: usize,
    enlarge: usize,
}

impl ConvConfig {
    /// A window of `kernel` elements along frames, rows and columns: the last of its frames is the
    /// output's, and the middle of its rows and columns.
    pub fn new(from: usize, to: usize, kernel: [usize; 3]) -> Self {
        assert!(kernel[1] == kernel[2] && kernel[1] % 2 == 1, "{kernel:?}");
        Self {
            from,
            to,
            kernel,
            stride: [1; 3],
            front: kernel[0] - 1,
            before: kernel[1] / 2,
            after: kernel[1] / 2,
            enlarge: 1,
        }
    }

    /// Every second row and column, where a window begins at the pixel that it is kept for.
    pub fn halving(self) -> Self {
        Self {
            stride: [1, 2, 2],
            before: 0,
            ..self
        }
    }

    /// Of a video whose every pixel is a square of four first.
    pub fn doubling(self) -> Self {
        Self { enlarge: 2, ..self }
    }

    /// Every second frame that has all it looks back to.
    pub fn skipping(self) -> Self {
        Self {
            stride: [2, 1, 1],
            front: 0,
            ..self
        }
    }

    /// Creates the layer, with weights of variance `1 / (3 from)` for `from` numbers that are added.
    pub fn init(self, cx: &Cx) -> Conv {
        let from = self.from * self.kernel.iter().product::<usize>();
        let std = (3.0 * from as f64).powf(-0.5);
        let [rows, to] = [from, self.to].map(|len| Axis::Embed.of(len));
        Conv {
            weight: cx.param("weight", [rows, to], Init::Normal(std)),
            bias: cx.param("bias", [to], Init::Constant(0.0)),
            stripes: Stripes::new(cx),
            config: self,
        }
    }
}

/// A convolution that is causal in time, with a weight of `[C taps, D]`: channels outside, and the
/// elements of the window by frame, row and column inside.
#[derive(Module, Debug)]
pub struct Conv {
    weight: Weight<2>,
    bias: Weight<1>,
    #[module(skip)]
    stripes: Stripes,
    #[module(skip)]
    config: ConvConfig,
}

impl Conv {
    /// `[B, T, H, W, C]` to `[B, T', H', W', D]`. A layer that looks back takes its turn in `recall`,
    /// where it finds the frames before and leaves those that it will need.
    ///
    /// # Panics
    /// With a `CommError` as payload if rows have to be exchanged and the transport fails.
    pub fn forward(&self, x: Tensor<5>, recall: &mut Recall) -> Tensor<5> {
        let ConvConfig {
            kernel,
            stride,
            front,
            before,
            after,
            enlarge,
            ..
        } = self.config;
        let [_, t, h, w, _] = x.dims();
        // Alone, what lies outside is zero; in a stripe, it is the neighbours'.
        let striped = self.stripes.count() > 1;
        let x = self.stripes.widen(x, before, after);
        let above = if striped { before * enlarge } else { 0 };

        let looks_back = kernel[0] > 1;
        let earlier = if looks_back { recall.earlier() } else { None };
        let known = earlier.as_ref().map_or(0, |earlier| earlier.dims()[1]);
        let zeros = front.saturating_sub(known);
        if looks_back {
            recall.keep(earlier.as_ref(), &x, kernel[0] - stride[0]);
        }
        let window = Window {
            kernel,
            stride,
            before: [
                zeros as isize,
                before as isize - above as isize,
                before as isize,
            ],
            out: [
                (zeros + known + t - kernel[0]) / stride[0] + 1,
                h * enlarge / stride[1],
                w * enlarge / stride[2],
            ],
            enlarge,
        };
        convolve(earlier, x, self.weight.val(), self.bias.val(), window)
    }
    /// Takes the layer's turn with frames that it will look back to, but computes nothing.
    pub fn pass_by(&self, x: Tensor<5>, recall: &mut Recall) {
        let earlier = recall.earlier();
        let ConvConfig {
            kernel,
            stride,
            before,
            after,
            ..
        } = self.config;
        let x = self.stripes.widen(x, before, after);
        recall.keep(earlier.as_ref(), &x, kernel[0] - stride[0]);
    }
}
