//! The feed-forward networks of text and image encoders: gated or not, with one of the activations that
//! published weights were trained with.

use crate::norm::wide;
use crate::sequence::Entry;
use crate::{Linear, LinearConfig, gelu_tanh};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, relu, sigmoid, silu};
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

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

/// `down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct EncoderMlp {
    entry: Entry,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    #[module(skip)]
    activation: Activation,
}

/// What an [`EncoderMlp`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct EncoderMlpConfig {
    /// Model width.
    pub width: Extent,
    /// Hidden units.
    pub hidden: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether hidden units are multiplied by gates.
    pub gated: bool,
    /// Whether the linear layers have biases.
    pub bias: bool,
}

impl EncoderMlpConfig {
    /// Creates the network.
    pub fn init(self, cx: &Cx) -> EncoderMlp {
        let hidden = Axis::Hidden.of(self.hidden);
        let linear = |from, to, name: &str| {
            let linear = LinearConfig::new(from, to);
            let linear = if self.bias {
                linear.with_bias()
            } else {
                linear
            };
            linear.init(&cx.at(name))
        };
        EncoderMlp {
            entry: Entry::new(cx, Axis::Hidden),
            gate: self.gated.then(|| linear(self.width, hidden, "gate")),
            up: linear(self.width, hidden, "up"),
            down: linear(hidden, self.width, "down"),
            activation: self.activation,
        }
    }
}

impl EncoderMlp {
    /// `x` of `[B, L, D]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        let x = self.entry.forward(x, tokens);
        let up = self.up.forward(x.clone()); // [B, L, F]
        let hidden = match &self.gate {
            Some(gate) => self.activation.apply(gate.forward(x)) * up,
            None => self.activation.apply(up),
        };
        self.down.forward(hidden)
    }
}
