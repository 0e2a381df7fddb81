//! The operations and the memory traffic of one rank, and how long they take.

use super::arrangement::Local;
use super::model::Placed;
use super::{Anatomy, FeedForward, Habits, Hardware, Job, Outside, QkNorm, TextPath};
use serde::Serialize;

/// Work of one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Operations of matrix products.
    pub matmul: f64,
    /// Operations of attention.
    pub attention: f64,
    /// Bytes that elementwise kernels read and write.
    pub elementwise: f64,
}

impl Work {
    fn times(self, matmul: f64, attention: f64, elementwise: f64) -> Self {
        Self {
            matmul: self.matmul * matmul,
            attention: self.attention * attention,
            elementwise: self.elementwise * elementwise,
        }
    }

    /// Operations.
    pub fn flops(&self) -> f64 {
        self.matmul + self.attention
    }
}

// The backward pass of a matrix product is two of them; that of attention five products where the
// forward pass has two, because the scores are computed again.
const MATMUL_BACKWARD: f64 = 2.0;
const ATTENTION_BACKWARD: f64 = 2.5;
const ELEMENTWISE_BACKWARD: f64 = 2.0;

/// Seconds of one rank's computation in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Matrix products.
    pub matmul: f64,
    /// Attention.
    pub attention: f64,
    /// Elementwise kernels.
    pub elementwise: f64,
    /// The optimizer.
    pub optimizer: f64,
}

impl Seconds {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.matmul + self.attention + self.elementwise + self.optimizer
    }

    fn plus(self, other: Self) -> Self {
        Self {
            matmul: self.matmul + other.matmul,
            attention: self.attention + other.attention,
            elementwise: self.elementwise + other.elementwise,
            optimizer: self.optimizer + other.optimizer,
        }
    }

    fn scaled(self, factor: f64) -> Self {
        Self {
            matmul: self.matmul * factor,
            attention: self.attention * factor,
            elementwise: self.elementwise * factor,
            optimizer: self.optimizer * factor,
        }
    }
}

/// A step's computation, with the parts that messages may hide behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub seconds: Seconds,
    /// Operations that the device really does.
    pub flops: f64,
    pub forward: f64,
    pub backward: f64,
    pub attention_forward: f64,
    pub attention_backward: f64,
}

/// The computation of a step of `forward` and `backward` passes, the latter with `again` blocks of each
/// stack recomputed.
pub(super) fn step(
    job: &Job,
    hardware: &Hardware,
    placed: &Placed<'_>,
    [forward, backward]: [f64; 2],
    again: &[usize],
) -> Step {
    let (habits, compute) = (job.habits(), job.dtypes().compute);
    let rate = 1e12
        * match compute {
            super::Dtype::Bf16 => hardware.bf16_tflops,
            super::Dtype::F32 | super::Dtype::F64 => hardware.f32_tflops,
        };
    let e = &hardware.efficiency;
    let [fore, back] = if habits.ampere_attention {
        [e.ampere_attention, e.ampere_attention_backward]
    } else {
        [e.attention, e.attention_backward]
    };
    let take = |work: Work, attention: f64| Seconds {
        matmul: work.matmul / (rate * e.matmul),
        attention: work.attention / (rate * attention),
        elementwise: work.elementwise / (hardware.memory_gbs * 1e9 * e.elementwise),
        optimizer: 0.0,
    };
    // Forward, again, and back: the times of one stack, and its operations.
    let pass = |work: Work, layers: f64, again: f64| {
        let gradient = work.times(MATMUL_BACKWARD, ATTENTION_BACKWARD, ELEMENTWISE_BACKWARD);
        let flops = work.flops() * (layers * forward + again * backward)
            + gradient.flops() * layers * backward;
        let times = [
            take(work, fore).scaled(layers * forward),
            take(work, fore).scaled(again * backward),
            take(gradient, back).scaled(layers * backward),
        ];
        (times, flops)
    };
    let mut seconds = Seconds::default();
    let mut flops = 0.0;
    let mut add = |(times, more): ([Seconds; 3], f64)| {
        flops += more;
        seconds = times.iter().fold(seconds, |sum, &time| sum.plus(time));
        times
    };
    let stacks = placed.model.stacks.iter().zip(&placed.locals).zip(again);
    let mut of_blocks = stacks.map(|((stack, local), &again)| {
        let work = block(stack.anatomy, local, habits, compute.size());
        add(pass(work, stack.anatomy.layers as f64, again as f64))
    });
    let [there, again, back] = of_blocks.next().expect("a model has a transformer");
    // The encoder's count too, but nothing is hidden behind them.
    of_blocks.for_each(drop);
    let outside = outside(placed.model.stacks[0].anatomy, &placed.locals[0]);
    add(pass(outside, 1.0, 0.0));
    Step {
        seconds,
        flops,
        forward: there.total(),
        backward: again.plus(back).total(),
        attention_forward: there.attention + again.attention,
        attention_backward: back.attention,
    }
}

