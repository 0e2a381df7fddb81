//! Which blocks are computed again in the backward pass instead of keeping their activations.

use serde::{Deserialize, Serialize};

/// The choice, block by block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// No block: the fastest, with the most memory. Blocks whose stored weights are cut are
    /// recomputed whatever is said here, or the graph would hold the gathered ones.
    #[default]
    None,
    /// Every block.
    All,
    /// The first so many blocks.
    First(usize),
}

impl Recompute {
    /// Whether block `i` is recomputed.
    pub fn takes(self, i: usize) -> bool {
        match self {
            Recompute::None => false,
            Recompute::All => true,
            Recompute::First(count) => i < count,
        }
    }
}
