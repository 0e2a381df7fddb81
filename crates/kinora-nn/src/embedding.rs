//! A table of learned vectors.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kinora_mesh::{Axis, Extent};
use kinora_shard::{Cx, Init, Weight};

/// One learned vector for each of a number of symbols.
#[derive(Module, Debug)]
pub struct Embedding {
    weight: Weight<2>,
}

impl Embedding {
    /// `count` vectors, normal with standard deviation `std`.
    pub fn new(cx: &Cx, count: usize, width: Extent, std: f64) -> Self {
        // The count is no axis that any plan cuts.
        let weight = cx.param(
            "weight",
            [Axis::Channel.of(count), width],
            Init::Normal(std),
        );
        Self { weight }
    }

    /// Symbols `[B, L]` to vectors `[B, L, D]`.
    pub fn forward(&self, symbols: Tensor<2, Int>) -> Tensor<3> {
        let [b, l] = symbols.dims();
        let weight = self.weight.val();
        let width = weight.dims()[1];
        weight
            .select(0, symbols.reshape([b * l]))
            .reshape([b, l, width])
    }
}
