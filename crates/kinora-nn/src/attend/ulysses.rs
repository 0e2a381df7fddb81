//! Tokens exchanged for heads, so that a rank has all tokens of some heads (DeepSpeed-Ulysses, Jacobs
//! et al. 2023).

use burn::tensor::Tensor;
use kinora_mesh::parts;
use kinora_shard::Group;

pub(super) struct Swap {
    pub(super) group: Group,
    /// The tokens of each rank of the group.
    pub(super) lens: Vec<usize>,
}

impl Swap {
    /// `[B, H, S, K]` each to `[B, H of this rank, S of all, K]`, in one exchange; and `H`.
    pub(super) fn tokens_for_heads<const N: usize>(
        &self,
        all: [Tensor<4>; N],
    ) -> ([Tensor<4>; N], usize) {
        let heads = all[0].dims()[1];
        if self.group.size() == 1 {
            return (all, heads);
        }
        let each = parts(heads, self.group.size());
        let swapped = self.together(all, |x| {
            self.group
                .all_to_all(x, (1, &each), (2, &self.lens), "tokens for heads")
        });
        (swapped, heads)
    }

    /// The inverse: `[B, H of this rank, S of all, K]` to `[B, H, S, K]`.
    pub(super) fn heads_for_tokens<const N: usize>(
        &self,
        all: [Tensor<4>; N],
        heads: usize,
    ) -> [Tensor<4>; N] {
        if self.group.size() == 1 {
            return all;
        }
        let each = parts(heads, self.group.size());
        self.together(all, |x| {
            self.group
                .all_to_all(x, (2, &self.lens), (1, &each), "heads for tokens")
        })
    }

    fn together<const N: usize>(
        &self,
        all: [Tensor<4>; N],
        swap: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> [Tensor<4>; N] {
        let b = all[0].dims()[0];
        let all = swap(Tensor::cat(all.into_iter().collect(), 0));
        std::array::from_fn(|i| all.clone().narrow(0, i * b, b))
    }
}
