//! What one rank sends in a step: one small function a rule, each a mirror of what the engine does.

use super::arrangement::Local;
use super::model::Placed;
use super::wire::{self, Bytes, Kind};
use super::{Anatomy, Arrangement, Behind, Dtypes, Guidance, Job, QkNorm, Row, TextPath, Training};
use crate::{Axis, MeshAxis, part};

// The engine sends keys and values together, and so their gradients.
const KEYS_AND_VALUES: usize = 2;

/// Collects the rows of one step, of one stack of blocks at a time.
pub(super) struct Ledger<'a> {
    pub(super) anatomy: &'a Anatomy,
    pub(super) arrangement: &'a Arrangement,
    pub(super) local: &'a Local,
    pub(super) dtypes: Dtypes,
    pub(super) names: &'static Names,
    pub(super) rows: Vec<Row>,
}

/// How often a step passes the model, forward and back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passes {
    /// Forward passes a step.
    pub forward: u64,
    /// Backward passes a step: micro-batches, or none.
    pub backward: u64,
}

/// What the rows of a stack are called.
pub(super) struct Names {
    into: &'static str,
    out_of: &'static str,
    back_out_of: &'static str,
    back_into: &'static str,
    pub(super) weights: &'static str,
    pub(super) weights_back: &'static str,
    pub(super) gradients: &'static str,
}

const TRANSFORMER: Names = Names {
    into: "tokens into cut layers",
    out_of: "sums out of cut layers",
    back_out_of: "gradients out of cut layers",
    back_into: "gradients into cut layers",
    weights: "weights of blocks",
    weights_back: "weights of blocks, back",
    gradients: "gradients of blocks",
};

// Text is never cut, so that nothing is gathered at entries.
const ENCODER: Names = Names {
    into: "",
    out_of: "sums out of the encoder's cut layers",
    back_out_of: "gradients out of the encoder's cut layers",
    back_into: "",
    weights: "weights of the encoder's blocks",
    weights_back: "weights of the encoder's blocks, back",
    gradients: "gradients of the encoder's blocks",
};

/// All rows of a step with so many blocks of each stack recomputed.
pub(super) fn rows(
    job: &Job,
    placed: &Placed<'_>,
    passes: Passes,
    recomputed: &[usize],
) -> Vec<Row> {
    let mut rows = vec![];
    for (i, (stack, local)) in placed.model.stacks.iter().zip(&placed.locals).enumerate() {
        let mut ledger = Ledger {
            anatomy: stack.anatomy,
            arrangement: placed.arrangement,
            local,
            dtypes: job.dtypes(),
            names: if i == 0 { &TRANSFORMER } else { &ENCODER },
            rows,
        };
        let layers = stack.anatomy.layers as u64;
        let again = recomputed[i] as u64 * passes.backward;
        let (forward, backward) = (layers * passes.forward + again, layers * passes.backward);
        ledger.tensor_parallel(forward, backward);
        ledger.qk_norm(forward, backward);
        ledger.context(forward, backward);
        ledger.sharded_block(layers * passes.forward, backward, &stack.block);
        rows = ledger.rows;
    }
    let mut ledger = Ledger {
        anatomy: placed.model.stacks[0].anatomy,
        arrangement: placed.arrangement,
        local: &placed.locals[0],
        dtypes: job.dtypes(),
        names: &TRANSFORMER,
        rows,
    };
    ledger.text_entry(passes.backward);
    ledger.sharded_outside(passes, &placed.model.outer);
    ledger.join(passes.forward);
    match job {
        Job::Training(job) => {
            ledger.batch(job);
            ledger.partial_gradients(placed.model);
            ledger.scalars(placed.model);
        }
        Job::Generation(job) => {
            if job.guidance == Guidance::CfgAxis {
                ledger.guidance();
            }
        }
    }
    ledger.rows
}

