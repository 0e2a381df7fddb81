//! Attention as a loop of tensor operations over tiles of keys, on any backend.

use crate::host::{cast, wide_dtype};
use crate::product::plain_product;
use burn::tensor::{Bool, DType, Tensor};

/// Keys a tile.
pub(super) const KEYS: usize = 1024;

/// What the backward pass starts from. Shapes as in the parent module. Query, key and value have one
/// float type, in which factors of products are rounded; the others the one that sums are kept in.
pub struct Saved {
    /// `[B, H, S, K]`
    pub query: Tensor<4>,
    /// `[B, H, L, K]`
    pub key: Tensor<4>,
    /// `[B, H, L, K]`
    pub value: Tensor<4>,
    /// `[B, H, S, K]`
    pub out: Tensor<4>,
    /// `[B, H, S]`
    pub logsumexp: Tensor<3>,
    /// `[B, H, S, K]`
    pub d_out: Tensor<4>,
    /// `[B, L]`
    pub mask: Option<Tensor<2, Bool>>,
}

/// Attention over the union of two sets of keys, from the outputs `[B, H, S, K]` and log-sum-exps
/// `[B, H, S]` of attention over each. A side whose logsumexp is negative infinity has no part in it.
///
/// Returns output and logsumexp in the types of the first pair; sums are kept in f32 at least. Merge
/// outputs in f32 if there are many blocks of half precision.
pub fn merge(
    (out1, logsumexp1): (Tensor<4>, Tensor<3>),
    (out2, logsumexp2): (Tensor<4>, Tensor<3>),
) -> (Tensor<4>, Tensor<3>) {
    let (dtype, kept) = (out1.dtype(), logsumexp1.dtype());
    let wider = wide_dtype(dtype);
    let (l1, l2) = (cast(logsumexp1, wider), cast(logsumexp2, wider));
    let largest = l1.clone().max_pair(l2.clone());
    let nothing = largest.clone().equal_elem(f64::NEG_INFINITY);
    let shift = largest.mask_fill(nothing.clone(), 0.0);
    let w1 = (l1 - shift.clone()).exp();
    let w2 = (l2 - shift.clone()).exp();
    let total = w1.clone() + w2.clone();
    let logsumexp = total.clone().log() + shift;
    let total = total.mask_fill(nothing, 1.0);
    let out = cast(out1, wider) * (w1 / total.clone()).unsqueeze_dim(3)
        + cast(out2, wider) * (w2 / total).unsqueeze_dim(3);
    (cast(out, dtype), cast(logsumexp, kept))
}

/// Output and logsumexp, with `keys` keys a tile, in the type that sums are kept in: as wide as f32 if
/// the inputs are half precision, in which only the factors of products are rounded.
pub fn forward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
    keys: usize,
) -> (Tensor<4>, Tensor<3>) {
    let [b, h, s, width] = query.dims();
    let l = key.dims()[2];
    let (dtype, wider) = (query.dtype(), wide_dtype(query.dtype()));
    let options = (&query.device(), wider);
    let mut out = Tensor::<4>::zeros([b, h, s, width], options);
    let mut sum = Tensor::<4>::zeros([b, h, s, 1], options);
    let mut largest = Tensor::<4>::full([b, h, s, 1], f64::NEG_INFINITY, options);
    if b * h * s == 0 {
        return (out, sum.reshape([b, h, s]));
    }
    let query = cast(cast(query, wider) * (width as f64).powf(-0.5), dtype);
    for (from, n) in tiles(l, keys) {
        let scores = scores(&query, &key, mask.as_ref(), from, n); // [B, H, S, n]
        let larger = largest.clone().max_pair(scores.clone().max_dim(3));
        // A query that has seen no key yet has no largest score to take away.
        let shift = finite(larger.clone(), 0.0);
        let weights = (scores - shift.clone()).exp();
        let shrink = (largest - shift).exp();
        sum = sum * shrink.clone() + weights.clone().sum_dim(3);
        let value = value.clone().narrow(2, from, n);
        out = out * shrink + plain_product(cast(weights, dtype), value, wider);
        largest = larger;
    }
    let nothing = sum.clone().equal_elem(0.0);
    let divisor = sum.clone().mask_fill(nothing, 1.0);
    let logsumexp = (divisor.clone().log() + largest).reshape([b, h, s]);
    (out / divisor, logsumexp)
}

/// The gradients of query, key and value, with `keys` keys a tile.
pub fn backward(saved: Saved, keys: usize) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let Saved {
        query,
        key,
        value,
        out,
        logsumexp,
        d_out,
        mask,
    } = saved;
    let [b, h, s, width] = query.dims();
    let l = key.dims()[2];
    let (dtype, wider): (DType, DType) = (query.dtype(), wide_dtype(query.dtype()));
    let mut d_query = cast(query.zeros_like(), wider);
    if b * h * s * l == 0 {
        let zeros = |x: Tensor<4>| cast(x.zeros_like(), wider);
        return (d_query, zeros(key), zeros(value));
    }
    let scale = (width as f64).powf(-0.5);
    let delta = (d_out.clone() * out).sum_dim(3); // [B, H, S, 1]
    // With infinity taken away, every score of a query without keys gets no weight.
    let logsumexp = finite(logsumexp.unsqueeze_dim(3), f64::INFINITY);
    let query = cast(cast(query, wider) * scale, dtype);
    let d_out = cast(d_out, dtype);
    let (mut d_key, mut d_value) = (Vec::new(), Vec::new());
    for (from, n) in tiles(l, keys) {
        let weights = (scores(&query, &key, mask.as_ref(), from, n) - logsumexp.clone()).exp();
        let factor = cast(weights.clone(), dtype).swap_dims(2, 3);
        d_value.push(plain_product(factor, d_out.clone(), wider));
        let value = value.clone().narrow(2, from, n).swap_dims(2, 3);
        let d_weights = plain_product(d_out.clone(), value, wider);
        let d_scores = cast(weights * (d_weights - delta.clone()), dtype); // [B, H, S, n]
        let across = d_scores.clone().swap_dims(2, 3);
        d_key.push(plain_product(across, query.clone(), wider));
        d_query = d_query + plain_product(d_scores, key.clone().narrow(2, from, n), wider);
    }
    (
        d_query * scale,
        Tensor::cat(d_key, 2),
        Tensor::cat(d_value, 2),
    )
}

/// The scores of scaled queries with `n` keys, negative infinity where masked.
fn scores(
    query: &Tensor<4>,
    key: &Tensor<4>,
    mask: Option<&Tensor<2, Bool>>,
    from: usize,
    n: usize,
) -> Tensor<4> {
    let key = key.clone().narrow(2, from, n).swap_dims(2, 3);
    let scores = plain_product(query.clone(), key, wide_dtype(query.dtype())); // [B, H, S, n]
    let Some(mask) = mask else {
        return scores;
    };
    let [b, _, _, _] = scores.dims();
    let hidden = mask.clone().narrow(1, from, n).bool_not();
    let hidden = hidden.reshape([b, 1, 1, n]).expand(scores.dims());
    scores.mask_fill(hidden, f64::NEG_INFINITY)
}

fn finite<const D: usize>(tensor: Tensor<D>, instead: f64) -> Tensor<D> {
    let infinite = tensor.clone().equal_elem(f64::NEG_INFINITY);
    tensor.mask_fill(infinite, instead)
}

fn tiles(whole: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..whole)
        .step_by(len)
        .map(move |from| (from, len.min(whole - from)))
}
