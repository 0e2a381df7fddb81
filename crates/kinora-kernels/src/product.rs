//! Matrix products of tensors. On NVIDIA GPUs Burn takes one routine for all of them; here each takes
//! the one that was fastest for its kind. Elsewhere they are the backend's own.

#[cfg(feature = "cuda")]
pub mod routines;

use crate::host::cast;
use crate::op::{Back, custom};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// `a b`, of `[M, K]` and `[K, N]`.
pub fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    if !routed(&a, &b) {
        return a.matmul(b);
    }
    differentiable(a, b)
}

fn differentiable(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    custom([a, b], |[a, b]| {
        let dtype = a.dtype();
        let out = plain_product(a.clone(), b.clone(), dtype);
        let back: Back<2, 2> = Arc::new(move |d_out| {
            [
                plain_product(d_out.clone(), b.clone().transpose(), dtype),
                plain_product(a.clone().transpose(), d_out, dtype),
            ]
        });
        (out, back)
    })
}

/// Products of plain tensors of one type, `[.., M, K]` and `[.., K, N]`, added up and returned in
/// `dtype`, which is as wide or wider.
pub(crate) fn plain_product<const D: usize>(a: Tensor<D>, b: Tensor<D>, dtype: DType) -> Tensor<D> {
    #[cfg(feature = "cuda")]
    if routed(&a, &b)
        && let Some(product) = routines::product(&a, &b, dtype)
    {
        return product;
    }
    cast(a, dtype).matmul(cast(b, dtype))
}

/// Whether there are routines to choose among, and the choice matters.
#[cfg(feature = "cuda")]
fn routed<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> bool {
    matches!(a.dtype(), DType::F32 | DType::BF16)
        && routines::on_gpu(&a.device())
        && routines::fits(a, b)
}

#[cfg(not(feature = "cuda"))]
fn routed<const D: usize>(_: &Tensor<D>, _: &Tensor<D>) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// The backward pass of its own, on the CPU, beside that of the backend's product.
    #[test]
    fn gradients_are_those_of_the_backends_product() {
        let device = Device::flex().autodiff();
        let new = |rows: usize, cols: usize, step: f64| {
            let values: Vec<f64> = (0..rows * cols).map(|i| (i as f64 * step).sin()).collect();
            let data = TensorData::new(values, [rows, cols]);
            Tensor::<2>::from_data(data, (&device, DType::F64)).require_grad()
        };
        let results = [
            differentiable as fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
            Tensor::matmul,
        ]
        .map(|multiply| {
            let (a, b) = (new(3, 5, 0.7), new(5, 4, 0.3));
            let out = multiply(a.clone(), b.clone());
            let mut gradients = (out.clone() * new(3, 4, 1.1)).sum().backward();
            let [a, b] = [a, b].map(|x| x.grad_remove(&mut gradients).expect("a gradient"));
            [out.inner(), a, b].map(|x| x.into_data().iter::<f64>().collect::<Vec<f64>>())
        });
        for (got, want) in results[0].iter().flatten().zip(results[1].iter().flatten()) {
            assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
        }
    }
}
