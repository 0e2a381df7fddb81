//! The embedding of time, and what modulates all blocks by it.

use super::WanConfig;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use kinora_mesh::Axis;
use kinora_nn::{Linear, LinearConfig, Sequence, TimeEmbedding};
use kinora_shard::Cx;

/// Sinusoids and two linear layers; a third one makes six vectors for every block (`time_embedding`
/// and `time_projection`).
#[derive(Module, Debug)]
pub(super) struct Time {
    embedding: TimeEmbedding,
    project: Linear,
    sequence: Sequence,
}

/// Time as the model reads it: for each sample, or for each token of this part of the sequence.
#[derive(Clone, Debug)]
pub(super) struct Embedded {
    /// `[B, 1 or S, D]`, for the head.
    pub(super) time: Tensor<3>,
    /// `[B, 1 or S, 6 D]`, for the blocks.
    pub(super) shared: Tensor<3>,
}

impl Time {
    pub(super) fn new(cx: &Cx, config: &WanConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let six = Axis::Channel.of(6 * config.dim);
        Self {
            embedding: TimeEmbedding::with_sinusoids(cx, config.sinusoids, width),
            project: LinearConfig::new(width, six)
                .with_bias()
                .init(&cx.at("project")),
            sequence: Sequence::new(cx),
        }
    }

    /// Times `[B, 1]` or `[B, S of the whole sequence]` in 0..=1000, of a sequence of `tokens`.
    pub(super) fn forward(&self, time: Tensor<2>, tokens: usize) -> Embedded {
        let [b, each] = time.dims();
        assert!(
            each == 1 || each == tokens,
            "times are [{b}, {each}], one for each sample or for each of {tokens} tokens"
        );
        // What stands where the sequence is cut needs its own times alone.
        let mine = self.sequence.range(tokens);
        let time = match each == tokens {
            true => time.narrow(1, mine.start, mine.len()),
            false => time,
        };
        let time = self.embedding.of_steps(time);
        let shared = self.project.forward(silu(time.clone()));
        Embedded { time, shared }
    }
}
