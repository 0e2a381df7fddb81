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
    if !routed(&a) {
        return a.matmul(b);
    }
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
    if routed(&a)
        && let Some(product) = routines::product(&a, &b, dtype)
    {
        return product;
    }
    cast(a, dtype).matmul(cast(b, dtype))
}

/// Whether there are routines to choose among.
#[cfg(feature = "cuda")]
fn routed<const D: usize>(tensor: &Tensor<D>) -> bool {
    use burn::backend::DispatchDevice;
    matches!(tensor.dtype(), DType::F32 | DType::BF16)
        && matches!(tensor.device().as_dispatch(), DispatchDevice::Cube(_))
}

#[cfg(not(feature = "cuda"))]
fn routed<const D: usize>(_: &Tensor<D>) -> bool {
    false
}
