//! The image that cross-attention reads (`MLPProj`): the tokens of CLIP's second to last layer.

use super::{ImageConfig, WanConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::gelu;
use kinora_mesh::Axis;
use kinora_nn::{LayerNorm, Linear, LinearConfig};
use kinora_shard::{Cx, Init, Weight};

/// A norm, two linear layers with GELU between them, and a norm. Unlike the rest of the model it has
/// PyTorch's own epsilon, and GELU without the approximation.
#[derive(Module, Debug)]
pub(super) struct Image {
    positions: Option<Weight<2>>,
    norm1: LayerNorm,
    first: Linear,
    second: Linear,
    norm2: LayerNorm,
}

impl Image {
    pub(super) fn new(cx: &Cx, config: &WanConfig, image: &ImageConfig) -> Self {
        // Whole for every query, as text is.
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.dim);
        let from = Axis::Channel.of(image.width);
        let layer = |to, name: &str| {
            let linear = LinearConfig::new(from, to).with_bias();
            linear.init(&cx.at(name))
        };
        let positions = |tokens| {
            let dims = [Axis::Channel.of(tokens), from];
            cx.param("positions", dims, Init::Constant(0.0))
        };
        Self {
            positions: image.positions.map(positions),
            norm1: LayerNorm::new(&cx.at("norm1"), from),
            first: layer(from, "first"),
            second: layer(width, "second"),
            norm2: LayerNorm::new(&cx.at("norm2"), width),
        }
    }

    /// `[B, I, width]` to `[B, I, D]`; the tokens of two images follow each other.
    pub(super) fn forward(&self, image: Tensor<3>) -> Tensor<3> {
        let image = match &self.positions {
            Some(positions) => image + positions.val().unsqueeze(),
            None => image,
        };
        let hidden = gelu(self.first.forward(self.norm1.forward(image)));
        self.norm2.forward(self.second.forward(hidden))
    }
}