impl Ledger<'_> {
    pub(super) fn push(
        &mut self,
        what: &'static str,
        collective: Kind,
        axes: &[MeshAxis],
        calls: u64,
        one: Bytes,
        behind: Behind,
    ) {
        let ranks = self.arrangement.mesh.span(axes);
        self.push_over(what, collective, axes, ranks, calls, one, behind);
    }

    #[expect(clippy::too_many_arguments, reason = "a row has that many columns")]
    fn push_over(
        &mut self,
        what: &'static str,
        collective: Kind,
        axes: &[MeshAxis],
        ranks: usize,
        calls: u64,
        one: Bytes,
        behind: Behind,
    ) {
        if calls == 0 || ranks < 2 {
            return;
        }
        self.rows.push(Row {
            what,
            collective,
            axes: axes.to_vec(),
            ranks,
            stride: 1,
            calls,
            payload: calls * one.payload,
            ring: calls * one.ring,
            behind,
            seconds: 0.0,
            exposed: 0.0,
        });
    }

    /// Bytes of `tokens` tokens of `width` as they are computed with.
    fn computed(&self, tokens: usize, width: usize) -> usize {
        self.local.batch * tokens * width * self.dtypes.compute.size()
    }

    /// Entries and exits of the branches of a block: three where text is read by cross-attention.
    fn tensor_parallel(&mut self, forward: u64, backward: u64) {
        let local = self.local;
        let attentions = match self.anatomy.text {
            TextPath::Cross => 2,
            TextPath::Joint | TextPath::Nothing => 1,
        };
        let branches = attentions * u64::from(local.heads_cut) + u64::from(local.hidden_cut);
        if branches == 0 {
            return;
        }
        let of = |index| self.computed(part(local.chunk, local.tp, index).len(), local.width);
        let gather = wire::all_gather(of, local.tp_index, local.tp);
        let scatter = wire::reduce_scatter(of, local.tp_index, local.tp);
        let reduce = wire::all_reduce(self.computed(local.chunk, local.width), local.tp);
        let names = self.names;
        let rows: &[(&'static str, Kind, u64, Bytes)] = if local.sequence_parallel {
            &[
                (names.into, Kind::AllGather, forward, gather),
                (names.out_of, Kind::ReduceScatter, forward, scatter),
                (names.back_out_of, Kind::ReduceScatter, backward, scatter),
                (names.back_into, Kind::AllGather, backward, gather),
            ]
        } else {
            &[
                (names.out_of, Kind::AllReduce, forward, reduce),
                (names.back_out_of, Kind::AllReduce, backward, reduce),
            ]
        };
        for &(what, kind, calls, one) in rows {
            self.push(
                what,
                kind,
                &[MeshAxis::Tp],
                calls * branches,
                one,
                Behind::Nothing,
            );
        }
    }

    /// Sums of squares over all heads, one number for each query and key token.
    fn qk_norm(&mut self, forward: u64, backward: u64) {
        let local = self.local;
        if self.anatomy.qk_norm != QkNorm::AcrossHeads || !local.heads_cut {
            return;
        }
        let mut kinds = vec![("query and key norms", 2, local.chunk)];
        if self.anatomy.text == TextPath::Cross {
            kinds.push(("cross-attention query norms", 1, local.chunk));
            kinds.push(("cross-attention key norms", 1, self.anatomy.text_tokens));
        }
        for (what, each, tokens) in kinds {
            let calls = each * (forward + backward);
            // Statistics travel in 32 bits at least.
            let number = self.dtypes.compute.size().max(4);
            let one = wire::all_reduce(local.batch * tokens * number, local.tp);
            self.push(
                what,
                Kind::AllReduce,
                &[MeshAxis::Tp],
                calls,
                one,
                Behind::Nothing,
            );
        }
    }

    /// The gradient of the text, summed once for all blocks.
    fn text_entry(&mut self, backward: u64) {
        let local = self.local;
        if self.anatomy.text == TextPath::Cross && local.heads_cut {
            let one = wire::all_reduce(self.computed(local.text, local.width), local.tp);
            self.push(
                "gradient of the text",
                Kind::AllReduce,
                &[MeshAxis::Tp],
                backward,
                one,
                Behind::Nothing,
            );
        }
    }

    /// Self-attention over the token chunks.
    fn context(&mut self, forward: u64, backward: u64) {
        let local = self.local;
        if local.cp < 2 {
            return;
        }
        let [ulysses, ring] = self.arrangement.degrees();
        if ulysses > 1 {
            self.heads_for_tokens(ulysses, forward, backward);
        }
        if self.arrangement.gathers() {
            self.gathered_keys(forward, backward);
        } else if ring > 1 {
            self.ring(ulysses, ring, forward, backward);
        }
    }

    /// Heads for tokens among neighbours: queries, keys, values and outputs; back, their gradients.
    fn heads_for_tokens(&mut self, ranks: usize, forward: u64, backward: u64) {
        let local = self.local;
        let (group, index) = (local.cp_index / ranks, local.cp_index % ranks);
        // A rank sends its tokens of a peer's heads, and later the peer's tokens of its own heads.
        let out = |width: usize| {
            wire::all_to_all(|_| self.computed(local.chunk, width / ranks), index, ranks)
        };
        let back = |width: usize| {
            let to = |peer| self.computed(local.chunk_of(group * ranks + peer), width / ranks);
            wire::all_to_all(to, index, ranks)
        };
        let all = local.query + KEYS_AND_VALUES * local.key;
        let rows = [
            ("queries, keys and values to their heads", forward, out(all)),
            ("attention to its tokens", forward, back(local.query)),
            (
                "gradients of attention to their heads",
                backward,
                out(local.query),
            ),
            (
                "gradients of queries, keys and values to their tokens",
                backward,
                back(all),
            ),
        ];
        for (what, calls, one) in rows {
            self.push_over(
                what,
                Kind::AllToAll,
                &[MeshAxis::Cp],
                ranks,
                calls,
                one,
                Behind::Nothing,
            );
        }
    }

    /// All keys and values to everybody; back, the same again, and the sum of their gradients.
    fn gathered_keys(&mut self, forward: u64, backward: u64) {
        let local = self.local;
        let width = KEYS_AND_VALUES * local.key;
        let of = |index| self.computed(local.chunk_of(index), width);
        let gather = wire::all_gather(of, local.cp_index, local.cp);
        let scatter = wire::reduce_scatter(of, local.cp_index, local.cp);
        for (what, kind, calls, one) in [
            (
                "keys and values",
                Kind::AllGather,
                forward + backward,
                gather,
            ),
            (
                "gradients of keys and values",
                Kind::ReduceScatter,
                backward,
                scatter,
            ),
        ] {
            self.push(what, kind, &[MeshAxis::Cp], calls, one, Behind::Nothing);
        }
    }

    /// Keys and values from neighbour to neighbour; back, the same, and their gradients once round.
    fn ring(&mut self, ulysses: usize, ring: usize, forward: u64, backward: u64) {
        let local = self.local;
        let at = local.cp_index / ulysses;
        // A rank passes on what came `hop` hops ago: the chunks of a group of those that share heads.
        let tokens = |hop: usize| -> usize {
            let group = (at + ring - hop % ring) % ring;
            (0..ulysses)
                .map(|peer| local.chunk_of(group * ulysses + peer))
                .sum()
        };
        let key = KEYS_AND_VALUES * local.key / ulysses;
        let sum = |hops: usize, width: usize| {
            let bytes = |hop| local.batch * tokens(hop) * key * width;
            let total: usize = (0..hops).map(bytes).sum();
            wire::exchange(total)
        };
        let axes = [MeshAxis::Cp];
        let (there, home) = (ring - 1, ring);
        // What is added up rank by rank is kept in 32 bits at least.
        let compute = self.dtypes.compute.size();
        let reduce = compute.max(size_of::<f32>());
        let rows = [
            (
                "keys and values round the ring",
                forward,
                there,
                compute,
                Behind::AttentionForward,
            ),
            (
                "keys and values round the ring, back",
                backward,
                there,
                compute,
                Behind::AttentionBackward,
            ),
            (
                "gradients of keys and values round the ring",
                backward,
                home,
                reduce,
                Behind::AttentionBackward,
            ),
        ];
        for (what, passes, hops, width, behind) in rows {
            // The hops differ in length, so one pass is summed first and its calls are counted after.
            self.push_over(
                what,
                Kind::Exchange,
                &axes,
                ring,
                passes,
                sum(hops, width),
                behind,
            );
            if let Some(row) = self.rows.last_mut().filter(|row| row.what == what) {
                row.calls *= hops as u64;
                row.stride = ulysses;
            }
        }
    }

    /// The output, whole on every rank: over `tp` within the chunk, then over `cp`.
    fn join(&mut self, forward: u64) {
        let (local, token) = (self.local, self.anatomy.token_out);
        if local.sequence_parallel {
            let of = |index| self.computed(part(local.chunk, local.tp, index).len(), token);
            let one = wire::all_gather(of, local.tp_index, local.tp);
            self.push(
                "output tokens",
                Kind::AllGather,
                &[MeshAxis::Tp],
                forward,
                one,
                Behind::Nothing,
            );
        }
        if local.cp > 1 {
            let of = |index| self.computed(local.chunk_of(index), token);
            let one = wire::all_gather(of, local.cp_index, local.cp);
            self.push(
                "output tokens",
                Kind::AllGather,
                &[MeshAxis::Cp],
                forward,
                one,
                Behind::Nothing,
            );
        }
    }

    /// Both predictions of guidance on every rank.
    fn guidance(&mut self) {
        let local = self.local;
        let mesh = &self.arrangement.mesh;
        let numbers = local.batch * local.tokens * self.anatomy.token_out;
        let bytes = numbers * self.dtypes.master.size();
        let at = mesh.coordinate(local.rank, MeshAxis::Cfg);
        let one = wire::all_gather(|_| bytes, at, mesh.cfg);
        self.push(
            "guidance",
            Kind::AllGather,
            &[MeshAxis::Cfg],
            1,
            one,
            Behind::Nothing,
        );
    }

    /// The latents of a data group's samples, in f32, from its first rank, which reads them. A short
    /// header, with the captions, goes before them and is not counted.
    fn batch(&mut self, job: &Training) {
        let Arrangement { mesh, plan } = self.arrangement;
        let axes = plan.data_group(mesh);
        let samples = job.samples / self.arrangement.span(Axis::Batch);
        let bytes = samples * job.tokens * self.anatomy.token_in * size_of::<f32>();
        let one = wire::broadcast(bytes, mesh.index(self.local.rank, &axes));
        self.push("latents", Kind::Broadcast, &axes, 1, one, Behind::Nothing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::tests::{arrangement, training};
    use crate::cost::{Model, Weight};
    use crate::{ContextAttention, Mesh, Plan};

    fn rows(arrangement: &Arrangement, rank: usize) -> Vec<Row> {
        let anatomy = Anatomy::wan_2_1_14b();
        let job = Job::Training(training(1_001, 8));
        let model = Model::new(&anatomy);
        let passes = Passes {
            forward: 1,
            backward: 1,
        };
        super::rows(
            &job,
            &Placed::new(&model, &job, arrangement, rank),
            passes,
            &[0],
        )
    }

    /// What all ranks send of a gather is what all of them receive: each part to every other rank.
    #[test]
    fn gathers_of_uneven_chunks_send_each_part_to_every_other_rank() {
        let arrangement = arrangement(
            Mesh {
                cp: 3,
                tp: 2,
                ..Mesh::default()
            },
            ContextAttention::Gather,
        );
        for (what, width, each) in [("keys and values", 2560, 4 * 40), ("output tokens", 64, 1)] {
            let of = |rank: usize| -> u64 {
                let rows = rows(&arrangement, rank);
                let cp = |row: &&Row| row.what == what && row.axes == [MeshAxis::Cp];
                rows.iter().filter(cp).map(|row| row.ring).sum()
            };
            let sent: u64 = [0, 2, 4].map(of).iter().sum();
            assert_eq!(sent, (1_001 * width * 2 * 2 * each) as u64, "{what}");
        }
    }

    #[test]
    fn a_ring_of_groups_moves_as_many_bytes_as_its_hops() {
        let mesh = Mesh {
            cp: 8,
            ..Mesh::default()
        };
        let hybrid = arrangement(mesh, ContextAttention::hybrid(4, 2));
        let sent: u64 = (0..8)
            .map(|rank| {
                let rows = rows(&hybrid, rank);
                let row = rows
                    .iter()
                    .find(|row| row.what == "keys and values round the ring");
                let row = row.expect("a hybrid has a ring");
                assert_eq!((row.ranks, row.calls), (2, 40));
                row.ring
            })
            .sum();
        // Each group of four sends the tokens of its chunks, at a quarter of the heads a rank.
        assert_eq!(sent, 1_001 * 5120 * 2 * 2 * 40);
    }

    #[test]
    fn one_rank_sends_nothing() {
        let alone = Arrangement {
            mesh: Mesh::default(),
            plan: Plan::default(),
        };
        assert_eq!(rows(&alone, 0).len(), 0);
    }

    #[test]
    fn weights_that_a_step_sums_are_all_the_weights_of_a_rank() {
        let mesh = Mesh {
            replicate: 2,
            cp: 2,
            tp: 2,
            ..Mesh::default()
        };
        let anatomy = Anatomy::wan_2_1_14b();
        let rows = rows(&arrangement(mesh, ContextAttention::RING), 0);
        let sums = rows.iter().filter(|row| row.what == "gradients");
        let summed: u64 = sums.map(|row| row.payload).sum();
        let cut: usize = anatomy
            .block()
            .iter()
            .filter(|w| {
                w.dims
                    .iter()
                    .any(|d| matches!(d.axis, Axis::Heads | Axis::Hidden))
            })
            .map(Weight::elements)
            .sum();
        let rank = anatomy.elements() - anatomy.layers * cut / 2;
        assert_eq!(summed, 4 * rank as u64);
    }
}
