//! Feed-forward networks: LLaMa's, SwiGLU (Shazeer 2020), with its own kernel, and those of other models.

use crate::sequence::Entry;
use crate::{Activation, Linear, LinearConfig};
use burn::module::Module;
use burn::tensor::Tensor;
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

/// `down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    entry: Entry,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    #[module(skip)]
    activation: Activation,
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
    /// Whether hidden units are multiplied by gates, which then have the activation.
    pub gated: bool,
    /// The output starts multiplied by this.
    pub residual: f64,
    /// Whether what goes into the hidden units has a bias.
    pub bias: bool,
    /// Whether the output has a bias; one of two layers whose outputs are added may have it for both.
    pub out_bias: bool,
}

impl MlpConfig {
    /// A network of `hidden` units with GELU, and biases.
    pub fn gelu(width: Extent, hidden: usize) -> Self {
        Self {
            width,
            hidden,
            activation: Activation::GeluTanh,
            gated: false,
            residual: 1.0,
            bias: true,
            out_bias: true,
        }
    }

    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> Mlp {
        let hidden = Axis::Hidden.of(self.hidden);
        let biased = |linear: LinearConfig, bias| match bias {
            true => linear.with_bias(),
            false => linear,
        };
        let into = biased(LinearConfig::new(self.width, hidden), self.bias);
        let out = LinearConfig::new(hidden, self.width).scaled(self.residual);
        Mlp {
            entry: Entry::new(cx, Axis::Hidden),
            gate: self.gated.then(|| into.init(&cx.at("gate"))),
            up: into.init(&cx.at("up")),
            down: biased(out, self.out_bias).init(&cx.at("down")),
            activation: self.activation,
        }
    }
}

impl Mlp {
    /// `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole length.
    pub fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        let up = self.up.forward(x.clone()); // [B, S, F]
        self.down.forward(match &self.gate {
            Some(gate) => self.activation.apply(gate.forward(x)) * up,
            None => self.activation.apply(up),
        })
    }
}
