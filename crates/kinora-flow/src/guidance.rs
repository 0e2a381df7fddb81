//! Classifier-free guidance (Ho and Salimans 2022).

use burn::tensor::Tensor;

/// `without + scale (with - without)`: velocities with and without the prompt.
pub fn guide<const D: usize>(with: Tensor<D>, without: Tensor<D>, scale: f64) -> Tensor<D> {
    without.clone() + (with - without) * scale
}
