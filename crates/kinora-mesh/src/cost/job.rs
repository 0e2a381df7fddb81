//! What is to be done: a training step or a generated sample, and by which habits.

use super::decoder::Decoder;
use serde::{Deserialize, Serialize};

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 16 bits, the exponent of f32.
    Bf16,
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn size(self) -> usize {
        match self {
            Dtype::Bf16 => 2,
            Dtype::F32 => 4,
            Dtype::F64 => 8,
        }
    }
}

/// Number types of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dtypes {
    /// Weights as they are stored, and their optimizer state, gradients and average.
    pub master: Dtype,
    /// Activations, and weights as they are multiplied.
    pub compute: Dtype,
    /// Weights on their way to the ranks that use them.
    pub gather: Dtype,
    /// Gradients while they are summed.
    pub reduce: Dtype,
}

impl Default for Dtypes {
    fn default() -> Self {
        Self {
            master: Dtype::F32,
            compute: Dtype::Bf16,
            gather: Dtype::Bf16,
            reduce: Dtype::F32,
        }
    }
}

/// Blocks whose activations are computed again in the backward pass. Those whose stored weights are cut
/// always are, unless [`Habits::cut_kept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// All of them: only each block's input is kept.
    All,
    /// None of them.
    None,
    /// The first so many, of the transformer and of its encoder.
    Blocks(usize),
    /// As few as fit in the device's memory; all, if even those do not fit.
    Least,
}

/// A training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Samples of one step over all ranks; the number of micro-batches follows.
    pub samples: usize,
    /// Samples of one micro-batch of one data group.
    pub batch: usize,
    /// Video tokens of a sample.
    pub tokens: usize,
    /// What is recomputed.
    pub recompute: Recompute,
    /// Number types.
    #[serde(default)]
    pub dtypes: Dtypes,
    /// Whether an average of the weights is kept.
    #[serde(default)]
    pub ema: bool,
    /// Habits of the code that runs it.
    #[serde(default)]
    pub habits: Habits,
}

/// How guidance gets its two predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guidance {
    /// One prediction only.
    None,
    /// One pass after the other.
    TwoPasses,
    /// One pass of twice the batch.
    Batched,
    /// One pass on each half of the mesh's `cfg` axis.
    CfgAxis,
}

/// Where a part of the model is while others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residence {
    /// On the device throughout.
    Resident,
    /// On the host when not in use.
    Offloaded,
    /// On the device, cut over the ranks that cut the transformer's parameters.
    Sharded,
}

/// Text encoders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoder {
    /// Parameters in all.
    pub elements: usize,
    /// Parameters outside its layers: the table of tokens.
    pub outside: usize,
    /// As what they are stored.
    pub dtype: Dtype,
    /// Where they are.
    pub residence: Residence,
}

impl TextEncoder {
    /// umT5-XXL's encoder: width 4,096, attention 4,096, gated feed-forward of 10,240, 24 layers with
    /// a table of 32 x 64 positions each, 256,384 tokens.
    pub fn umt5_xxl(residence: Residence) -> Self {
        let (d, ffn, layers, vocabulary) = (4096, 10240, 24, 256_384);
        let layer = 4 * d * d + 3 * d * ffn + 2 * d + 32 * 64;
        let outside = vocabulary * d + d;
        Self {
            elements: layers * layer + outside,
            outside,
            dtype: Dtype::Bf16,
            residence,
        }
    }
}

/// The autoencoder's part in generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// The decoder.
    pub decoder: Decoder,
    /// Latent frames, height and width.
    pub latent: [usize; 3],
    /// Bytes of other models that stay on the device: an image encoder.
    pub other: usize,
}

/// The generation of a batch of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Samples at once.
    pub batch: usize,
    /// Video tokens of a sample.
    pub tokens: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// How guidance is computed.
    pub guidance: Guidance,
    /// Where the transformer is before and after the steps.
    pub transformer: Residence,
    /// The text encoders, if they run on the device.
    pub text_encoder: Option<TextEncoder>,
    /// The autoencoder, if it runs on the device. Its weights are resident throughout.
    pub decode: Option<Decode>,
    /// Number types; `master` is what stays on the device.
    #[serde(default)]
    pub dtypes: Dtypes,
    /// Habits of the code that runs it.
    #[serde(default)]
    pub habits: Habits,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// A training step.
    Training(Training),
    /// A generated batch.
    Generation(Generation),
}

impl Job {
    /// Video tokens of a sample.
    pub fn tokens(&self) -> usize {
        match self {
            Job::Training(job) => job.tokens,
            Job::Generation(job) => job.tokens,
        }
    }

    /// Samples of one pass on one rank.
    pub fn batch(&self) -> usize {
        match self {
            Job::Training(job) => job.batch,
            Job::Generation(job) => match job.guidance {
                Guidance::Batched => 2 * job.batch,
                _ => job.batch,
            },
        }
    }

    /// Number types.
    pub fn dtypes(&self) -> Dtypes {
        match self {
            Job::Training(job) => job.dtypes,
            Job::Generation(job) => job.dtypes,
        }
    }

    /// Habits.
    pub fn habits(&self) -> Habits {
        match self {
            Job::Training(job) => job.habits,
            Job::Generation(job) => job.habits,
        }
    }
}

/// What code may do differently from Kinora, each with a cost that the model counts; all false is
/// Kinora. They exist so that figures of other programs can be accounted for, one cause at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Habits {
    /// The residual stream and the modulation are in f32.
    pub residual_f32: bool,
    /// Queries and keys leave their norm in f32.
    pub qk_f32: bool,
    /// Rotary positions are applied to f64 copies of queries and keys, one operation at a time.
    pub rope_f64: bool,
    /// Every elementwise operation reads and writes memory by itself.
    pub eager: bool,
    /// The parameters outside the blocks stay gathered after their first use.
    pub outer_kept: bool,
    /// Attention by a kernel of Ampere's instructions (FlashAttention-2), whatever the device.
    pub ampere_attention: bool,
    /// The autoencoder's convolutions copy their operands to another order of dimensions.
    pub conv_copies: bool,
    /// No message hides behind computation.
    pub no_overlap: bool,
    /// Blocks whose stored weights are cut keep their activations.
    pub cut_kept: bool,
}

impl Habits {
    /// The habits of Wan 2.1's published generation code.
    pub fn wan() -> Self {
        Self {
            residual_f32: true,
            qk_f32: true,
            rope_f64: true,
            eager: true,
            outer_kept: true,
            ampere_attention: true,
            conv_copies: true,
            no_overlap: false,
            cut_kept: true,
        }
    }
}
