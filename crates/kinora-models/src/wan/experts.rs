//! Wan 2.2's pair: one model for the noisy times, one for the others, switched once on the way.

use super::{Wan, WanConfig};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_shard::Cx;

/// Two models of the same sizes.
#[derive(Module, Debug)]
pub struct Experts {
    high: Wan,
    low: Wan,
    #[module(skip)]
    boundary: f64,
}

impl Experts {
    /// A pair with initial weights keyed by (seed, path).
    ///
    /// # Panics
    /// If the config has no boundary.
    pub fn new(cx: &Cx, config: &WanConfig) -> Self {
        let model = |name: &str| Wan::new(&cx.at(name), config);
        Self::of(model("high"), model("low"))
    }

    /// The pair of two models that were made, or loaded, one by one: that of the noisy times first.
    ///
    /// # Panics
    /// If the first model's config has no boundary.
    pub fn of(high: Wan, low: Wan) -> Self {
        let boundary = high.config().boundary;
        Self {
            boundary: 1000.0 * boundary.expect("the config of a pair says where it changes over"),
            high,
            low,
        }
    }

    /// The model that knows a time in 0..=1000: the first from the boundary on.
    pub fn at(&self, time: f64) -> &Wan {
        if time >= self.boundary {
            &self.high
        } else {
            &self.low
        }
    }

    /// [`Wan::forward`] of the model for `time`, which is one number for all samples, so that all that
    /// compute together take the same model.
    pub fn forward(
        &self,
        latent: Tensor<5>,
        time: f64,
        text: Tensor<3>,
        image: Option<Tensor<3>>,
    ) -> Tensor<5> {
        let b = latent.dims()[0];
        let times = Tensor::full([b, 1], time, &latent.device());
        self.at(time).forward(latent, times, text, image)
    }
}
