//! Bytes of one rank, by kind, at each moment that could be the fullest.

use super::arrangement::Local;
use super::model::{Model, Placed};
use super::{
    Anatomy, Arrangement, FeedForward, Generation, QkNorm, Residence, TextPath, Training, Weight,
};
use serde::Serialize;
use std::fmt;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// Weights as they are stored.
    Weights,
    /// Their gradients.
    Gradients,
    /// AdamW's two moments, in the type of the weights.
    Optimizer,
    /// Their average.
    Average,
    /// Activations.
    Activations,
    /// Weights and gradients on their way.
    Buffers,
    /// The autoencoder: its weights, and what it computes with.
    Autoencoder,
    /// Text encoders and other models.
    Encoders,
}

impl Use {
    /// All uses, in the order of tables.
    pub const ALL: [Use; 8] = [
        Use::Weights,
        Use::Gradients,
        Use::Optimizer,
        Use::Average,
        Use::Activations,
        Use::Buffers,
        Use::Autoencoder,
        Use::Encoders,
    ];
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Use::Weights => "weights",
            Use::Gradients => "gradients",
            Use::Optimizer => "optimizer",
            Use::Average => "average",
            Use::Activations => "activations",
            Use::Buffers => "buffers",
            Use::Autoencoder => "autoencoder",
            Use::Encoders => "text encoders",
        })
    }
}

/// A moment of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Bytes by use; a use that is not listed holds none.
    pub bytes: Vec<(Use, usize)>,
}

impl Phase {
    /// All bytes.
    pub fn total(&self) -> usize {
        self.bytes.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The bytes of one use.
    pub fn of(&self, which: Use) -> usize {
        self.bytes
            .iter()
            .filter(|(u, _)| *u == which)
            .map(|(_, bytes)| bytes)
            .sum()
    }
}

/// The memory of one rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// The moments, in order.
    pub phases: Vec<Phase>,
}

impl Memory {
    /// The fullest moment.
    pub fn peak(&self) -> &Phase {
        let fullest = self.phases.iter().max_by_key(|phase| phase.total());
        fullest.expect("a job has a moment")
    }
}

/// Elements of this rank's weights; of blocks, the transformer's.
struct Elements {
    stored: usize,
    used: usize,
    block: usize,
    outer: usize,
    largest_outer: usize,
    largest_block: usize,
}

impl Elements {
    fn new(model: &Model<'_>, local: &Local) -> Self {
        let stored = |w: &Weight| local.stored(w, local.shard);
        let used = |w: &Weight| local.used(w);
        let sum = |weights: &[Weight], of: &dyn Fn(&Weight) -> usize| -> usize {
            weights.iter().map(of).sum()
        };
        let largest = |weights: &[Weight]| weights.iter().map(used).max().unwrap_or(0);
        let all = |of: &dyn Fn(&Weight) -> usize| -> usize {
            let stacks = model.stacks.iter();
            let blocks = stacks.map(|stack| stack.anatomy.layers * sum(&stack.block, of));
            blocks.sum::<usize>() + sum(&model.outer, of)
        };
        let block = &model.stacks[0].block;
        Self {
            stored: all(&stored),
            used: all(&used),
            block: sum(block, &used),
            outer: sum(&model.outer, &used),
            largest_outer: largest(&model.outer),
            largest_block: largest(block),
        }
    }
}

