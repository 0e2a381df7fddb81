//! Differentiable operations that layers are made of, each the one place to make it faster.
//!
//! Separate because kernels know numbers and backends, not layers or ranks. For now they are plain
//! compositions of Burn's operations; attention materialises its scores, `[B, H, S, L]`.

use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Tensor};

/// `x / rms(x) * weight` over the last dimension: `[B, S, D]`, weight `[D]`.
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2);
    x * mean_square.add_scalar(epsilon).sqrt().recip() * weight.reshape([1, 1, -1])
}

/// `silu(gate) * up`, both `[B, S, F]`.
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    silu(gate) * up
}

/// `softmax(q k^T / sqrt(K)) v`, with `q` of `[B, H, S, K]`, `k` and `v` of `[B, H, L, K]`; keys where
/// `mask` (`[B, L]`) is false get no weight.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    let [_, _, _, width] = q.dims();
    let scores = (q * (width as f64).powf(-0.5)).matmul(k.transpose()); // [B, H, S, L]
    let scores = match mask {
        Some(mask) => {
            let [b, _, _, l] = scores.dims();
            let hidden = mask.bool_not().reshape([b, 1, 1, l]).expand(scores.dims());
            scores.mask_fill(hidden, f64::NEG_INFINITY)
        }
        None => scores,
    };
    softmax(scores, 3).matmul(v)
}
