//! What a transformer is made of: enough to count its weights, its operations and its messages.

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
    /// Three norms with a learned weight each.
    Weighted,
    /// Only the norm before cross-attention learns, a weight and a bias.
    OneAffine,
}

/// Parameters outside the blocks, by name; they are whole on every rank of a tensor-parallel group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// What they are.
    pub name: String,
    /// How many numbers.
    pub elements: usize,
    /// Whether text flows through them, rather than video tokens.
    #[serde(default)]
    pub text: bool,
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
}

/// The sizes of a Movie Gen transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovieGenSizes {
    /// Its name, for tables.
    pub name: String,
    /// Blocks.
    pub layers: usize,
    /// Model width.
    pub width: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Heads.
    pub heads: usize,
    /// Numbers of a token: latent channels times the patch.
    pub token: usize,
    /// Rows of the position tables along frames, height and width, in tokens.
    pub grid: [usize; 3],
    /// Names and widths of the text encoders.
    pub texts: Vec<(String, usize)>,
    /// Their tokens together.
    pub text_tokens: usize,
}

impl MovieGenSizes {
    /// The paper's 5B model, for latents of 32 x 96 x 96; UL2, MetaCLIP and ByT5 with 512, 256 and
    /// 100 tokens, which are a re-implementation's.
    pub fn paper_5b() -> Self {
        let text = |name: &str, width| (name.to_string(), width);
        Self {
            name: "movie-gen-5b".into(),
            layers: 32,
            width: 3072,
            ffn: 8192,
            heads: 24,
            token: 16 * 4,
            grid: [32, 48, 48],
            texts: vec![
                text("ul2", 4096),
                text("metaclip", 1280),
                text("byt5", 1472),
            ],
            text_tokens: 512 + 256 + 100,
        }
    }
}

/// How the operations of attention are counted towards the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// All of them: every token attends to every other.
    Full,
    /// Half of them, as for language models, whose tokens attend backwards only.
    Causal,
}

/// Which logical axis cuts a weight over tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// None: every rank holds it.
    Whole,
    /// Attention heads.
    Heads,
    /// Hidden units.
    Hidden,
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its path within a block, or its name outside.
    pub name: String,
    /// The axis that may cut it.
    pub along: Along,
    /// Units along that axis: heads, hidden units, or 1.
    pub units: usize,
    /// Elements of one unit.
    pub per_unit: usize,
    /// Whether text flows through it.
    pub text: bool,
}

impl Weight {
    /// All elements.
    pub fn elements(&self) -> usize {
        self.units * self.per_unit
    }
}

impl Anatomy {
    /// Movie Gen's 30B model (paper, table 1; text widths are a re-implementation's).
    pub fn movie_gen_30b() -> Self {
        Self::movie_gen(&MovieGenSizes {
            name: "movie-gen-30b".into(),
            layers: 48,
            width: 6144,
            ffn: 16384,
            heads: 48,
            ..MovieGenSizes::paper_5b()
        })
    }

    /// The 5B model of Movie Gen's ablations.
    pub fn movie_gen_5b() -> Self {
        Self::movie_gen(&MovieGenSizes::paper_5b())
    }

    /// A Movie Gen transformer of any sizes, as `kinora-models` builds it.
    pub fn movie_gen(sizes: &MovieGenSizes) -> Self {
        let (width, token) = (sizes.width, sizes.token);
        let [frames, height, across] = sizes.grid;
        let mut outside = vec![
            ("patch.weight", token * width, false),
            ("patch.bias", width, false),
            ("positions.frame", frames * width, false),
            ("positions.height", height * width, false),
            ("positions.width", across * width, false),
        ];
        outside.extend(time(width));
        outside.extend([
            ("modulation", 6 * width, false),
            ("norm", width, false),
            ("head.weight", width * token, false),
            ("head.bias", token, false),
        ]);
        let mut outside = named(outside);
        for (name, text) in &sizes.texts {
            let part = |part: &str, elements| Outside {
                name: format!("texts.{name}.{part}"),
                elements,
                text: true,
            };
            outside.extend([
                part("linear.weight", text * width),
                part("norm.weight", width),
                part("norm.bias", width),
            ]);
        }
        Self {
            name: sizes.name.clone(),
            layers: sizes.layers,
            width,
            heads: sizes.heads,
            kv_heads: sizes.heads,
            head_dim: width / sizes.heads,
            ffn: sizes.ffn,
            feed_forward: FeedForward::Swiglu,
            text: TextPath::Cross,
            text_tokens: sizes.text_tokens,
            image_tokens: 0,
            qk_norm: QkNorm::None,
            norms: Norms::Weighted,
            modulation: 6,
            bias: false,
            token_in: token,
            token_out: token,
            outside,
        }
    }

