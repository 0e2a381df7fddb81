//! Attention in tiles: the scores of a query with all keys are never in memory at once.
//!
//! Beside the output it gives the logarithm of the sum of the exponentials of the scores. With it, parts
//! of attention over different keys can be merged, and the backward pass can compute the weights again
//! from the scores, tile by tile ("FlashAttention-2", Dao, 2023, section 3.1).
//!
//! Shapes: `B` batch, `H` heads, `S` queries, `L` keys, `K` width of a head.

mod slices;
mod tensors;

use crate::host::{cast, on_host, wide, wide_dtype};
use crate::op::{Back, custom};
use burn::tensor::{Bool, DType, Tensor};
use std::sync::Arc;

pub use tensors::merge;

/// The loop over tiles that serves any backend, for tests on one that has a faster way.
#[doc(hidden)]
pub mod portable {
    pub use super::tensors::{Saved, backward, forward};
}

/// `softmax(q k^T / sqrt(K)) v`, with `q` of `[B, H, S, K]`, `k` and `v` of `[B, H, L, K]`; keys where
/// `mask` (`[B, L]`) is false get no weight. A query without any key gets zeros.
///
/// For the backward pass it keeps its inputs, its output and one number a query.
///
/// # Panics
/// If shapes or element types do not fit.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    let mask = mask.map(Tensor::inner);
    custom([q, k, v], move |[q, k, v]| {
        let (out, logsumexp) =
            attention_with_logsumexp(q.clone(), k.clone(), v.clone(), mask.clone());
        let kept = out.clone();
        let back: Back<4, 3> = Arc::new(move |d_out| {
            let (d_q, d_k, d_v) = attention_backward(
                q.clone(),
                k.clone(),
                v.clone(),
                kept.clone(),
                logsumexp.clone(),
                d_out,
                mask.clone(),
            );
            [d_q, d_k, d_v]
        });
        (out, back)
    })
}

/// Attention on plain tensors: `query` of `[B, H, S, K]`, `key` and `value` of `[B, H, L, K]`, and `mask`
/// of `[B, L]`, false for keys that are not attended to.
///
/// Returns the output, like `query`, and `[B, H, S]` of `ln(sum(exp(scores)))` over the keys, where
/// scores are `q k^T / sqrt(K)`: in the type of `query`, or f32 if that is half precision. A query
/// without any key gets zeros and negative infinity.
///
/// # Panics
/// If shapes or element types do not fit.
pub fn attention_with_logsumexp(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
) -> (Tensor<4>, Tensor<3>) {
    check(&query, &key, &value, mask.as_ref());
    let dtype = query.dtype();
    let mask = mask.map(Tensor::inner);
    if !on_host(&query) {
        let (out, logsumexp) = tensors::forward(query, key, value, mask, tensors::KEYS);
        return (cast(out, dtype), logsumexp);
    }
    let (query, key, value) = (wide(query), wide(key), wide(value));
    let (out, logsumexp) = if query.dtype() == DType::F64 {
        slices::forward::<f64>(query, key, value, mask)
    } else {
        slices::forward::<f32>(query, key, value, mask)
    };
    (cast(out, dtype), logsumexp)
}

/// The gradients of query, key and value of [`attention_with_logsumexp`], from that of its output,
/// `d_out` of `[B, H, S, K]`. Plain tensors.
///
/// `out`, `logsumexp` and `d_out` may be those of attention over more keys than this block holds: then the
/// gradients of key and value are whole, and those of query are this block's share of a sum over blocks.
///
/// # Panics
/// If shapes or element types do not fit.
pub fn attention_backward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    out: Tensor<4>,
    logsumexp: Tensor<3>,
    d_out: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    check(&query, &key, &value, mask.as_ref());
    let [b, h, s, _] = query.dims();
    assert!(
        out.dims() == query.dims() && d_out.dims() == query.dims(),
        "attention_backward: query is {:?}, but out is {:?} and d_out is {:?}",
        query.dims(),
        out.dims(),
        d_out.dims(),
    );
    assert_eq!(
        logsumexp.dims(),
        [b, h, s],
        "attention_backward: logsumexp is one number a query"
    );
    let dtype = query.dtype();
    let wider = wide_dtype(dtype);
    // Of a GPU the factors of products are rounded as they came; on the CPU nothing is.
    let factor = |x: Tensor<4>| if on_host(&x) { wide(x) } else { x };
    let inputs = tensors::Saved {
        query: factor(query),
        key: factor(key),
        value: factor(value),
        out: cast(out, wider),
        logsumexp: cast(logsumexp, wider),
        d_out: cast(d_out, wider),
        mask: mask.map(Tensor::inner),
    };
    let (d_query, d_key, d_value) = if !on_host(&inputs.query) {
        tensors::backward(inputs, tensors::KEYS)
    } else if wider == DType::F64 {
        slices::backward::<f64>(inputs)
    } else {
        slices::backward::<f32>(inputs)
    };
    (
        cast(d_query, dtype),
        cast(d_key, dtype),
        cast(d_value, dtype),
    )
}

fn check(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>, mask: Option<&Tensor<2, Bool>>) {
    let [b, h, _, width] = query.dims();
    let [_, _, l, _] = key.dims();
    assert!(
        key.dims() == [b, h, l, width] && value.dims() == key.dims(),
        "attention: query is {:?}, so key and value are [{b}, {h}, L, {width}], but they are {:?} and {:?}",
        query.dims(),
        key.dims(),
        value.dims(),
    );
    assert!(
        key.dtype() == query.dtype() && value.dtype() == query.dtype(),
        "attention: query is {:?}, key {:?} and value {:?}\n  help: cast them to one type",
        query.dtype(),
        key.dtype(),
        value.dtype(),
    );
    if let Some(mask) = mask {
        assert_eq!(
            mask.dims(),
            [b, l],
            "attention: the mask is one truth value a key"
        );
    }
}
