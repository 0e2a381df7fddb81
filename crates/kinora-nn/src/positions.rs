//! Factorised learnable positions (NaViT's, as in Movie Gen: one table for each of time, height and
//! width, summed).

use crate::Sequence;
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::{Axis, Extent};
use kinora_shard::{Cx, Init, Weight};

/// Three tables of learned positions.
#[derive(Module, Debug)]
pub struct FactorisedPositions {
    frame: Weight<2>,
    height: Weight<2>,
    width: Weight<2>,
    sequence: Sequence,
}

/// The positions of the tokens that this rank holds.
#[derive(Clone, Debug)]
pub struct Positions {
    /// `[1, S of this rank, D]`, to be added to tokens.
    pub embedding: Tensor<3>,
    /// The number of tokens of the whole sequence.
    pub tokens: usize,
}

impl FactorisedPositions {
    /// Tables for up to `[frames, height, width]` tokens, whose sum starts normal with standard
    /// deviation `std`.
    ///
    /// The scale decides whether motion is learned: at 0.1 a small model ignores it.
    pub fn new(cx: &Cx, [frames, height, width]: [usize; 3], dim: Extent, std: f64) -> Self {
        let table = |name: &str, len: usize| {
            let std = std / 3_f64.sqrt();
            cx.param(name, [Axis::Frame.of(len), dim], Init::Normal(std))
        };
        Self {
            frame: table("frame", frames),
            height: table("height", height),
            width: table("width", width),
            sequence: Sequence::new(cx),
        }
    }

    /// The longest sequence, in tokens along `[frames, height, width]`.
    pub fn limits(&self) -> [usize; 3] {
        [&self.frame, &self.height, &self.width].map(|table| table.dims()[0])
    }

    /// The positions of a grid of `[frames, height, width]` tokens, width fastest.
    ///
    /// # Panics
    /// If the grid is larger than the tables.
    pub fn forward(&self, grid: [usize; 3]) -> Positions {
        let limits = self.limits();
        let fits = grid.iter().zip(&limits).all(|(n, limit)| n <= limit);
        assert!(
            fits,
            "a grid of {grid:?} tokens exceeds the position tables, {limits:?}"
        );
        let [t, h, w] = grid;
        let tokens = t * h * w;
        let [frame, height, width] = [(&self.frame, t), (&self.height, h), (&self.width, w)]
            .map(|(table, len)| table.val().narrow(0, 0, len));
        let dim = frame.dims()[1];
        let sum = frame.reshape([t, 1, 1, dim])
            + height.reshape([1, h, 1, dim])
            + width.reshape([1, 1, w, dim]);
        let mine = self.sequence.range(tokens);
        // A plain cut, not a collective: each rank's gradient of the tables is a partial sum.
        let embedding = sum
            .reshape([1, tokens, dim])
            .narrow(1, mine.start, mine.len());
        Positions { embedding, tokens }
    }
}
