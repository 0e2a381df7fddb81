//! Messages of parameters and their gradients: gathers and sums of what is cut, and what remains.

use super::traffic::{Ledger, Passes};
use super::wire::{self, Bytes, Kind};
use super::{Arrangement, Behind, Weight};
use crate::{Axis, MeshAxis};

impl Ledger<'_> {
    /// The cut parameters of each block in one flat gather, forward and back, and one flat sum.
    pub(super) fn sharded_block(&mut self, forward: u64, backward: u64, block: &[Weight]) {
        let local = self.local;
        if local.shards < 2 {
            return;
        }
        let stored = |shard| {
            block
                .iter()
                .map(|w| local.stored(w, shard % local.shards))
                .sum()
        };
        let (own, next): (usize, usize) = (stored(local.shard), stored(local.shard + 1));
        let total: usize = block.iter().map(|w| local.used(w)).sum();
        let [gather, reduce] = [self.dtypes.gather, self.dtypes.reduce].map(|t| t.size());
        let one = wire::gathered(total * gather, own * gather, next * gather, local.shards);
        let axes = local.params.clone();
        self.push(
            "weights of blocks",
            Kind::AllGather,
            &axes,
            forward,
            one,
            Behind::Forward,
        );
        self.push(
            "weights of blocks, back",
            Kind::AllGather,
            &axes,
            backward,
            one,
            Behind::Backward,
        );
        let one = wire::scattered(total * reduce, own * reduce, local.shards);
        self.push(
            "gradients of blocks",
            Kind::ReduceScatter,
            &axes,
            backward,
            one,
            Behind::Backward,
        );
    }

    /// Each parameter outside the blocks: a gather at its use, and a sum.
    pub(super) fn sharded_outside(&mut self, passes: Passes, outer: &[Weight]) {
        let local = self.local;
        if local.shards < 2 {
            return;
        }
        let [gather, reduce] = [self.dtypes.gather, self.dtypes.reduce].map(|t| t.size());
        let (mut gathers, mut sums) = (Bytes::default(), Bytes::default());
        for weight in outer {
            let stored = |shard| local.stored(weight, shard % local.shards);
            let (own, next, total) = (
                stored(local.shard),
                stored(local.shard + 1),
                local.used(weight),
            );
            let one = wire::gathered(total * gather, own * gather, next * gather, local.shards);
            gathers.payload += one.payload;
            gathers.ring += one.ring;
            let one = wire::scattered(total * reduce, own * reduce, local.shards);
            sums.payload += one.payload;
            sums.ring += one.ring;
        }
        let axes = local.params.clone();
        for (what, kind, calls, one) in [
            (
                "weights outside blocks",
                Kind::AllGather,
                passes.forward,
                gathers,
            ),
            (
                "gradients outside blocks",
                Kind::ReduceScatter,
                passes.backward,
                sums,
            ),
        ] {
            self.push(what, kind, &axes, calls, one, Behind::Nothing);
            if let Some(row) = self.rows.last_mut().filter(|row| row.what == what) {
                row.calls *= outer.len() as u64;
            }
        }
    }

    /// The mesh axes over which a weight's gradient is still partial after the sums of its shards.
    fn partial(&self, weight: &Weight) -> Vec<MeshAxis> {
        let Arrangement { mesh, plan, .. } = self.arrangement;
        let heads = plan.cuts(Axis::Heads, mesh);
        let mut axes = plan.cuts(Axis::Batch, mesh);
        let seq = plan.cuts(Axis::Seq, mesh).into_iter();
        // The entry of the text has summed its gradient where heads are cut; the keys and values
        // themselves are cut with the heads.
        axes.extend(seq.filter(|axis| !(weight.text && heads.contains(axis))));
        let cut = self.local.cut(weight.along);
        axes.retain(|axis| {
            let summed = self.local.params.contains(axis) || (cut && *axis == MeshAxis::Tp);
            !summed
        });
        axes
    }

    /// One flat sum a step for each set of axes.
    pub(super) fn partial_gradients(&mut self, block: &[Weight], outer: &[Weight]) {
        let mut sets: Vec<(Vec<MeshAxis>, usize)> = vec![];
        let blocks = block.iter().map(|weight| (weight, self.anatomy.layers));
        for (weight, times) in blocks.chain(outer.iter().map(|weight| (weight, 1))) {
            let axes = self.partial(weight);
            let elements = times * self.local.stored(weight, self.local.shard);
            match sets.iter_mut().find(|(set, _)| *set == axes) {
                Some((_, sum)) => *sum += elements,
                None => sets.push((axes, elements)),
            }
        }
        for (axes, elements) in sets {
            let bytes = elements * self.dtypes.reduce.size();
            let one = wire::all_reduce(bytes, self.arrangement.mesh.span(&axes));
            self.push("gradients", Kind::AllReduce, &axes, 1, one, Behind::Nothing);
        }
    }

    /// The gradient's norm, one sum of squares for each set of axes that cut weights; and the loss,
    /// with the number of clips that were skipped.
    pub(super) fn scalars(&mut self, block: &[Weight], outer: &[Weight]) {
        let mesh = &self.arrangement.mesh;
        let mut sets: Vec<Vec<MeshAxis>> = vec![];
        for weight in block.iter().chain(outer) {
            let cut = self.local.cut(weight.along);
            let tp = [MeshAxis::Tp].into_iter().filter(|_| cut);
            let axes: Vec<MeshAxis> = self.local.params.iter().copied().chain(tp).collect();
            if !sets.contains(&axes) {
                sets.push(axes);
            }
        }
        let data = self.arrangement.plan.cuts(Axis::Batch, mesh);
        let norms = sets.into_iter().map(|axes| ("gradient norm", axes, 1));
        for (what, axes, values) in norms.chain([("loss", data, 2)]) {
            let one =
                wire::all_reduce(values * size_of::<f64>(), self.arrangement.mesh.span(&axes));
            self.push(what, Kind::AllReduce, &axes, 1, one, Behind::Nothing);
        }
    }
}