    /// Wan 2.1 T2V 1.3B.
    pub fn wan_2_1_1_3b() -> Self {
        Self::wan("wan-2.1-t2v-1.3b", 30, 1536, 8960, 12, [64, 64])
    }

    /// Wan 2.1 T2V 14B.
    pub fn wan_2_1_14b() -> Self {
        Self::wan("wan-2.1-t2v-14b", 40, 5120, 13824, 40, [64, 64])
    }

    /// Wan 2.1 I2V 14B: 36 channels in, and 257 tokens of an image encoder in every cross-attention.
    pub fn wan_2_1_i2v_14b() -> Self {
        let mut anatomy = Self::wan("wan-2.1-i2v-14b", 40, 5120, 13824, 40, [144, 64]);
        anatomy.image_tokens = 257;
        let clip = 1280;
        anatomy.outside.extend(named(vec![
            ("img_emb.norm_in", 2 * clip, true),
            ("img_emb.first", clip * clip + clip, true),
            ("img_emb.second", clip * 5120 + 5120, true),
            ("img_emb.norm_out", 2 * 5120, true),
        ]));
        anatomy
    }

    /// Wan 2.2 TI2V 5B: 48 latent channels.
    pub fn wan_2_2_5b() -> Self {
        Self::wan("wan-2.2-ti2v-5b", 30, 3072, 14336, 24, [192, 192])
    }

    fn wan(
        name: &str,
        layers: usize,
        width: usize,
        ffn: usize,
        heads: usize,
        [token_in, token_out]: [usize; 2],
    ) -> Self {
        let mut outside = vec![
            ("patch_embedding.weight", token_in * width, false),
            ("patch_embedding.bias", width, false),
            ("text_embedding.first", 4096 * width + width, true),
            ("text_embedding.second", width * width + width, true),
        ];
        outside.extend(time(width));
        outside.extend([
            ("head.weight", width * token_out, false),
            ("head.bias", token_out, false),
            ("head.modulation", 2 * width, false),
        ]);
        Self {
            name: name.into(),
            layers,
            width,
            heads,
            kv_heads: heads,
            head_dim: width / heads,
            ffn,
            feed_forward: FeedForward::Gelu,
            text: TextPath::Cross,
            text_tokens: 512,
            image_tokens: 0,
            qk_norm: QkNorm::AcrossHeads,
            norms: Norms::OneAffine,
            modulation: 6,
            bias: true,
            token_in,
            token_out,
            outside: named(outside),
        }
    }

    /// The names that [`Anatomy::preset`] knows.
    pub const PRESETS: [&str; 6] = [
        "movie-gen-30b",
        "movie-gen-5b",
        "wan-2.1-t2v-1.3b",
        "wan-2.1-t2v-14b",
        "wan-2.1-i2v-14b",
        "wan-2.2-ti2v-5b",
    ];

