//! A small byte-level text encoder, trained with the model, so that nothing has to be downloaded.
//!
//! Each byte's token is its own embedding plus that of the four-byte window around it, hashed: words
//! are told apart without a vocabulary (the idea of hashed n-grams is CANINE's, Clark et al. 2022).

use crate::movie_gen::TextTokens;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kinora_mesh::{Axis, rng::fnv1a};
use kinora_nn::{Attention, AttentionConfig, Embedding, RmsNorm, SwiGlu};
use kinora_shard::{Cx, Init};
use serde::{Deserialize, Serialize};

// 256 bytes, then the mark that opens every text, so that the empty text has a token too.
const START: i32 = 256;
const PADDING: i32 = 257;
const SYMBOLS: usize = 258;

/// The sizes of a byte encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BytesConfig {
    /// Width of the embeddings.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// Rows of the table of hashed four-byte windows; 0 leaves them out.
    pub windows: usize,
    /// The longest text, in bytes; what is longer is cut.
    pub max_bytes: usize,
}

/// Texts as numbers.
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: Vec<i32>,
    windows: Vec<i32>,
    lens: Vec<usize>,
    longest: usize,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Bytes {
    symbols: Embedding,
    windows: Option<Embedding>,
    positions: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    #[module(skip)]
    config: BytesConfig,
}

#[derive(Module, Debug)]
struct Layer {
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    mlp: SwiGlu,
}

impl Bytes {
    /// An encoder with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &BytesConfig) -> Self {
        let cx = &cx.on(Axis::Text);
        let width = Axis::Embed.of(config.width);
        let residual = (2.0 * config.layers.max(1) as f64).powf(-0.5);
        let layer = |i: usize| {
            let cx = cx.at("layers").at(i);
            Layer {
                norm1: RmsNorm::new(&cx.at("norm1"), width),
                attn: AttentionConfig { width, heads: config.heads, residual }.init(&cx.at("attn")),
                norm2: RmsNorm::new(&cx.at("norm2"), width),
                mlp: SwiGlu::new(&cx.at("mlp"), width, config.ffn, residual),
            }
        };
        let length = Axis::Channel.of(config.max_bytes + 1);
        Self {
            symbols: Embedding::new(&cx.at("symbols"), SYMBOLS, width, 0.5),
            windows: (config.windows > 0)
                .then(|| Embedding::new(&cx.at("windows"), config.windows, width, 0.5)),
            positions: cx.param("positions", [length, width], Init::Normal(0.5)),
            layers: (0..config.layers).map(layer).collect(),
            norm: RmsNorm::new(&cx.at("norm"), width),
            config: config.clone(),
        }
    }

    /// Texts to embeddings, `[B, L, width]`.
    pub fn forward(&self, texts: &Encoded, device: &Device) -> TextTokens {
        let (b, l) = (texts.lens.len(), texts.longest);
        let ids = |ids: &[i32]| {
            Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [b, l]), device)
        };
        let mut x = self.symbols.forward(ids(&texts.bytes));
        if let Some(windows) = &self.windows {
            x = x + windows.forward(ids(&texts.windows));
        }
        x = x + self.positions.val().narrow(0, 0, l).unsqueeze();
        let mask: Vec<bool> =
            texts.lens.iter().flat_map(|&len| (0..l).map(move |i| i < len)).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [b, l]), device);
        for layer in &self.layers {
            x = x.clone() + layer.attn.forward(layer.norm1.forward(x), Some(&mask), l);
            x = x.clone() + layer.mlp.forward(layer.norm2.forward(x), l);
        }
        TextTokens { embedding: self.norm.forward(x), mask }
    }

    /// Texts to the numbers that [`Bytes::forward`] reads, padded to the longest.
    pub fn encode(&self, texts: &[String]) -> Encoded {
        self.config.encode(texts)
    }
}

impl BytesConfig {
    fn encode(&self, texts: &[String]) -> Encoded {
        let cut: Vec<&[u8]> =
            texts.iter().map(|text| &text.as_bytes()[..text.len().min(self.max_bytes)]).collect();
        let lens: Vec<usize> = cut.iter().map(|text| text.len() + 1).collect();
        let longest = lens.iter().copied().max().unwrap_or(1);
        let (mut bytes, mut windows) = (vec![], vec![]);
        for text in cut {
            bytes.push(START);
            bytes.extend(text.iter().map(|&byte| i32::from(byte)));
            bytes.resize(bytes.len() + longest - 1 - text.len(), PADDING);
            for at in 0..longest {
                windows.push(self.window(text, at));
            }
        }
        Encoded { bytes, windows, lens, longest }
    }

    /// The hash of the four bytes that end with the one after token `at`'s.
    fn window(&self, text: &[u8], at: usize) -> i32 {
        if self.windows == 0 || at == 0 || at > text.len() {
            return 0;
        }
        let window = [-3_isize, -2, -1, 0].map(|offset| {
            let index = usize::try_from(at as isize + offset).ok();
            index.and_then(|index| text.get(index)).copied().unwrap_or(0)
        });
        (fnv1a(&window) % self.windows as u64) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_marked_and_cut() {
        let config =
            BytesConfig { width: 8, layers: 1, heads: 2, ffn: 8, windows: 97, max_bytes: 3 };
        let encoded = config.encode(&["ab".into(), String::new(), "abcdef".into()]);
        assert_eq!(encoded.longest, 4);
        assert_eq!(encoded.lens, [3, 1, 4]);
        let (a, b, c) = (i32::from(b'a'), i32::from(b'b'), i32::from(b'c'));
        assert_eq!(
            encoded.bytes,
            [START, a, b, PADDING, START, PADDING, PADDING, PADDING, START, a, b, c]
        );
        assert_eq!(encoded.windows.len(), 12);
        // The same four bytes have the same number wherever they stand.
        let long = BytesConfig { max_bytes: 30, ..config };
        let one = long.encode(&["a red circle".into()]);
        let other = long.encode(&["one red circle".into()]);
        assert_eq!(one.windows[5..13], other.windows[7..15]);
    }
}
