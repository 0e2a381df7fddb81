//! The mixture: which data set each sample of a bucket comes from.
//!
//! A bucket's samples form an endless sequence of slots. The slots come in blocks; each block gives
//! every data set its share of the slots, rounded so that the shares are exact over many blocks, and
//! shuffles them. So the number of slots that a data set had before any block is a formula, and a
//! position in the sequence is a number: nothing is replayed, nothing is stored.

use std::sync::Arc;

use kinora_mesh::rng::Stream;

/// Which data set gets each slot of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    /// Of each data set, the sum of the shares up to and with it; the last is 1.
    sums: Vec<f64>,
    block: u64,
    stream: Stream,
    current: Option<(u64, Arc<Vec<Slot>>)>,
}

/// A slot's data set, and which of the data set's samples it is in its endless sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) set: usize,
    pub(crate) index: u64,
}

const SMALLEST_BLOCK: u64 = 64;
const LARGEST_BLOCK: u64 = 1 << 20;
/// Below this, a data set would get less than the two slots a block that rounding may take away.
pub(crate) const SMALLEST_SHARE: f64 = 4.0 / LARGEST_BLOCK as f64;

impl Mixture {
    /// A mixture by weights, of which one at least is above zero.
    pub(crate) fn new(weights: &[f64], stream: Stream) -> Self {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let mut sums: Vec<f64> = weights
            .iter()
            .map(|weight| {
                sum += weight;
                sum / total
            })
            .collect();
        // So that rounding leaves no slot without a data set.
        let last = weights.iter().rposition(|&weight| weight > 0.0);
        for sum in &mut sums[last.unwrap_or(0)..] {
            *sum = 1.0;
        }
        let shares = weights.iter().map(|weight| weight / total);
        let smallest = shares.filter(|&share| share > 0.0).fold(1.0, f64::min);
        let block = ((4.0 / smallest).ceil() as u64).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        Self {
            sums,
            block,
            stream,
            current: None,
        }
    }

    /// The data set of a slot.
    pub(crate) fn slot(&mut self, at: u64) -> Slot {
        // A single data set needs no shuffling, and its order is that of its samples.
        if let Some(set) = self.only() {
            return Slot { set, index: at };
        }
        self.block_of(at / self.block)[(at % self.block) as usize]
    }

    /// The slot that holds a sample of a data set: what [`Mixture::slot`] undoes.
    pub(crate) fn find(&mut self, wanted: Slot) -> u64 {
        if self.only().is_some() {
            return wanted.index;
        }
        let Slot { set, index } = wanted;
        let below = if set == 0 { 0.0 } else { self.sums[set - 1] };
        let share = (self.sums[set] - below) * self.block as f64;
        // Rounding of the counts leaves the block uncertain by one or two.
        let mut block = (index as f64 / share) as u64;
        while block > 0 && self.count(block, set) > index {
            block -= 1;
        }
        while self.count(block + 1, set) <= index {
            block += 1;
        }
        let at = self.block_of(block).iter().position(|&slot| slot == wanted);
        block * self.block + at.expect("each index lies in its block") as u64
    }

    fn only(&self) -> Option<usize> {
        let first = self.sums.iter().position(|&sum| sum > 0.0)?;
        (self.sums[first] >= 1.0).then_some(first)
    }

    fn block_of(&mut self, number: u64) -> Arc<Vec<Slot>> {
        match &self.current {
            Some((current, slots)) if *current == number => slots.clone(),
            _ => {
                let slots = Arc::new(self.slots(number));
                self.current = Some((number, slots.clone()));
                slots
            }
        }
    }

    /// How many slots a data set has before a block.
    fn count(&self, block: u64, set: usize) -> u64 {
        let sums = self.before(block);
        sums[set] - if set == 0 { 0 } else { sums[set - 1] }
    }

