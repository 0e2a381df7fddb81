//! Division by the root of the mean square of a row. `B` batch, `S` sequence, `D` width of the model.

use crate::host::{Flat, cast, on_host, tensor, wide};
use crate::op::{Back, custom};
use crate::real::{Real, dot, dot3, vectorised};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

// Gradients of the weight are summed within so many rows, then over them: an order that no number of
// threads changes.
const ROWS: usize = 64;

/// `x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension: `[B, S, D]`, weight `[D]`.
///
/// For the backward pass it keeps its inputs and one number a row.
///
/// # Panics
/// If the weight has another width than the rows.
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let [_, _, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "rms_norm: rows of {width} take as many weights"
    );
    let weight = weight.reshape([1, 1, width]);
    custom([x, weight], move |[x, weight]| {
        let (dtype, of_weight) = (x.dtype(), weight.dtype());
        let (out, inverse) = forward(wide(x.clone()), weight.clone(), epsilon);
        let back: Back<3, 2> = Arc::new(move |d_out| {
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

/// The output and `[B, S, 1]` of `1 / sqrt(mean(x^2) + epsilon)`.
fn forward(x: Tensor<3>, weight: Tensor<3>, epsilon: f64) -> (Tensor<3>, Tensor<3>) {
    let dtype = x.dtype();
    let weight = cast(weight, dtype);
    match dtype {
        DType::F64 if on_host(&x) => slices_forward::<f64>(x, weight, epsilon),
        DType::F32 if on_host(&x) => slices_forward::<f32>(x, weight, epsilon),
        _ => {
            let mean_square = x.clone().square().mean_dim(2);
            let inverse = mean_square.add_scalar(epsilon).sqrt().recip();
            (x * inverse.clone() * weight, inverse)
        }
    }
}

/// The gradients of `x` and of the weight, `[1, 1, D]`.
fn backward(
    x: Tensor<3>,
    weight: Tensor<3>,
    inverse: Tensor<3>,
    d_out: Tensor<3>,
) -> (Tensor<3>, Tensor<3>) {
    let dtype = x.dtype();
    let weight = cast(weight, dtype);
    match dtype {
        DType::F64 if on_host(&x) => slices_backward::<f64>(x, weight, inverse, d_out),
        DType::F32 if on_host(&x) => slices_backward::<f32>(x, weight, inverse, d_out),
        _ => {
            let normed = x * inverse.clone();
            let d_weight = (d_out.clone() * normed.clone()).sum_dim(0).sum_dim(1);
            let d_normed = d_out * weight;
            let along = (d_normed.clone() * normed.clone()).mean_dim(2);
            ((d_normed - normed * along) * inverse, d_weight)
        }
    }
}

fn slices_forward<T: Real>(
    x: Tensor<3>,
    weight: Tensor<3>,
    epsilon: f64,
) -> (Tensor<3>, Tensor<3>) {
    let [b, s, d] = x.dims();
    let (x, weight) = (Flat::<T>::of(x), Flat::<T>::of(weight));
    let mut out = vec![T::ZERO; x.len()];
    let mut inverse = vec![T::ZERO; b * s];
    if !x.is_empty() {
        let (x, weight) = (&*x, &*weight);
        let blocks = out
            .par_chunks_mut(ROWS * d)
            .zip(x.par_chunks(ROWS * d))
            .zip(inverse.par_chunks_mut(ROWS));
        blocks.for_each(|((out, x), inverse)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(d).zip(x.chunks_exact(d));
                    for ((out, x), inverse) in rows.zip(inverse) {
                        let mean = dot(x, x) / T::of(d as f64);
                        let r = T::ONE / (mean + T::of(epsilon)).sqrt();
                        *inverse = r;
                        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                            *out = x * r * weight;
                        }
                    }
                },
            );
        });
    }
    (tensor(out, [b, s, d]), tensor(inverse, [b, s, 1]))
}

fn slices_backward<T: Real>(
    x: Tensor<3>,
    weight: Tensor<3>,
    inverse: Tensor<3>,
    d_out: Tensor<3>,
) -> (Tensor<3>, Tensor<3>) {
    let [b, s, d] = x.dims();
    let (x, weight) = (Flat::<T>::of(x), Flat::<T>::of(weight));
    let (inverse, d_out) = (Flat::<T>::of(inverse), Flat::<T>::of(d_out));
    let mut d_x = vec![T::ZERO; x.len()];
    let mut d_weight = vec![T::ZERO; d];
    if !x.is_empty() {
        let (x, weight, inverse, d_out) = (&*x, &*weight, &*inverse, &*d_out);
        let mut partial = vec![T::ZERO; (b * s).div_ceil(ROWS) * d];
        let blocks = d_x
            .par_chunks_mut(ROWS * d)
            .zip(partial.par_chunks_mut(d))
            .zip(x.par_chunks(ROWS * d))
            .zip(d_out.par_chunks(ROWS * d))
            .zip(inverse.par_chunks(ROWS));
        blocks.for_each(|((((d_x, d_weight), x), d_out), inverse)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = d_x
                        .chunks_exact_mut(d)
                        .zip(x.chunks_exact(d))
                        .zip(d_out.chunks_exact(d));
                    for (((d_x, x), d_out), &r) in rows.zip(inverse) {
                        let along = dot3(d_out, weight, x) * r * r * r / T::of(d as f64);
                        for (((d_x, &x), &d_out), &weight) in
                            d_x.iter_mut().zip(x).zip(d_out).zip(weight)
                        {
                            *d_x = d_out * weight * r - x * along;
                        }
                        for ((d_weight, &x), &d_out) in d_weight.iter_mut().zip(x).zip(d_out) {
                            *d_weight += d_out * x * r;
                        }
                    }
                },
            );
        });
        for partial in partial.chunks_exact(d) {
            for (d_weight, &partial) in d_weight.iter_mut().zip(partial) {
                *d_weight += partial;
            }
        }
    }
    (tensor(d_x, [b, s, d]), tensor(d_weight, [1, 1, d]))
}
