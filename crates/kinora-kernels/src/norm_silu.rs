//! Root mean square normalisation and the SiLU behind it, in one pass. `N` rows, `C` channels.

use crate::host::{Flat, cast, on_host, tensor, wide};
use crate::op::{Back, custom};
use crate::real::{Real, dot, dot3, vectorised};
use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

// Gradients of the weight are summed within so many rows, then over them: an order that no number of
// threads changes.
const ROWS: usize = 64;

/// `silu(x / sqrt(mean(x^2) + epsilon) * weight)` over the last dimension: `[N, C]`, weight `[C]`.
///
/// For the backward pass it keeps its inputs and one number a row.
///
/// # Panics
/// If the weight has another width than the rows.
pub fn rms_norm_silu(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "rms_norm_silu: rows of {width} take as many weights"
    );
    let weight = weight.reshape([1, width]);
    custom([x, weight], move |[x, weight]| {
        let (dtype, of_weight) = (x.dtype(), weight.dtype());
        let (out, inverse) = forward(wide(x.clone()), weight.clone(), epsilon);
        let back: Back<2, 2> = Arc::new(move |d_out| {
            let (d_x, d_weight) = backward(
                wide(x.clone()),
                weight.clone(),
                inverse.clone(),
                wide(d_out),
            );
            [cast(d_x, dtype), cast(d_weight, of_weight)]
        });
        (cast(out, dtype), back)
    })
}

/// The output and `[N, 1]` of `1 / sqrt(mean(x^2) + epsilon)`.
fn forward(x: Tensor<2>, weight: Tensor<2>, epsilon: f64) -> (Tensor<2>, Tensor<2>) {
    let dtype = x.dtype();
    let weight = cast(weight, dtype);
    match dtype {
        DType::F64 if on_host(&x) => slices_forward::<f64>(x, weight, epsilon),
        DType::F32 if on_host(&x) => slices_forward::<f32>(x, weight, epsilon),
        _ => {
            let mean_square = x.clone().square().mean_dim(1);
            let inverse = mean_square.add_scalar(epsilon).sqrt().recip();
            let normed = x * inverse.clone() * weight;
            (normed.clone() * sigmoid(normed), inverse)
        }
    }
}

/// The gradients of `x` and of the weight, `[1, C]`.
fn backward(
    x: Tensor<2>,
    weight: Tensor<2>,
    inverse: Tensor<2>,
    d_out: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let dtype = x.dtype();
    let weight = cast(weight, dtype);
    match dtype {
        DType::F64 if on_host(&x) => slices_backward::<f64>(x, weight, inverse, d_out),
        DType::F32 if on_host(&x) => slices_backward::<f32>(x, weight, inverse, d_out),
        _ => {
            let scaled = x * inverse.clone();
            let normed = scaled.clone() * weight.clone();
            let open = sigmoid(normed.clone());
            let slope = open.clone() * (normed * open.neg().add_scalar(1.0)).add_scalar(1.0);
            let d_normed = d_out * slope;
            let d_weight = (d_normed.clone() * scaled.clone()).sum_dim(0);
            let d_scaled = d_normed * weight;
            let along = (d_scaled.clone() * scaled.clone()).mean_dim(1);
            ((d_scaled - scaled * along) * inverse, d_weight)
        }
    }
}

fn slices_forward<T: Real>(
    x: Tensor<2>,
    weight: Tensor<2>,
    epsilon: f64,
) -> (Tensor<2>, Tensor<2>) {
    let [n, c] = x.dims();
    let (x, weight) = (Flat::<T>::of(x), Flat::<T>::of(weight));
    let mut out = vec![T::ZERO; n * c];
    let mut inverse = vec![T::ZERO; n];
    if !x.is_empty() {
        let (x, weight) = (&*x, &*weight);
        let blocks = out
            .par_chunks_mut(ROWS * c)
            .zip(x.par_chunks(ROWS * c))
            .zip(inverse.par_chunks_mut(ROWS));
        blocks.for_each(|((out, x), inverse)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(c).zip(x.chunks_exact(c));
                    for ((out, x), inverse) in rows.zip(inverse) {
                        let mean = dot(x, x) / T::of(c as f64);
                        let r = T::ONE / (mean + T::of(epsilon)).sqrt();
                        *inverse = r;
                        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                            let normed = x * r * weight;
                            *out = normed / (T::ONE + (-normed).exp());
                        }
                    }
                },
            );
        });
    }
    (tensor(out, [n, c]), tensor(inverse, [n, 1]))
}

fn slices_backward<T: Real>(
    x: Tensor<2>,
    weight: Tensor<2>,
    inverse: Tensor<2>,
    d_out: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let [n, c] = x.dims();
    let (x, weight) = (Flat::<T>::of(x), Flat::<T>::of(weight));
    let (inverse, d_out) = (Flat::<T>::of(inverse), Flat::<T>::of(d_out));
    let mut d_x = vec![T::ZERO; n * c];
    let mut d_weight = vec![T::ZERO; c];
    if !x.is_empty() {
        let (x, weight, inverse, d_out) = (&*x, &*weight, &*inverse, &*d_out);
        let mut partial = vec![T::ZERO; n.div_ceil(ROWS) * c];
        let blocks = d_x
            .par_chunks_mut(ROWS * c)
            .zip(partial.par_chunks_mut(c))
            .zip(x.par_chunks(ROWS * c))
            .zip(d_out.par_chunks(ROWS * c))
            .zip(inverse.par_chunks(ROWS));
        blocks.for_each(|((((d_x, d_weight), x), d_out), inverse)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = d_x
                        .chunks_exact_mut(c)
                        .zip(x.chunks_exact(c))
                        .zip(d_out.chunks_exact(c));
                    for (((d_x, x), d_out), &r) in rows.zip(inverse) {
                        // The gradient of what the SiLU was given stands in `d_x` for a while.
                        for (((d_x, &x), &d_out), &weight) in
                            d_x.iter_mut().zip(x).zip(d_out).zip(weight)
                        {
                            let normed = x * r * weight;
                            let open = T::ONE / (T::ONE + (-normed).exp());
                            *d_x = d_out * open * (T::ONE + normed * (T::ONE - open));
                        }
                        for ((d_weight, &x), &d_normed) in d_weight.iter_mut().zip(x).zip(&*d_x) {
                            *d_weight += d_normed * x * r;
                        }
                        let along = dot3(d_x, weight, x) * r * r * r / T::of(c as f64);
                        for ((d_x, &x), &weight) in d_x.iter_mut().zip(x).zip(weight) {
                            *d_x = *d_x * weight * r - x * along;
                        }
                    }
                },
            );
        });
        for partial in partial.chunks_exact(c) {
            for (d_weight, &partial) in d_weight.iter_mut().zip(partial) {
                *d_weight += partial;
            }
        }
    }
    (tensor(d_x, [n, c]), tensor(d_weight, [1, c]))
}
