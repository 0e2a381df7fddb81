//! The kinds of number a checkpoint holds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of number in a tensor; stored little endian under its safetensors name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float with the exponent of F32.
    BF16,
    /// 16-bit float, IEEE half precision.
    F16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// The numbers in bytes of this dtype, little endian; of integers the nearest floats.
    pub fn numbers(self, bytes: &[u8]) -> Vec<f64> {
        fn each<const N: usize>(bytes: &[u8], read: fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
        }
        match self {
            Self::F64 => each(bytes, f64::from_le_bytes),
            Self::F32 => each(bytes, |b| f32::from_le_bytes(b).into()),
            Self::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).into()),
            Self::F16 => each(bytes, |b| half::f16::from_le_bytes(b).into()),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
            Self::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
            Self::U8 => each(bytes, |[b]: [u8; 1]| b.into()),
        }
    }

    /// Whether its numbers can be weights.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::BF16 | Self::F16)
    }

    /// The dtype of a safetensors header, or `None` for one that Kinora has no use for.
    pub(crate) fn of_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F64 => Some(Self::F64),
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::I64 => Some(Self::I64),
            safetensors::Dtype::I32 => Some(Self::I32),
            safetensors::Dtype::U8 => Some(Self::U8),
            _ => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants are spelled as safetensors spells them.
        fmt::Debug::fmt(self, f)
    }
}
