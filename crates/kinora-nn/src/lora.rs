//! A low-rank adapter beside a linear layer (LoRA, Hu et al. 2021).

use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::{Axis, Extent};
use kinora_shard::{Adapters, Cx, Init, Weight};

/// `scale (x down) up`. It starts silent: `up` is zero.
///
/// Its factors are cut as the layer's weight is, `down` along the inputs and `up` along the outputs, so
/// that what it adds is a part, or a partial sum, exactly where the layer's own output is.
#[derive(Module, Debug)]
pub(crate) struct Lora {
    down: Weight<2>,
    up: Weight<2>,
    #[module(skip)]
    scale: f64,
}

impl Lora {
    /// Beside a layer between these axes.
    pub(crate) fn new(cx: &Cx, adapters: &Adapters, from: Extent, to: Extent) -> Self {
        let inner = Axis::Channel.of(adapters.rank);
        let beside = [from.axis, to.axis];
        // The variance of PyTorch's default for linear layers, which LoRA's authors use.
        let start = Init::Normal((3.0 * from.len as f64).powf(-0.5));
        Self {
            down: cx.adapter("lora_down", [from, inner], start, beside),
            up: cx.adapter("lora_up", [inner, to], Init::Constant(0.0), beside),
            scale: adapters.scale(),
        }
    }

    /// Tokens `[N, from of this rank]` to `[N, to of this rank]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let inner = kinora_kernels::product(x, self.down.val());
        kinora_kernels::product(inner, self.up.val()) * self.scale
    }
}
