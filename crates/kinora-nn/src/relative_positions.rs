//! A learned bias of attention for each distance between two tokens (T5, Raffel et al. 2020, section
//! 2.1): near distances one by one, far ones in buckets that widen like a logarithm.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use kinora_mesh::Axis;
use kinora_shard::{Cx, Init, Weight};

/// One bias for each bucket of distances and each head.
#[derive(Module, Debug)]
pub struct RelativePositions {
    weight: Weight<2>,
    #[module(skip)]
    buckets: usize,
    #[module(skip)]
    furthest: usize,
}

impl RelativePositions {
    /// `buckets` biases, half of them for keys after the query; distances from `furthest` on share
    /// the last ones.
    pub fn new(cx: &Cx, heads: usize, buckets: usize, furthest: usize) -> Self {
        let dims = [Axis::Channel.of(buckets), Axis::Heads.of(heads)];
        Self {
            weight: cx.param("weight", dims, Init::Normal(0.1)),
            buckets,
            furthest,
        }
    }

    /// The biases of all pairs, `[H of this rank, L queries, L keys]`.
    pub fn forward(&self, tokens: usize) -> Tensor<3> {
        let weight = self.weight.val(); // [buckets, H]
        let heads = weight.dims()[1];
        let pairs = (0..tokens).flat_map(|query| (0..tokens).map(move |key| (query, key)));
        let of = pairs.map(|(query, key)| bucket(query, key, self.buckets, self.furthest) as i32);
        let of = TensorData::new(of.collect::<Vec<_>>(), [tokens * tokens]);
        let of = Tensor::<1, Int>::from_data(of, &weight.device());
        let biases = weight.select(0, of).reshape([tokens, tokens, heads]);
        biases.permute([2, 0, 1])
    }
}

/// The bucket of a query and a key at these places.
fn bucket(query: usize, key: usize, buckets: usize, furthest: usize) -> usize {
    let half = buckets / 2;
    let (first, distance) = (if key > query { half } else { 0 }, query.abs_diff(key));
    let near = half / 2;
    if distance < near {
        return first + distance;
    }
    let (near, far) = (near as f64, furthest as f64);
    let widened = (distance as f64 / near).ln() / (far / near).ln() * (half as f64 - near);
    // Distances at the edge of a bucket are powers whose logarithms round either way.
    let far = near as usize + (widened + 1e-6) as usize;
    first + far.min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // With 32 buckets to a distance of 128 each doubling from 8 on has two.
    #[test]
    fn far_distances_share_buckets() {
        let before = |distance| bucket(distance, 0, 32, 128);
        let after = |distance| bucket(0, distance, 32, 128);
        assert_eq!(
            [0, 1, 7, 8, 11, 12, 15, 16].map(before),
            [0, 1, 7, 8, 8, 9, 9, 10]
        );
        assert_eq!(
            [31, 32, 63, 64, 90, 91, 1000].map(before),
            [11, 12, 13, 14, 14, 15, 15]
        );
        assert_eq!([1, 7, 8, 64, 1000].map(after), [17, 23, 24, 30, 31]);
    }
}