    /// The transformer of a name, if there is one.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "movie-gen-30b" => Self::movie_gen_30b(),
            "movie-gen-5b" => Self::movie_gen_5b(),
            "wan-2.1-t2v-1.3b" => Self::wan_2_1_1_3b(),
            "wan-2.1-t2v-14b" => Self::wan_2_1_14b(),
            "wan-2.1-i2v-14b" => Self::wan_2_1_i2v_14b(),
            "wan-2.2-ti2v-5b" => Self::wan_2_2_5b(),
            _ => return None,
        })
    }

    /// The parameter tensors of one block.
    pub fn block(&self) -> Vec<Weight> {
        let (d, hd) = (self.width, self.head_dim);
        let mut out = vec![];
        let mut add = |name: &str, along, units, per_unit, text| {
            out.push(Weight {
                name: name.into(),
                along,
                units,
                per_unit,
                text,
            });
        };
        let whole = Along::Whole;
        if self.modulation > 0 {
            add("modulation", whole, 1, self.modulation * d, false);
        }
        let norms: &[(&str, usize)] = match self.norms {
            Norms::Weighted => &[("norm1", 1), ("norm2", 1), ("norm3", 1)],
            Norms::OneAffine => &[("norm3", 2)],
        };
        for &(name, rows) in norms {
            for i in 0..rows {
                let part = ["weight", "bias"][i];
                add(&format!("{name}.{part}"), whole, 1, d, false);
            }
        }
        let branches: &[&str] = match self.text {
            TextPath::Cross => &["attn", "cross"],
            TextPath::Joint => &["attn"],
        };
        for &branch in branches {
            let reads_text = branch == "cross";
            let mut into = vec![
                ("query", self.heads, false),
                ("key", self.kv_heads, reads_text),
                ("value", self.kv_heads, reads_text),
            ];
            if reads_text && self.image_tokens > 0 {
                into.extend([
                    ("image_key", self.kv_heads, true),
                    ("image_value", self.kv_heads, true),
                ]);
            }
            for &(name, heads, text) in &into {
                add(
                    &format!("{branch}.{name}"),
                    Along::Heads,
                    heads,
                    d * hd,
                    text,
                );
                if self.bias {
                    add(
                        &format!("{branch}.{name}.bias"),
                        Along::Heads,
                        heads,
                        hd,
                        text,
                    );
                }
                if !name.ends_with("value") {
                    let norm = format!("{branch}.{name}.norm");
                    match self.qk_norm {
                        QkNorm::None => {}
                        QkNorm::PerHead => add(&norm, whole, 1, hd, text),
                        QkNorm::AcrossHeads => add(&norm, Along::Heads, heads, hd, text),
                    }
                }
            }
            add(
                &format!("{branch}.out"),
                Along::Heads,
                self.heads,
                hd * d,
                false,
            );
            if self.bias {
                add(&format!("{branch}.out.bias"), whole, 1, d, false);
            }
        }
        let up: &[&str] = match self.feed_forward {
            FeedForward::Swiglu => &["mlp.gate", "mlp.up"],
            FeedForward::Gelu => &["mlp.up"],
        };
        for name in up {
            add(name, Along::Hidden, self.ffn, d, false);
            if self.bias {
                add(&format!("{name}.bias"), Along::Hidden, self.ffn, 1, false);
            }
        }
        add("mlp.down", Along::Hidden, self.ffn, d, false);
        if self.bias {
            add("mlp.down.bias", whole, 1, d, false);
        }
        out
    }

    /// The parameter tensors outside the blocks.
    pub fn outer(&self) -> Vec<Weight> {
        let weight = |outside: &Outside| Weight {
            name: outside.name.clone(),
            along: Along::Whole,
            units: 1,
            per_unit: outside.elements,
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
        self.outside.iter().map(|part| part.elements).sum()
    }

    /// All parameters.
    pub fn elements(&self) -> usize {
        self.layers * self.block_elements() + self.outer_elements()
    }

    /// The length of the sequence that self-attention sees, for `tokens` of video.
    pub fn sequence(&self, tokens: usize) -> usize {
        match self.text {
            TextPath::Cross => tokens,
            TextPath::Joint => tokens + self.text_tokens,
        }
    }

    /// Operations of one forward pass over one sample by the standard convention: 2 for each
    /// parameter of the blocks and token, and `4 S^2 H K` for each self-attention, or half of that.
    /// Cross-attention and what is outside the blocks are not counted; a training step counts three
    /// times as much, whatever is recomputed.
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

/// The embedding of time, of 256 sinusoids, and the network that makes six modulations of it.
fn time(width: usize) -> Vec<(&'static str, usize, bool)> {
    vec![
        ("time.first.weight", 256 * width, false),
        ("time.first.bias", width, false),
        ("time.second.weight", width * width, false),
        ("time.second.bias", width, false),
        ("modulator.weight", 6 * width * width, false),
        ("modulator.bias", 6 * width, false),
    ]
}

fn named(parts: Vec<(&str, usize, bool)>) -> Vec<Outside> {
    let outside = |(name, elements, text): (&str, usize, bool)| Outside {
        name: name.into(),
        elements,
        text,
    };
    parts.into_iter().map(outside).collect()
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
            let large = block
                .iter()
                .filter(|w| w.along != Along::Whole && w.per_unit > 128);
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
