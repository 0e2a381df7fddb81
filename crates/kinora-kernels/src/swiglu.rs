//! The gate of a feed-forward layer. `B` batch, `S` sequence, `F` hidden width.

use crate::host::{Flat, cast, on_host, tensor, wide};
use crate::op::{Back, custom};
use crate::real::{Real, vectorised};
use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

// Elements a task: much longer than it takes to start one, and within a core's own cache.
const ELEMENTS: usize = 1 << 13;

/// `silu(gate) * up`, both `[B, S, F]`. For the backward pass it keeps its inputs.
///
/// # Panics
/// If the two differ in shape.
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up have one shape");
    custom([gate, up], move |[gate, up]| {
        let (of_gate, of_up) = (gate.dtype(), up.dtype());
        let out = forward(wide(gate.clone()), wide(up.clone()));
        let back: Back<3, 2> = Arc::new(move |d_out| {
            let (d_gate, d_up) = backward(wide(gate.clone()), wide(up.clone()), wide(d_out));
            [cast(d_gate, of_gate), cast(d_up, of_up)]
        });
        (cast(out, of_gate), back)
    })
}

fn forward(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    match gate.dtype() {
        DType::F64 if on_host(&gate) => slices_forward::<f64>(gate, up),
        DType::F32 if on_host(&gate) => slices_forward::<f32>(gate, up),
        _ => gate.clone() * sigmoid(gate) * up,
    }
}

fn backward(gate: Tensor<3>, up: Tensor<3>, d_out: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    match gate.dtype() {
        DType::F64 if on_host(&gate) => slices_backward::<f64>(gate, up, d_out),
        DType::F32 if on_host(&gate) => slices_backward::<f32>(gate, up, d_out),
        _ => {
            let open = sigmoid(gate.clone());
            let d_up = d_out.clone() * gate.clone() * open.clone();
            let slope = open.clone() * (gate * (open.neg().add_scalar(1.0))).add_scalar(1.0);
            (d_out * up * slope, d_up)
        }
    }
}

fn slices_forward<T: Real>(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    let shape = gate.dims();
    let (gate, up) = (Flat::<T>::of(gate), Flat::<T>::of(up));
    let mut out = vec![T::ZERO; gate.len()];
    let blocks = out
        .par_chunks_mut(ELEMENTS)
        .zip(gate.par_chunks(ELEMENTS))
        .zip(up.par_chunks(ELEMENTS));
    blocks.for_each(|((out, gate), up)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * logistic(gate) * up;
                }
            },
        );
    });
    tensor(out, shape)
}

fn slices_backward<T: Real>(
    gate: Tensor<3>,
    up: Tensor<3>,
    d_out: Tensor<3>,
) -> (Tensor<3>, Tensor<3>) {
    let shape = gate.dims();
    let (gate, up, d_out) = (Flat::<T>::of(gate), Flat::<T>::of(up), Flat::<T>::of(d_out));
    let mut d_gate = vec![T::ZERO; gate.len()];
    let mut d_up = vec![T::ZERO; gate.len()];
    let blocks = d_gate
        .par_chunks_mut(ELEMENTS)
        .zip(d_up.par_chunks_mut(ELEMENTS))
        .zip(gate.par_chunks(ELEMENTS))
        .zip(up.par_chunks(ELEMENTS))
        .zip(d_out.par_chunks(ELEMENTS));
    blocks.for_each(|((((d_gate, d_up), gate), up), d_out)| {
        vectorised(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(d_out);
                for ((d_gate, d_up), ((&gate, &up), &d_out)) in
                    d_gate.iter_mut().zip(d_up).zip(inputs)
                {
                    let open = logistic(gate);
                    *d_up = d_out * gate * open;
                    *d_gate = d_out * up * open * (T::ONE + gate * (T::ONE - open));
                }
            },
        );
    });
    (tensor(d_gate, shape), tensor(d_up, shape))
}

/// `1 / (1 + e^-x)`, from an exponential that cannot overflow.
#[inline(always)]
fn logistic<T: Real>(x: T) -> T {
    let e = (-x.abs()).exp();
    let numerator = if x < T::ZERO { e } else { T::ONE };
    numerator / (T::ONE + e)
}
