//! Tensors in host memory as slices, and back.

use crate::matrix::Matrix;
use crate::real::Real;
use burn::backend::flex::FlexTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use std::marker::PhantomData;
use std::ops::Deref;

/// Whether kernels on slices serve the tensor.
pub(crate) fn on_host<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// The type that sums are kept in: the tensor's own, but f32 for half precision.
pub(crate) fn wide_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The tensor in another float type.
pub(crate) fn cast<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype {
        return tensor;
    }
    tensor.cast(dtype)
}

/// The tensor in [`wide_dtype`].
pub(crate) fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let dtype = wide_dtype(tensor.dtype());
    cast(tensor, dtype)
}

/// All elements of a tensor in order.
pub(crate) struct Flat<T> {
    tensor: FlexTensor,
    start: usize,
    end: usize,
    element: PhantomData<T>,
}

impl<T: Real> Flat<T> {
    /// Copies only if the tensor is a strided view.
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let mut tensor = primitive(tensor);
        if tensor.layout().contiguous_offsets().is_none() {
            tensor = tensor.to_contiguous();
        }
        let (start, end) = tensor
            .layout()
            .contiguous_offsets()
            .expect("a copy is contiguous");
        Self {
            tensor,
            start,
            end,
            element: PhantomData,
        }
    }
}

impl<T: Real> Deref for Flat<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &T::storage(&self.tensor)[self.start..self.end]
    }
}

/// A tensor `[B, H, S, K]` as `B * H` matrices.
pub(crate) struct Heads<T> {
    tensor: FlexTensor,
    heads: usize,
    rows: usize,
    cols: usize,
    strides: [usize; 3],
    element: PhantomData<T>,
}

impl<T: Real> Heads<T> {
    /// Copies only if the last dimension is strided: heads that were swapped out of a projection
    /// `[B, S, H * K]` are read where they are.
    pub(crate) fn of(tensor: Tensor<4>) -> Self {
        let [_, heads, rows, cols] = tensor.dims();
        let mut tensor = primitive(tensor);
        let in_rows = |strides: &[isize]| {
            (cols <= 1 || strides[3] == 1) && strides[0..3].iter().all(|&s| s >= 0)
        };
        if !in_rows(tensor.layout().strides()) {
            tensor = tensor.to_contiguous();
        }
        let strides = tensor.layout().strides();
        let strides = [0, 1, 2].map(|dim| strides[dim] as usize);
        Self {
            tensor,
            heads,
            rows,
            cols,
            strides,
            element: PhantomData,
        }
    }

    /// The rows of head `at % H` of sample `at / H`.
    pub(crate) fn matrix(&self, at: usize) -> Matrix<'_, T> {
        let [sample, head, row] = self.strides;
        let start =
            self.tensor.layout().start_offset() + at / self.heads * sample + at % self.heads * head;
        Matrix::rows(
            &T::storage(&self.tensor)[start..],
            self.rows,
            self.cols,
            row,
        )
    }
}

/// A tensor in host memory of these elements.
pub(crate) fn tensor<T: Real, const D: usize>(elements: Vec<T>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(elements, shape)))
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor
        .try_into_primitive::<Flex>()
        .expect("a plain tensor in host memory")
}
