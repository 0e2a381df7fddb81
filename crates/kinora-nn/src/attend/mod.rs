//! How queries reach their keys: all here, or over the ranks that hold other tokens of the sample.
//!
//! Attention over ranks is one operation with a backward pass of its own, in which the keys of other
//! ranks travel again: a graph of exchanges would keep every rank's keys in memory.
//!
//! Shapes: `B` samples, `H` heads on this rank, `S` tokens on this rank, `K` width of a head. Keys of
//! all ranks follow each other in the order of ranks.

mod gather;
mod ring;
mod ulysses;

use burn::tensor::{Bool, Tensor};
use kinora_kernels::op::custom;
use kinora_shard::{Context, Cx, Group};
use std::sync::Arc;

/// The strategy of a self-attention layer, chosen when it is made.
#[derive(Clone, Debug)]
pub(crate) enum Attend {
    /// Every rank has all tokens.
    Local,
    /// Keys and values are gathered: Movie Gen's.
    Gather(Group),
    /// Tokens are exchanged for heads in one group, and keys and values travel round the other.
    Exchange { ulysses: Group, ring: Group },
}

impl Attend {
    pub(crate) fn new(cx: &Cx) -> Self {
        match cx.context() {
            None => Self::Local,
            Some(Context::Gather(group)) => Self::Gather(group),
            Some(Context::Exchange { ulysses, ring }) => Self::Exchange { ulysses, ring },
        }
    }

    /// How many ranks hold tokens, and which of them this is.
    pub(crate) fn place(&self) -> (usize, usize) {
        match self {
            Self::Local => (1, 0),
            Self::Gather(group) => (group.size(), group.rank()),
            Self::Exchange { ulysses, ring } => (
                ulysses.size() * ring.size(),
                ring.rank() * ulysses.size() + ulysses.rank(),
            ),
        }
    }

    /// Attention of this rank's queries to the keys of all: `[B, H, S, K]` each. `lens` are the tokens
    /// of each rank, and `mask`, `[B, S of all]`, is false for keys that nobody attends to.
    pub(crate) fn forward(
        &self,
        [q, k, v]: [Tensor<4>; 3],
        mask: Option<Tensor<2, Bool>>,
        lens: &[usize],
    ) -> Tensor<4> {
        match self.clone() {
            Self::Local => kinora_kernels::attention(q, k, v, mask),
            Self::Gather(group) => {
                let gather = gather::Gather {
                    group,
                    lens: lens.to_vec(),
                    mask,
                };
                custom([q, k, v], |[q, k, v]| {
                    let (out, lse) = gather.forward(q.clone(), k.clone(), v.clone());
                    let saved = out.clone();
                    let back = move |d_out| {
                        gather.backward(
                            [q.clone(), k.clone(), v.clone()],
                            (saved.clone(), lse.clone()),
                            d_out,
                        )
                    };
                    (out, Arc::new(back))
                })
            }
            Self::Exchange { ulysses, ring } => {
                let near = ulysses.size();
                let swap = ulysses::Swap {
                    lens: lens.chunks(near).nth(ring.rank()).unwrap_or(lens).to_vec(),
                    group: ulysses,
                };
                let ring = ring::Ring {
                    group: ring,
                    lens: lens.chunks(near).map(|part| part.iter().sum()).collect(),
                    mask,
                };
                custom([q, k, v], |qkv| {
                    // What is kept has the heads of this rank instead of its tokens: as many bytes.
                    let (qkv, heads) = swap.tokens_for_heads(qkv);
                    let (out, lse) = ring.forward(qkv.clone());
                    let mine = swap.heads_for_tokens([out.clone()], heads);
                    let back = move |d_out| {
                        let ([d_out], _) = swap.tokens_for_heads([d_out]);
                        let saved = (out.clone(), lse.clone());
                        let gradients = ring.backward(qkv.clone(), saved, d_out);
                        swap.heads_for_tokens(gradients, heads)
                    };
                    let [mine] = mine;
                    (mine, Arc::new(back))
                })
            }
        }
    }
}
