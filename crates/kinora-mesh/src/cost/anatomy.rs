//! What a transformer is made of: enough to count its weights, its operations and its messages.

use crate::{Axis, Extent};
use serde::{Deserialize, Serialize};

/// The feed-forward network of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// `down(silu(gate(x)) * up(x))`: three matrices.
    Swiglu,
    /// `down(gelu(up(x)))`: two matrices.
    Gelu,
}

impl FeedForward {
    /// How many matrices of `width x hidden` it holds.
    pub fn matrices(self) -> usize {
        match self {
            FeedForward::Swiglu => 3,
            FeedForward::Gelu => 2,
        }
    }
}

/// How video tokens read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextPath {
    /// A second attention of each block.
    Cross,
    /// Text tokens join the sequence of the one attention, through the same weights.
    Joint,
    /// None is read: a text encoder itself.
    Nothing,
}

/// How queries and keys are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself, which needs no messages where heads are cut.
    PerHead,
    /// Over all heads together: where heads are cut, a sum of squares a token crosses the ranks.
    AcrossHeads,
}

/// Normalisation at the entry of a block's branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norms {
    /// A norm for each branch, with a learned weight.
    Weighted,
    /// A norm for each branch, with a learned weight and a bias.
    Affine,
    /// Only the norm before cross-attention learns, a weight and a bias.
    OneAffine,
}

/// Parameters outside the blocks, by name; they are whole on every rank of a tensor-parallel group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// What they are.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// Whether text flows through them, rather than video tokens.
    #[serde(default)]
    pub text: bool,
}

impl Outside {
    /// All elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A transformer, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anatomy {
    /// Its name, for tables.
    pub name: String,
    /// Blocks.
    pub layers: usize,
    /// Model width.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Its kind.
    pub feed_forward: FeedForward,
    /// How text is read.
    pub text: TextPath,
    /// Tokens of text, padding included.
    pub text_tokens: usize,
    /// Tokens of a conditioning image with keys and values of its own in each cross-attention; 0 for none.
    pub image_tokens: usize,
    /// How queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// Norms of the branches.
    pub norms: Norms,
    /// Rows of width `width` in each block's modulation table.
    pub modulation: usize,
    /// Whether the linears of the blocks have biases.
    pub bias: bool,
    /// Numbers that enter with a token: input channels times the patch.
    pub token_in: usize,
    /// Numbers that leave with a token: output channels times the patch.
    pub token_out: usize,
    /// Parameters outside the blocks.
    pub outside: Vec<Outside>,
    /// A text encoder that is trained along and reads `text_tokens` tokens; all that it does runs along
    /// the text, which no rank cuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Box<Anatomy>>,
}

/// How the operations of attention are counted towards the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// All of them: every token attends to every other.
    Full,
    /// Half of them, as for language models, whose tokens attend backwards only.
    Causal,
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its path within a block, or its name outside.
    pub name: String,
    /// What its dimensions mean, and how long they are.
    pub dims: Vec<Extent>,
    /// Whether it belongs to layers that run along the text, so that every rank sees all of it.
    pub text: bool,
}

impl Weight {
    /// All elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|dim| dim.len).product()
    }

    /// The whole shape.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().map(|dim| dim.len).collect()
    }
}

impl Anatomy {
    /// The parameter tensors of one block.
    pub fn block(&self) -> Vec<Weight> {
        let hd = self.head_dim;
        let width = Axis::Embed.of(self.width);
        let hidden = Axis::Hidden.of(self.ffn);
        let of = |heads: usize| Axis::Heads.of(heads * hd).by(hd);
        let mut out = vec![];
        let mut add = |name: String, dims: &[Extent]| {
            out.push(Weight {
                name,
                dims: dims.to_vec(),
                text: false,
            });
        };
        if self.modulation > 0 {
            let rows = Axis::Channel.of(self.modulation);
            add("modulation.table".into(), &[rows, width]);
        }
        let every: &[&str] = match self.text {
            TextPath::Cross => &["norm1", "norm2", "norm3"],
            TextPath::Joint | TextPath::Nothing => &["norm1", "norm2"],
        };
        let (norms, parts): (&[&str], &[&str]) = match self.norms {
            Norms::Weighted => (every, &["weight"]),
            Norms::Affine => (every, &["weight", "bias"]),
            Norms::OneAffine => (&["norm3"], &["weight", "bias"]),
        };
        for norm in norms {
            for part in parts {
                add(format!("{norm}.{part}"), &[width]);
            }
        }
        let branches: &[&str] = match self.text {
            TextPath::Cross => &["attn", "cross"],
            TextPath::Joint | TextPath::Nothing => &["attn"],
        };
        for &branch in branches {
            let mut into = vec![
                ("query", self.heads),
                ("key", self.kv_heads),
                ("value", self.kv_heads),
            ];
            if branch == "cross" && self.image_tokens > 0 {
                into.extend([("image_key", self.kv_heads), ("image_value", self.kv_heads)]);
            }
            for &(name, heads) in &into {
                let heads = of(heads);
                add(format!("{branch}.{name}.weight"), &[width, heads]);
                if self.bias {
                    add(format!("{branch}.{name}.bias"), &[heads]);
                }
                if !name.ends_with("value") {
                    let norm = format!("{branch}.{name}_norm.weight");
                    match self.qk_norm {
                        QkNorm::None => {}
                        QkNorm::PerHead => add(norm, &[Axis::Channel.of(hd)]),
                        QkNorm::AcrossHeads => add(norm, &[heads]),
                    }
                }
            }
            add(format!("{branch}.out.weight"), &[of(self.heads), width]);
            if self.bias {
                add(format!("{branch}.out.bias"), &[width]);
            }
        }
        let up: &[&str] = match self.feed_forward {
            FeedForward::Swiglu => &["mlp.gate", "mlp.up"],
            FeedForward::Gelu => &["mlp.up"],
        };
        for name in up {
            add(format!("{name}.weight"), &[width, hidden]);
            if self.bias {
                add(format!("{name}.bias"), &[hidden]);
            }
        }
        add("mlp.down.weight".into(), &[hidden, width]);
        if self.bias {
            add("mlp.down.bias".into(), &[width]);
        }
        out
    }