/// Memory of a training step with so many blocks of each stack recomputed.
pub(super) fn training(job: &Training, placed: &Placed<'_>, again: &[usize]) -> Memory {
    let (local, arrangement) = (&placed.locals[0], placed.arrangement);
    let n = Elements::new(placed.model, local);
    let [master, compute, gather, reduce] = [
        job.dtypes.master,
        job.dtypes.compute,
        job.dtypes.gather,
        job.dtypes.reduce,
    ]
    .map(|t| t.size());
    // The block at hand and the next one; outside the blocks, one parameter at a time. The gradient
    // of a block is whole until its sum is scattered.
    let buffers = if local.shards > 1 {
        (2 * n.block + n.largest_outer) * gather + n.block * reduce
    } else if master > compute {
        n.block * compute
    } else {
        0
    };
    // What is still partial after the step is copied into one flat buffer for its sum.
    let flat =
        if arrangement.span(crate::Axis::Batch) * local.cp * local.tp > 1 && local.shards == 1 {
            n.used * reduce
        } else {
            0
        };
    let stacks = placed.model.stacks.iter().zip(&placed.locals).zip(again);
    let kept = stacks.map(|((stack, local), &again)| {
        let one = saved(stack.anatomy, local, arrangement, compute);
        let input = local.batch * local.own * local.width * compute;
        (stack.anatomy.layers - again) * one + again * input
    });
    let kept: usize = kept.sum();
    let anatomy = placed.model.stacks[0].anatomy;
    let activations = kept
        + usize::from(again[0] > 0) * saved(anatomy, local, arrangement, compute)
        + gradients_at_hand(anatomy, local, arrangement, compute, reduce);
    let average = if job.ema { n.stored * master } else { 0 };
    Memory {
        phases: vec![Phase {
            name: "step",
            bytes: vec![
                (Use::Weights, n.stored * master),
                (Use::Gradients, n.stored * reduce),
                (Use::Optimizer, 2 * n.stored * master),
                (Use::Average, average),
                (Use::Activations, activations),
                (Use::Buffers, buffers.max(flat)),
            ],
        }],
    }
}

/// Bytes that the backward pass of one block needs from its forward pass: what fused operations
/// read again. A value that ranks gather is kept as it was gathered.
fn saved(anatomy: &Anatomy, local: &Local, arrangement: &Arrangement, compute: usize) -> usize {
    let cross = anatomy.text == TextPath::Cross;
    let normed = anatomy.qk_norm != QkNorm::None;
    // The input of each norm and of each gate; the input of each branch's products.
    let own = if cross { 3 + 2 } else { 2 + 2 } * local.own * local.width;
    let branches = if cross { 3 } else { 2 } * local.chunk * local.width;
    // Self-attention: queries, keys, values, outputs, and what the norms read.
    let mut heads = local.chunk * (2 * local.query + 2 * local.key);
    if normed {
        heads += local.chunk * (local.query + local.key);
    }
    // Where heads are exchanged for tokens both orders of the outputs are kept.
    if local.cp > 1 && arrangement.degrees()[0] > 1 {
        heads += local.chunk * local.query;
    }
    if cross {
        heads += local.chunk * 2 * local.query + local.text * 2 * local.key;
        if normed {
            heads += local.chunk * local.query + local.text * local.key;
        }
    }
    // The gate and what it multiplies are kept, their product is computed again.
    let hidden = match anatomy.feed_forward {
        FeedForward::Swiglu => 3,
        FeedForward::Gelu => 2,
    } * local.chunk
        * local.hidden;
    // One logarithm of a sum, in f32, for each token and head.
    let heads_of = local.query / anatomy.head_dim;
    let sums = if cross { 2 } else { 1 } * local.chunk * heads_of * size_of::<f32>();
    local.batch * ((own + branches + heads + hidden) * compute + sums)
}

/// Bytes of gradients of activations at the fullest moment of a block's backward pass.
fn gradients_at_hand(
    anatomy: &Anatomy,
    local: &Local,
    arrangement: &Arrangement,
    compute: usize,
    reduce: usize,
) -> usize {
    let stream = local.own * local.width + local.chunk * local.width;
    let hidden = anatomy.feed_forward.matrices() * local.chunk * local.hidden * compute;
    let keys = attended(local, arrangement);
    let attention =
        local.chunk * (2 * local.query + 2 * local.key) * compute + 2 * keys * (compute + reduce);
    local.batch * (stream * compute + hidden.max(attention))
}

/// Numbers of keys beside a rank's own that attention holds at once.
fn attended(local: &Local, arrangement: &Arrangement) -> usize {
    if local.cp < 2 {
        return 0;
    }
    match arrangement.degrees() {
        _ if arrangement.gathers() => local.tokens * local.key,
        [_, 1] => local.chunk * local.key,
        // The chunk that is read and the chunk that arrives.
        _ => 2 * local.chunk * local.key,
    }
}

