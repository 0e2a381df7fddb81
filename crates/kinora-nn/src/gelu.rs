//! The Gaussian error linear unit (Hendrycks and Gimpel 2016), by its approximation with tanh.

use crate::norm::wide;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use kinora_kernels::op::{Back, custom};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::sync::Arc;

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` of `[B, S, F]`, in 32 bits at least and rounded
/// once. For the backward pass it keeps its input.
pub fn gelu_tanh(x: Tensor<3>) -> Tensor<3> {
    custom([x], |[x]| {
        let dtype = x.dtype();
        let wide = wide(dtype);
        let of = x.clone().cast(wide);
        let out = (of.clone() * gate(of)).cast(dtype);
        let back: Back<3, 1> = Arc::new(move |gradient| {
            let x = x.clone().cast(wide);
            let gate = gate(x.clone());
            let slope = x.clone().square().mul_scalar(3.0 * CUBE).add_scalar(1.0) * (2.0 * ROOT);
            let steep = gate.clone() * gate.clone().neg().add_scalar(1.0) * slope;
            [(gradient.cast(wide) * (gate + x * steep)).cast(dtype)]
        });
        (out, back)
    })
}

const CUBE: f64 = 0.044_715;
// The square root of 2 / pi.
const ROOT: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// `(1 + tanh(u)) / 2`, which is the sigmoid of `2 u`.
fn gate(x: Tensor<3>) -> Tensor<3> {
    let cubic = x.clone().square().mul_scalar(CUBE).add_scalar(1.0);
    sigmoid(x * cubic * (2.0 * ROOT))
}