    /// The parameter tensors outside the blocks, without those of the encoder.
    pub fn outer(&self) -> Vec<Weight> {
        let weight = |outside: &Outside| Weight {
            name: outside.name.clone(),
            // No plan cuts them by what they mean.
            dims: outside.shape.iter().map(|&n| Axis::Channel.of(n)).collect(),
            text: outside.text,
        };
        self.outside.iter().map(weight).collect()
    }

    /// Parameters of one block.
    pub fn block_elements(&self) -> usize {
        self.block().iter().map(Weight::elements).sum()
    }

    /// Parameters outside the blocks.
    pub fn outer_elements(&self) -> usize {
        self.outside.iter().map(Outside::elements).sum()
    }

    /// All parameters, the encoder's included.
    pub fn elements(&self) -> usize {
        let encoder = self
            .encoder
            .as_ref()
            .map_or(0, |encoder| encoder.elements());
        self.layers * self.block_elements() + self.outer_elements() + encoder
    }

    /// The length of the sequence that self-attention sees, for `tokens` of video.
    pub fn sequence(&self, tokens: usize) -> usize {
        match self.text {
            TextPath::Cross | TextPath::Nothing => tokens,
            TextPath::Joint => tokens + self.text_tokens,
        }
    }

    /// Operations of one forward pass over one sample by the standard convention: 2 for each
    /// parameter of the blocks and token, and `4 S^2 H K` for each self-attention, or half of that.
    /// Cross-attention, the encoder and what is outside the blocks are not counted; a training step
    /// counts three times as much, whatever is recomputed.
    pub fn model_flops(&self, tokens: usize, convention: Convention) -> f64 {
        let (s, n) = (self.sequence(tokens) as f64, self.block_elements() as f64);
        let each = match convention {
            Convention::Full => 4.0,
            Convention::Causal => 2.0,
        };
        let attention = each * s * s * (self.heads * self.head_dim) as f64;
        self.layers as f64 * (2.0 * n * s + attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Movie Gen's are the paper's sizes, matrices only; Wan's are those of the published checkpoints.
    #[test]
    fn parameter_totals_are_the_real_ones() {
        for (anatomy, matrices, total) in [
            (Anatomy::movie_gen_30b(), Some(28.99e9), None),
            (Anatomy::movie_gen_5b(), Some(4.83e9), None),
            (Anatomy::wan_2_1_1_3b(), None, Some(1_418_996_800_usize)),
            (Anatomy::wan_2_1_14b(), None, Some(14_288_491_584)),
            (Anatomy::wan_2_2_5b(), None, Some(4_999_787_712)),
        ] {
            let block: Vec<Weight> = anatomy.block();
            let matrix = |w: &&Weight| w.dims.len() == 2 && w.name != "modulation.table";
            let large = block.iter().filter(matrix);
            let large: usize = large.map(Weight::elements).sum();
            if let Some(want) = matrices {
                let got = (anatomy.layers * large) as f64;
                assert!((got / want - 1.0).abs() < 5e-4, "{}: {got}", anatomy.name);
            }
            if let Some(want) = total {
                assert_eq!(anatomy.elements(), want, "{}", anatomy.name);
            }
        }
    }

    // Of each block: two matrices with biases and a norm for the image's keys and values.
    #[test]
    fn the_image_model_is_the_text_model_with_an_image_path() {
        let (image, text) = (Anatomy::wan_2_1_i2v_14b(), Anatomy::wan_2_1_14b());
        let blocks = 40 * (2 * (5120 * 5120 + 5120) + 5120);
        let patch = (144 - 64) * 5120;
        let projection = 2 * 1280 + 1280 * 1281 + 1281 * 5120 + 2 * 5120;
        assert_eq!(
            image.elements() - text.elements(),
            blocks + patch + projection
        );
    }

    #[test]
    fn presets_are_found_by_their_own_names() {
        for name in Anatomy::PRESETS {
            assert_eq!(Anatomy::preset(name).expect(name).name, name);
        }
        assert_eq!(Anatomy::preset("sora"), None);
    }
}
