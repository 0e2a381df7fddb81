//! The activations that published weights were trained with.

use crate::gelu_tanh;
use crate::norm::wide;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, relu, sigmoid, silu};

/// What makes a network more than a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
    /// `x Phi(x)`, with the error function.
    Gelu,
    /// Its approximation with tanh.
    GeluTanh,
    /// Its approximation `x sigmoid(1.702 x)`, OpenAI's.
    QuickGelu,
}

impl Activation {
    /// The activation of a name in Hugging Face's configurations.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            _ => return None,
        })
    }

    /// Of each element of `[B, L, F]`, in 32 bits at least and rounded once.
    pub fn apply(self, x: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        let x = x.cast(wide(dtype));
        let y = match self {
            Self::Relu => relu(x),
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::QuickGelu => x.clone() * sigmoid(x * 1.702),
        };
        y.cast(dtype)
    }
}
