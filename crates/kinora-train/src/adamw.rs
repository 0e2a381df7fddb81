//! AdamW (Loshchilov and Hutter 2019) on flat parameter shards.
//!
//! Burn's own works on whole modules with its own state; the state here is flat tensors in the order
//! of the parameter table, which is what a sharded checkpoint stores.

use crate::OptimConfig;
use burn::tensor::Tensor;

/// The moments of every parameter of this rank.
#[derive(Clone, Debug)]
pub struct AdamW {
    first: Vec<Tensor<1>>,
    second: Vec<Tensor<1>>,
}

impl AdamW {
    /// Moments of zero, for parameters like these.
    pub fn new(params: &[Tensor<1>]) -> Self {
        let zeros = || params.iter().map(Tensor::zeros_like).collect();
        Self {
            first: zeros(),
            second: zeros(),
        }
    }

    /// From stored moments.
    pub fn from_moments(first: Vec<Tensor<1>>, second: Vec<Tensor<1>>) -> Self {
        Self { first, second }
    }

    /// The first and second moments.
    pub fn moments(&self) -> [&[Tensor<1>]; 2] {
        [&self.first, &self.second]
    }

    /// The new value of parameter `index` at `step`, counted from 1, with learning rate `rate`.
    pub fn update(
        &mut self,
        index: usize,
        param: Tensor<1>,
        gradient: Tensor<1>,
        decay: bool,
        (step, rate): (u64, f64),
        optim: &OptimConfig,
    ) -> Tensor<1> {
        let [b1, b2] = optim.betas;
        let first = self.first[index].clone() * b1 + gradient.clone() * (1.0 - b1);
        let second = self.second[index].clone() * b2 + gradient.square() * (1.0 - b2);
        self.first[index] = first.clone();
        self.second[index] = second.clone();
        let steps = step as f64;
        let (unbias1, unbias2) = (1.0 - b1.powf(steps), 1.0 - b2.powf(steps));
        let scale = (second / unbias2).sqrt() + optim.epsilon;
        let kept = if decay {
            param * (1.0 - rate * optim.weight_decay)
        } else {
            param
        };
        kept - first / scale * (rate / unbias1)
    }
}
