//! Pictures in overlapping tiles, each by itself, whose seams are blended: memory is that of a tile, and
//! of the result. As diffusers' `tiled_encode` and `tiled_decode` do (`autoencoder_kl_wan.py`).

use burn::tensor::{Tensor, TensorData};

/// How pictures are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows and columns of a tile, in pixels: multiples of those of a latent element.
    pub size: [usize; 2],
    /// From one tile to the next, in pixels: less than a tile, and such multiples too.
    pub stride: [usize; 2],
}

impl Default for Tiling {
    fn default() -> Self {
        Self {
            size: [256, 256],
            stride: [192, 192],
        }
    }
}

impl Tiling {
    /// Whether a picture of so many pixels is larger than a tile.
    pub(super) fn cuts(&self, pixels: [usize; 2]) -> bool {
        pixels[0] > self.size[0] || pixels[1] > self.size[1]
    }

    /// Applies `run` to the tiles of `x`, `[B, C, T, H, W]`, and blends what it returns. An element of
    /// `x` is `from` pixels long and wide, one of the result `to`.
    pub(super) fn run(
        &self,
        x: &Tensor<5>,
        from: usize,
        to: usize,
        mut run: impl FnMut(Tensor<5>) -> Tensor<5>,
    ) -> Tensor<5> {
        let [_, _, _, h, w] = x.dims();
        let size = self.size.map(|pixels| pixels / from);
        let stride = self.stride.map(|pixels| pixels / from);
        let out_stride = self.stride.map(|pixels| pixels / to);
        let overlap = [0, 1].map(|i| (self.size[i] - self.stride[i]) / to);
        let out = [h, w].map(|side| side * from / to);

        let mut above: Vec<Tensor<5>> = vec![];
        let mut rows = vec![];
        for (i, top) in (0..h).step_by(stride[0]).enumerate() {
            let mut row: Vec<Tensor<5>> = vec![];
            let mut kept = vec![];
            for (j, left) in (0..w).step_by(stride[1]).enumerate() {
                let tile = x.clone().narrow(3, top, size[0].min(h - top)).narrow(
                    4,
                    left,
                    size[1].min(w - left),
                );
                let mut tile = run(tile);
                if i > 0 {
                    tile = blend(&above[j], tile, 3, overlap[0]);
                }
                if j > 0 {
                    tile = blend(&row[j - 1], tile, 4, overlap[1]);
                }
                let rows = out_stride[0].min(out[0] - i * out_stride[0]);
                let cols = out_stride[1].min(out[1] - j * out_stride[1]);
                kept.push(tile.clone().narrow(3, 0, rows).narrow(4, 0, cols));
                row.push(tile);
            }
            rows.push(Tensor::cat(kept, 4));
            above = row;
        }
        Tensor::cat(rows, 3)
    }
}

/// The first `overlap` elements of `b` along `dim` are mixed with the last of `a`, from all of `a`'s to
/// nearly all of `b`'s.
fn blend(a: &Tensor<5>, b: Tensor<5>, dim: usize, overlap: usize) -> Tensor<5> {
    let (of_a, of_b) = (a.dims()[dim], b.dims()[dim]);
    let n = overlap.min(of_a).min(of_b);
    if n == 0 {
        return b;
    }
    let ramp: Vec<f64> = (0..n).map(|i| i as f64 / n as f64).collect();
    let mut shape = [1; 5];
    shape[dim] = n;
    let ramp = Tensor::<5>::from_data(TensorData::new(ramp, shape), (&b.device(), b.dtype()));
    let old = a.clone().narrow(dim, of_a - n, n);
    let new = b.clone().narrow(dim, 0, n);
    let mixed = old * (ramp.clone().neg().add_scalar(1.0)) + new * ramp;
    if n == of_b {
        return mixed;
    }
    Tensor::cat(vec![mixed, b.narrow(dim, n, of_b - n)], dim)
}
