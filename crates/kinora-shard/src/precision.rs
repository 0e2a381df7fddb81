//! What weights are stored in, and what is computed in.

use burn::tensor::DType;

/// The two kinds of numbers of a run. Stored: weights, their gradients once summed, the optimizer's
/// moments, averages. Computed: activations, gathered weights, gradients inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Of master copies.
    pub stored: DType,
    /// Of computation.
    pub computed: DType,
}

impl Precision {
    /// 32-bit master copies, computation in bfloat16.
    pub const MIXED: Self = Self {
        stored: DType::F32,
        computed: DType::BF16,
    };
}

impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        Self {
            stored: dtype,
            computed: dtype,
        }
    }
}
