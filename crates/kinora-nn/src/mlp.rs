//! Feed-forward networks: LLaMa's, SwiGLU (Shazeer 2020), and two layers with biases.

use crate::sequence::Entry;
use crate::{Linear, LinearConfig, gelu_tanh};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kinora_mesh::{Axis, Extent};
use kinora_shard::Cx;

/// `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct SwiGlu {
    entry: Entry,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl SwiGlu {
    /// A network of `hidden` units whose output starts multiplied by `residual`.
    pub fn new(cx: &Cx, width: Extent, hidden: usize, residual: f64) -> Self {
        let hidden = Axis::Hidden.of(hidden);
        Self {
            entry: Entry::new(cx, Axis::Hidden),
            gate: LinearConfig::new(width, hidden).init(&cx.at("gate")),
            up: LinearConfig::new(width, hidden).init(&cx.at("up")),
            down: LinearConfig::new(hidden, width)
                .scaled(residual)
                .init(&cx.at("down")),
        }
    }

    /// `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole length.
    pub fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let hidden = kinora_kernels::swiglu(self.gate.forward(x.clone()), self.up.forward(x)); // [B, S, F]
        self.down.forward(hidden)
    }
}

/// `down(activation(up(x)))`, with biases.
#[derive(Module, Debug)]
pub struct Mlp {
    entry: Entry,
    up: Linear,
    down: Linear,
    #[module(skip)]
    activation: Activation,
}

/// What stands between the two layers of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU, by its approximation with tanh.
    GeluTanh,
    /// SiLU.
    Silu,
}

/// What an [`Mlp`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct MlpConfig {
    /// Model width.
    pub width: Extent,
    /// Hidden units.
    pub hidden: usize,
    /// What stands between the layers.
    pub activation: Activation,
    /// The output starts multiplied by this.
    pub residual: f64,
    /// Whether the output has a bias; one of two layers whose outputs are added may have it for both.
    pub out_bias: bool,
}

impl MlpConfig {
    /// A network of `hidden` units with GELU.
    pub fn gelu(width: Extent, hidden: usize) -> Self {
        Self {
            width,
            hidden,
            activation: Activation::GeluTanh,
            residual: 1.0,
            out_bias: true,
        }
    }

    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> Mlp {
        let hidden = Axis::Hidden.of(self.hidden);
        let up = LinearConfig::new(self.width, hidden).with_bias();
        let down = LinearConfig::new(hidden, self.width).scaled(self.residual);
        let down = if self.out_bias {
            down.with_bias()
        } else {
            down
        };
        Mlp {
            entry: Entry::new(cx, Axis::Hidden),
            up: up.init(&cx.at("up")),
            down: down.init(&cx.at("down")),
            activation: self.activation,
        }
    }
}

impl Mlp {
    /// `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole length.
    pub fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let hidden = self.up.forward(x); // [B, S, F]
        self.down.forward(match self.activation {
            Activation::GeluTanh => gelu_tanh(hidden),
            Activation::Silu => silu(hidden),
        })
    }
}
