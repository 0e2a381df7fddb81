//! Feed-forward networks: LLaMa's, SwiGLU (Shazeer 2020), and that of GPT-2, with GELU.

use crate::sequence::Entry;
use crate::{Linear, LinearConfig, gelu_tanh};
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

/// `down(gelu(up(x)))`, with biases and the approximation of GELU by tanh.
#[derive(Module, Debug)]
pub struct GeluMlp {
    entry: Entry,
    up: Linear,
    down: Linear,
}

impl GeluMlp {
    /// A network of `hidden` units whose output starts multiplied by `residual`.
    pub fn new(cx: &Cx, width: Extent, hidden: usize, residual: f64) -> Self {
        let hidden = Axis::Hidden.of(hidden);
        Self {
            entry: Entry::new(cx, Axis::Hidden),
            up: LinearConfig::new(width, hidden)
                .with_bias()
                .init(&cx.at("up")),
            down: LinearConfig::new(hidden, width)
                .with_bias()
                .scaled(residual)
                .init(&cx.at("down")),
        }
    }

    /// `x` of `[B, S of this rank, D]` to the same; `tokens` is the whole length.
    pub fn forward(&self, x: Tensor<3>, tokens: usize) -> Tensor<3> {
        let x = self.entry.forward(x, tokens); // [B, S, D]
        self.down.forward(gelu_tanh(self.up.forward(x))) // [B, S, F] between them
    }
}