    /// How many slots the data sets up to and with each one have before a block.
    fn before(&self, block: u64) -> Vec<u64> {
        let slots = (block * self.block) as f64;
        self.sums.iter().map(|sum| (slots * sum) as u64).collect()
    }

    fn slots(&self, block: u64) -> Vec<Slot> {
        let [from, to] = [self.before(block), self.before(block + 1)];
        let count = |sums: &[u64], set: usize| sums[set] - if set == 0 { 0 } else { sums[set - 1] };
        let mut sets = Vec::with_capacity(self.block as usize);
        let mut next = Vec::with_capacity(self.sums.len());
        for set in 0..self.sums.len() {
            let first = count(&from, set);
            next.push(first);
            let here = count(&to, set) - first;
            sets.extend((0..here).map(|_| set));
        }
        let order = self.stream.at(block).permutation(sets.len());
        let give = |at: usize| {
            let set = sets[at];
            let index = next[set];
            next[set] += 1;
            Slot { set, index }
        };
        order.into_iter().map(give).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_data_set_gets_its_share_and_each_index_once(
            weights in prop::collection::vec(0.0..10.0_f64, 1..6),
            seed in 0..1000u64,
        ) {
            let total: f64 = weights.iter().sum();
            prop_assume!(weights.iter().all(|&w| w == 0.0 || w / total > 0.01));
            prop_assume!(total > 0.0);
            let mut mixture = Mixture::new(&weights, Stream::new(seed, "test"));
            let mut next = vec![0; weights.len()];
            let slots = 5000;
            for at in 0..slots {
                let Slot { set, index } = mixture.slot(at);
                prop_assert_eq!(index, next[set], "slot {} of set {}", at, set);
                prop_assert_eq!(mixture.clone().find(Slot { set, index }), at);
                next[set] += 1;
            }
            // Off by no more than a block.
            for (&got, weight) in next.iter().zip(&weights) {
                let wanted = slots as f64 * weight / total;
                prop_assert!((got as f64 - wanted).abs() < mixture.block as f64, "{:?} of {:?}", next, weights);
            }
            // Looked up in any order, a slot is the same.
            let mut other = Mixture::new(&weights, Stream::new(seed, "test"));
            for at in [4321, 17, 2500, 0, 4999] {
                prop_assert_eq!(mixture.slot(at), other.slot(at));
            }
        }
    }

    #[test]
    fn the_smallest_share_is_counted_right() {
        let weights = [1.0, SMALLEST_SHARE * 3.5, 2.0];
        let mut mixture = Mixture::new(&weights, Stream::new(3, "test"));
        let mut last = 0;
        for block in 0..2000 {
            let count = mixture.count(block, 1);
            assert!(count >= last, "block {block}: {last}, then {count}");
            last = count;
        }
        last = mixture.count(2000, 1);
        let slots = mixture.block * 2000;
        let wanted = slots as f64 * weights[1] / weights.iter().sum::<f64>();
        assert!((last as f64 - wanted).abs() <= 1.0, "{last} of {wanted}");
        for index in [0, 1, 5, 700] {
            let slot = Slot { set: 1, index };
            let at = mixture.find(slot);
            assert_eq!(mixture.slot(at), slot);
        }
    }

    #[test]
    fn a_single_data_set_keeps_its_order() {
        let mut mixture = Mixture::new(&[0.0, 3.0, 0.0], Stream::new(0, "test"));
        for index in [0, 5, 1 << 40] {
            assert_eq!(mixture.slot(index), Slot { set: 1, index });
        }
    }

    #[test]
    fn shares_are_exact_far_out() {
        let mut mixture = Mixture::new(&[1.0, 2.0], Stream::new(0, "test"));
        let far = 3 << 30;
        let before: Vec<u64> = (0..64).map(|at| mixture.slot(far + at).index).collect();
        assert!(before.iter().all(|&index| index >= far / 3 - 64));
        assert!(before.iter().all(|&index| index <= 2 * far / 3 + 64));
    }
}
