//! Transformers by name, and Kinora's own of any sizes.

use super::{Anatomy, FeedForward, Norms, Outside, QkNorm, TextPath};

// 256 bytes, and the mark that opens every text.
const SYMBOLS: usize = 257;

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
    /// The byte encoder that is trained along, if there is one.
    pub bytes: Option<BytesSizes>,
}

/// The sizes of the byte encoder of `kinora-models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesSizes {
    /// Width of the embeddings.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Rows of the table of hashed windows; 0 for none.
    pub windows: usize,
    /// The longest text, in words.
    pub max_words: usize,
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
            bytes: None,
        }
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
            video("patch.weight", &[token, width]),
            video("patch.bias", &[width]),
            video("positions.frame", &[frames, width]),
            video("positions.height", &[height, width]),
            video("positions.width", &[across, width]),
        ];
        outside.extend(time(width));
        outside.extend([
            video("modulation.table", &[6, width]),
            video("norm.weight", &[width]),
            video("head.weight", &[width, token]),
            video("head.bias", &[token]),
        ]);
        for (name, size) in &sizes.texts {
            outside.extend([
                text(&format!("texts.{name}.linear.weight"), &[*size, width]),
                text(&format!("texts.{name}.norm.weight"), &[width]),
                text(&format!("texts.{name}.norm.bias"), &[width]),
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
            encoder: sizes
                .bytes
                .as_ref()
                .map(|bytes| Box::new(Self::bytes(bytes))),
        }
    }

    /// The byte encoder of any sizes, as `kinora-models` builds it.
    pub fn bytes(sizes: &BytesSizes) -> Self {
        let width = sizes.width;
        let mut outside = vec![text("symbols.weight", &[SYMBOLS, width])];
        if sizes.windows > 0 {
            outside.push(text("windows.weight", &[sizes.windows, width]));
        }
        outside.extend([
            text("positions", &[sizes.max_words + 1, width]),
            text("norm.weight", &[width]),
        ]);
        Self {
            name: "bytes".into(),
            layers: sizes.layers,
            width,
            heads: sizes.heads,
            kv_heads: sizes.heads,
            head_dim: width / sizes.heads,
            ffn: sizes.ffn,
            feed_forward: FeedForward::Swiglu,
            text: TextPath::Nothing,
            text_tokens: 0,
            image_tokens: 0,
            qk_norm: QkNorm::None,
            norms: Norms::Weighted,
            modulation: 0,
            bias: false,
            token_in: 0,
            token_out: 0,
            outside,
            encoder: None,
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
        anatomy.outside.extend([
            text("img_emb.norm_in", &[2, clip]),
            text("img_emb.first.weight", &[clip, clip]),
            text("img_emb.first.bias", &[clip]),
            text("img_emb.second.weight", &[clip, 5120]),
            text("img_emb.second.bias", &[5120]),
            text("img_emb.norm_out", &[2, 5120]),
        ]);
        anatomy
    }

    /// Wan 2.2 TI2V 5B: 48 latent channels.
    pub fn wan_2_2_5b() -> Self {
        Self::wan("wan-2.2-ti2v-5b", 30, 3072, 14336, 24, [192, 192])
    }

    /// A Wan transformer of any sizes without image tokens; `token_in` and `token_out` are the numbers
    /// of a patch that goes in and of one that comes out.
    pub fn wan(
        name: &str,
        layers: usize,
        width: usize,
        ffn: usize,
        heads: usize,
        [token_in, token_out]: [usize; 2],
    ) -> Self {
        let mut outside = vec![
            video("patch_embedding.weight", &[token_in, width]),
            video("patch_embedding.bias", &[width]),
            text("text_embedding.first.weight", &[4096, width]),
            text("text_embedding.first.bias", &[width]),
            text("text_embedding.second.weight", &[width, width]),
            text("text_embedding.second.bias", &[width]),
        ];
        outside.extend(time(width));
        outside.extend([
            video("head.weight", &[width, token_out]),
            video("head.bias", &[token_out]),
            video("head.modulation", &[2, width]),
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
            outside,
            encoder: None,
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
}

/// The embedding of time, of 256 sinusoids, and the network that makes six modulations of it.
fn time(width: usize) -> [Outside; 6] {
    [
        video("time.first.weight", &[256, width]),
        video("time.first.bias", &[width]),
        video("time.second.weight", &[width, width]),
        video("time.second.bias", &[width]),
        video("modulator.linear.weight", &[width, 6 * width]),
        video("modulator.linear.bias", &[6 * width]),
    ]
}

fn video(name: &str, shape: &[usize]) -> Outside {
    Outside {
        name: name.into(),
        shape: shape.to_vec(),
        text: false,
    }
}

fn text(name: &str, shape: &[usize]) -> Outside {
    Outside {
        text: true,
        ..video(name, shape)
    }
}
