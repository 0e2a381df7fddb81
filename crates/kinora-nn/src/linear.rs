//! A linear layer whose cut follows from what its dimensions mean.

use crate::lora::Lora;
use burn::module::Module;
use burn::tensor::{DType, Tensor};
use kinora_mesh::Extent;
use kinora_shard::{Cx, Edge, Group, Init, Weight};

/// `y = x W + b`, with `W` of `[from, to]`.
///
/// Where `to` is cut, this rank computes its part of the outputs from an input that has passed the
/// entry of the layer it belongs to ([`Cx::entry`], shared by all linears that read the same value).
/// Where `from` is cut, the products are partial sums: they are reduced here, and the bias, which
/// belongs to the whole output, is added once, after that.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Weight<2>,
    bias: Option<Weight<1>>,
    lora: Option<Lora>,
    #[module(skip)]
    exit: Option<Exit>,
}

#[derive(Clone, Debug)]
struct Exit {
    edge: Edge,
    group: Group,
}

/// What a [`Linear`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct LinearConfig {
    from: Extent,
    to: Extent,
    bias: bool,
    std: f64,
}

impl LinearConfig {
    /// Without a bias, weights normal with variance `1 / (3 from)`, that of PyTorch's default: small
    /// enough that Adam's steps, which do not depend on it, soon outweigh the random start.
    pub fn new(from: Extent, to: Extent) -> Self {
        Self {
            from,
            to,
            bias: false,
            std: (3.0 * from.len as f64).powf(-0.5),
        }
    }

    /// With a bias that starts at zero.
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// With initial weights multiplied by `factor`; 0 makes a layer that starts silent.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            std: self.std * factor,
            ..self
        }
    }

    /// Creates the layer.
    pub fn init(self, cx: &Cx) -> Linear {
        let (edge, group) = cx.exit(self.from.axis);
        Linear {
            weight: cx.param("weight", [self.from, self.to], Init::Normal(self.std)),
            bias: self
                .bias
                .then(|| cx.param("bias", [self.to], Init::Constant(0.0))),
            lora: cx
                .adapters()
                .map(|adapters| Lora::new(cx, adapters, self.from, self.to)),
            exit: (group.size() > 1).then_some(Exit { edge, group }),
        }
    }
}

impl Linear {
    /// The dtype that the layer computes in.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// `x` of `[B, tokens, from]` to `[B, tokens, to]`; under sequence parallelism the output of a
    /// contracted cut axis holds this rank's part of the tokens.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, s, from] = x.dims();
        let weight = self.weight.val();
        let to = weight.dims()[1];
        // One matrix product over all tokens, rather than one for each sample.
        let x = x.reshape([b * s, from]);
        let y = kinora_kernels::product(x.clone(), weight);
        let y = match &self.lora {
            Some(lora) => y + lora.forward(x),
            None => y,
        };
        let y = y.reshape([b, s, to]);
        let y = match &self.exit {
            Some(exit) => exit.edge.collective(s).apply(y, &exit.group),
            None => y,
        };
        match &self.bias {
            Some(bias) => y + bias.val().reshape([1, 1, -1]),
            None => y,
        }
    }
}
