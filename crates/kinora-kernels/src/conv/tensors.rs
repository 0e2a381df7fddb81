//! Convolutions as tensor operations of the backend, which also differentiates them.

use super::Window;
use burn::tensor::Tensor;
use burn::tensor::module::conv3d;
use burn::tensor::ops::ConvOptions;

/// [`super::convolve`] on any backend.
pub fn forward(
    earlier: Option<Tensor<5>>,
    x: Tensor<5>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    window: Window,
) -> Tensor<5> {
    let mut x = match earlier {
        Some(earlier) => Tensor::cat(vec![earlier, x], 1),
        None => x,
    };
    if window.enlarge > 1 {
        let [b, t, h, w, c] = x.dims();
        let e = window.enlarge;
        x = x
            .reshape([b * t * h, 1, w, 1, c])
            .expand([b * t * h, e, w, e, c])
            .reshape([b, t, h * e, w * e, c]);
    }
    for dim in 0..3 {
        let needed = (window.out[dim] - 1) * window.stride[dim] + window.kernel[dim];
        x = seen(x, dim + 1, window.before[dim], needed);
    }
    let [_, _, _, _, c] = x.dims();
    let to = bias.dims()[0];
    let [kt, kh, kw] = window.kernel;
    let weight = weight.transpose().reshape([to, c, kt, kh, kw]);
    let options = ConvOptions::new(window.stride, [0; 3], [1; 3], 1);
    conv3d(x.permute([0, 4, 1, 2, 3]), weight, Some(bias), options).permute([0, 2, 3, 4, 1])
}

/// `needed` elements along `dim`, from `before` elements before the first one on; zeros where there are
/// none.
fn seen(x: Tensor<5>, dim: usize, before: isize, needed: usize) -> Tensor<5> {
    let start = before.min(0).unsigned_abs();
    let zeros = before.max(0).unsigned_abs();
    let len = (needed - zeros).min(x.dims()[dim] - start);
    let pad = |x: &Tensor<5>, len: usize| {
        let mut shape = x.dims();
        shape[dim] = len;
        Tensor::zeros(shape, (&x.device(), x.dtype()))
    };
    let mut parts = Vec::with_capacity(3);
    if zeros > 0 {
        parts.push(pad(&x, zeros));
    }
    if zeros + len < needed {
        parts.push(pad(&x, needed - zeros - len));
    }
    let x = x.narrow(dim, start, len);
    if parts.is_empty() {
        return x;
    }
    parts.insert(usize::from(zeros > 0), x);
    Tensor::cat(parts, dim)
}
