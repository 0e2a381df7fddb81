//! Messages of parameters and their gradients: gathers and sums of what is cut, and what remains.

use super::model::Model;
use super::traffic::{Ledger, Passes};
use super::wire::{self, Bytes, Kind};
use super::{Arrangement, Behind, Weight};
use crate::{Axis, MeshAxis};

impl Ledger<'_> {
    /// The cut parameters of each block in one flat gather, forward and back, and one flat sum.
    pub(super) fn sharded_block(&mut self, forward: u64, backward: u64, block: &[Weight]) {
        let local = self.local;
        let cut: Vec<&Weight> = block.iter().filter(|w| local.sharded(w)).collect();
        if cut.is_empty() {
            return;
        }
        let stored = |shard| cut.iter().map(|w| local.stored(w, shard)).sum();
        let (own, next): (usize, usize) = (stored(local.shard), stored(local.shard + 1));
        let total: usize = cut.iter().map(|w| local.used(w)).sum();
        let [gather, reduce] = [self.dtypes.gather, self.dtypes.reduce].map(|t| t.size());
        let there = wire::gathered(total * gather, own * gather, next * gather, local.shards);
        let back = wire::scattered(total * reduce, own * reduce, local.shards);
        let names = self.names;
        let axes = local.params.clone();
        for (what, kind, calls, one, behind) in [
            (
                names.weights,
                Kind::AllGather,
                forward,
                there,
                Behind::Forward,
            ),
            (
                names.weights_back,
                Kind::AllGather,
                backward,
                there,
                Behind::Backward,
            ),
            (
                names.gradients,
                Kind::ReduceScatter,
                backward,
                back,
                Behind::Backward,
            ),
        ] {
            self.push(what, kind, &axes, calls, one, behind);
        }
    }

    /// Each parameter outside the blocks: a gather at its one use, and a sum.
    pub(super) fn sharded_outside(&mut self, passes: Passes, outer: &[Weight]) {
        let local = self.local;
        let [gather, reduce] = [self.dtypes.gather, self.dtypes.reduce].map(|t| t.size());
        let (mut gathers, mut sums) = (Bytes::default(), Bytes::default());
        let mut count = 0;
        for weight in outer.iter().filter(|w| local.sharded(w)) {
            let (own, next, total) = (
                local.stored(weight, local.shard),
                local.stored(weight, local.shard + 1),
                local.used(weight),
            );
            let there = wire::gathered(total * gather, own * gather, next * gather, local.shards);
            let back = wire::scattered(total * reduce, own * reduce, local.shards);
            for (sum, one) in [(&mut gathers, there), (&mut sums, back)] {
                sum.payload += one.payload;
                sum.ring += one.ring;
            }
            count += 1;
        }
        if count == 0 {
            return;
        }
        let axes = local.params.clone();
        let rows = [
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
        ];
        for (what, kind, calls, one) in rows {
            self.push(what, kind, &axes, calls, one, Behind::Nothing);
            if let Some(row) = self.rows.last_mut().filter(|row| row.what == what) {
                row.calls *= count;
            }
        }
    }

    /// The mesh axes over which a weight's gradient is still partial after the sums of its shards.
    fn partial(&self, weight: &Weight) -> Vec<MeshAxis> {
        let Arrangement { mesh, plan } = self.arrangement;
        let heads = plan.cuts(Axis::Heads, mesh);
        let mut axes = plan.cuts(Axis::Batch, mesh);
        let seq = plan.cuts(Axis::Seq, mesh).into_iter();
        // The entry of the text has summed its gradient where heads are cut.
        axes.extend(seq.filter(|axis| !(weight.text && heads.contains(axis))));
        let cut = self.cut_axes(weight);
        axes.retain(|axis| !cut.contains(axis));
        axes
    }

    /// The mesh axes that cut a weight as it is stored, outermost first.
    fn cut_axes(&self, weight: &Weight) -> Vec<MeshAxis> {
        let mut axes = vec![];
        if self.local.sharded(weight) {
            axes.extend(&self.local.params);
        }
        if self.local.cut(weight) {
            axes.push(MeshAxis::Tp);
        }
        axes
    }

    /// One flat sum a step for each set of axes.
    pub(super) fn partial_gradients(&mut self, model: &Model<'_>) {
        let mut sets: Vec<(Vec<MeshAxis>, usize)> = vec![];
        for (weight, times) in model.weights() {
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
    pub(super) fn scalars(&mut self, model: &Model<'_>) {
        let mesh = &self.arrangement.mesh;
        let mut sets: Vec<Vec<MeshAxis>> = vec![];
        for (weight, _) in model.weights() {
            let axes = self.cut_axes(weight);
            if !sets.contains(&axes) {
                sets.push(axes);
            }
        }
        let data = self.arrangement.plan.cuts(Axis::Batch, mesh);
        let norms = sets.into_iter().map(|axes| ("gradient norm", axes, 1));
        for (what, axes, values) in norms.chain([("loss", data, 2)]) {
            let one = wire::all_reduce(values * size_of::<f64>(), mesh.span(&axes));
            self.push(what, Kind::AllReduce, &axes, 1, one, Behind::Nothing);
        }
    }
}