/// Memory of generation: while the text is read, during the steps, and while the latent is decoded.
pub(super) fn generation(job: &Generation, placed: &Placed<'_>) -> Memory {
    let (local, arrangement) = (&placed.locals[0], placed.arrangement);
    let anatomy = placed.model.stacks[0].anatomy;
    let n = Elements::new(placed.model, local);
    let [master, compute, gather] =
        [job.dtypes.master, job.dtypes.compute, job.dtypes.gather].map(|t| t.size());
    let weights = n.stored * master;
    let kept = if job.habits.outer_kept && local.shards > 1 {
        n.outer * gather
    } else {
        0
    };
    let buffers = if local.shards > 1 {
        2 * n.block * gather + kept.max(n.largest_outer * gather)
    } else if master > compute {
        n.largest_block * compute
    } else {
        0
    };
    let encoder = |running: bool| {
        job.text_encoder.as_ref().map_or(0, |text| {
            let size = text.dtype.size();
            match text.residence {
                Residence::Resident => text.elements * size,
                Residence::Offloaded if running => text.elements * size,
                Residence::Offloaded => 0,
                Residence::Sharded => {
                    let kept = job.habits.outer_kept && local.shards > 1;
                    text.elements.div_ceil(local.shards) * size
                        + usize::from(kept) * text.outside * size
                }
            }
        })
    };
    let other = job.decode.as_ref().map_or(0, |decode| decode.other);
    let autoencoder = job
        .decode
        .as_ref()
        .map_or(0, |decode| decode.decoder.weights());
    let resident = if job.transformer == Residence::Offloaded {
        0
    } else {
        weights
    };
    // The latent, the predictions and the sampler's state, in f32.
    let states = 4 * job.batch * job.tokens * anatomy.token_out * size_of::<f32>();
    let mut phases = vec![
        Phase {
            name: "text",
            bytes: vec![
                (Use::Weights, resident),
                (Use::Autoencoder, autoencoder),
                (Use::Encoders, encoder(true) + other),
            ],
        },
        Phase {
            name: "steps",
            bytes: vec![
                (Use::Weights, weights),
                (
                    Use::Activations,
                    forward_only(anatomy, job, arrangement, local) + states,
                ),
                (Use::Buffers, buffers),
                (Use::Autoencoder, autoencoder),
                (Use::Encoders, encoder(false) + other),
            ],
        },
    ];
    if let Some(decode) = &job.decode {
        let peak = decode.decoder.peak(decode.latent, job.habits.conv_copies);
        phases.push(Phase {
            name: "decode",
            bytes: vec![
                (Use::Weights, resident),
                (Use::Activations, states),
                (Use::Buffers, kept),
                (Use::Autoencoder, autoencoder + peak),
                (Use::Encoders, encoder(false) + other),
            ],
        });
    }
    Memory { phases }
}

/// Bytes of activations at the fullest moment of a block without gradients.
fn forward_only(
    anatomy: &Anatomy,
    job: &Generation,
    arrangement: &Arrangement,
    local: &Local,
) -> usize {
    let (compute, habits) = (job.dtypes.compute.size(), job.habits);
    let wide = size_of::<f32>();
    let stream = if habits.residual_f32 { wide } else { compute };
    let residual = local.own * local.width * stream;
    let branch = local.chunk
        * local.width
        * if local.sequence_parallel {
            compute
        } else {
            stream
        };
    let normed = if habits.qk_f32 { wide } else { compute };
    let [query, key] = [local.query, local.key].map(|width| local.chunk * width);
    // The keys' positions: queries are done. In f64, what was joined, what is stacked, and the f32 result.
    let rotated = if habits.rope_f64 {
        query * wide + key * (2 * size_of::<f64>() + wide)
    } else {
        (query + key) * normed
    };
    let positions = residual + branch + (query + key) * normed + key * compute + rotated;
    let swapped = match arrangement.degrees() {
        [ulysses, _] if local.cp > 1 && ulysses > 1 => query + 2 * key,
        _ => 0,
    };
    let keys = 2 * attended(local, arrangement);
    let attention = residual + (2 * query + 2 * key + swapped + keys) * compute;
    let hidden = match anatomy.feed_forward {
        FeedForward::Swiglu => 3,
        FeedForward::Gelu => 2,
    };
    let mlp = residual + branch + local.chunk * local.hidden * hidden * compute;
    local.batch * positions.max(attention).max(mlp)
}