/// One block, forward.
fn block(anatomy: &Anatomy, local: &Local, habits: Habits, width: usize) -> Work {
    let b = local.batch as f64;
    let [d, query, key, hidden] =
        [local.width, local.query, local.key, local.hidden].map(|n| n as f64);
    let [chunk, tokens, text] = [local.chunk, local.tokens, local.text].map(|n| n as f64);
    let cross = anatomy.text == TextPath::Cross;
    let mut matmul = chunk * d * (2.0 * query + 2.0 * key);
    // A rank attends from its tokens with its heads, or from all tokens with a share of them.
    let mut attention = chunk * tokens * query;
    if cross {
        matmul += chunk * d * 2.0 * query + text * d * 2.0 * key;
        attention += chunk * text * query;
    }
    matmul += chunk * d * hidden * anatomy.feed_forward.matrices() as f64;
    let passes = if habits.eager {
        eager(anatomy, habits)
    } else {
        fused(anatomy, habits)
    };
    let elements = passes.width * local.own as f64 * d
        + passes.heads * chunk * query
        + passes.hidden * chunk * hidden;
    Work {
        matmul: 2.0 * b * matmul,
        attention: 4.0 * b * attention,
        elementwise: b * elements * width as f64,
    }
}

/// What is outside the blocks, forward: patches in, patches out, and the text's projection.
fn outside(anatomy: &Anatomy, local: &Local) -> Work {
    let text: usize = anatomy
        .outside
        .iter()
        .filter(|o| o.text)
        .map(Outside::elements)
        .sum();
    let token = anatomy.width * (anatomy.token_in + anatomy.token_out);
    let matmul = (local.own * token + text * local.text) as f64;
    Work {
        matmul: 2.0 * local.batch as f64 * matmul,
        ..Work::default()
    }
}

/// Reads and writes of one block, in numbers of the compute type: an f32 counts as two of bf16.
struct Traffic {
    /// Of values as wide as the model, a token.
    width: f64,
    /// Of values as wide as this rank's heads.
    heads: f64,
    /// Of values as wide as its hidden units.
    hidden: f64,
}

/// Kinora's fused kernels: norm with modulation (read, write) and gate with sum (two reads, one
/// write), three branches of each; norms and rotations of queries and keys in one kernel.
fn fused(anatomy: &Anatomy, habits: Habits) -> Traffic {
    let residual = if habits.residual_f32 { 2.0 } else { 1.0 };
    let branches = if anatomy.text == TextPath::Cross {
        3.0
    } else {
        2.0
    };
    let rotated = 4.0;
    let cross = match anatomy.qk_norm {
        QkNorm::None => 0.0,
        QkNorm::PerHead | QkNorm::AcrossHeads => 2.0,
    };
    Traffic {
        width: branches * ((residual + 1.0) + (2.0 * residual + 1.0)),
        heads: rotated + cross + if habits.rope_f64 { 2.0 * ROPE_F64 } else { 0.0 },
        hidden: activation(anatomy),
    }
}

// To f64 (2 + 4), the product with the phases (4 + 4), joined with the padding (4 + 4), stacked over
// the batch (4 + 4), to f32 (4 + 2), in bf16's.
const ROPE_F64: f64 = 36.0;
// The same in f32: the product and the copies, 2 + 2 each.
const ROPE_F32: f64 = 12.0;
// A norm over heads in f32: cast, square, mean, product, cast, weight.
const NORM_EAGER: f64 = 17.0;

/// One operation at a time, by autocast's types: norms and modulation in f32, casts before products.
fn eager(anatomy: &Anatomy, habits: Habits) -> Traffic {
    let f = if habits.residual_f32 { 2.0 } else { 1.0 };
    // A norm, its scale and its shift, each a read and a write; casts of the input of each product;
    // a gate and a sum.
    let modulated = 3.0 * 2.0 * f;
    let cast = |products: f64| products * (f + 1.0) * (f - 1.0);
    let gated = (1.0 + f) + 3.0 * f;
    let own = modulated + cast(3.0) + gated;
    let cross = 2.0 * f + cast(1.0) + (2.0 * f + 1.0);
    let mlp = modulated + cast(1.0) + gated;
    let norm = match anatomy.qk_norm {
        QkNorm::None => 0.0,
        QkNorm::PerHead | QkNorm::AcrossHeads => NORM_EAGER,
    };
    let rope = if habits.rope_f64 { ROPE_F64 } else { ROPE_F32 };
    // Queries and keys are cast before the attention kernel if they are in f32.
    let half = if habits.qk_f32 { 3.0 } else { 0.0 };
    let joined = anatomy.text == TextPath::Cross;
    Traffic {
        width: own + mlp + if joined { cross } else { 0.0 },
        heads: 2.0 * (norm + rope + half) + if joined { norm + half } else { 0.0 },
        hidden: activation(anatomy),
    }
}

fn activation(anatomy: &Anatomy) -> f64 {
    match anatomy.feed_forward {
        FeedForward::Swiglu => 3.0,
        FeedForward::Gelu => 2.0,
    }
}
