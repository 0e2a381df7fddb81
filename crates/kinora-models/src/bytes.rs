//! A small byte-level text encoder, trained with the model, so that nothing has to be downloaded.
//!
//! Each byte's embedding is its own plus that of the four-byte window around it, hashed: words are
//! told apart without a vocabulary (the idea of hashed n-grams is CANINE's, Clark et al. 2022). The
//! bytes of a word are summed into one token, and a transformer reads the words.

use crate::movie_gen::TextTokens;
use burn::module::Module;
use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use kinora_mesh::{Axis, Extent, rng::fnv1a};
use kinora_nn::{Attention, AttentionConfig, Embedding, QkNorm, RmsNorm, SwiGlu};
use kinora_shard::{Cx, Init, Stack, Weight};
use serde::{Deserialize, Serialize};

// 256 bytes, then the mark that opens every text, so that the empty text has a token too.
const START: i32 = 256;
const SYMBOLS: usize = 257;
// Bytes of a word that are read, so that a text without spaces has an end.
const MAX_WORD: usize = 64;

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
    /// The longest text, in words; what is longer is cut.
    pub max_words: usize,
}

/// Texts as numbers: the bytes of all words, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    bytes: Vec<i32>,
    windows: Vec<i32>,
    // Bytes of each word, for each text; the opening mark is a word of its own.
    words: Vec<Vec<usize>>,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Bytes {
    symbols: Embedding,
    windows: Option<Embedding>,
    positions: Weight<2>,
    layers: Stack<Layer>,
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
        let layer = |cx: &Cx| Layer {
            norm1: RmsNorm::new(&cx.at("norm1"), width),
            attn: AttentionConfig {
                width,
                heads: config.heads,
                norm: QkNorm::None,
                residual,
            }
            .init(&cx.at("attn")),
            norm2: RmsNorm::new(&cx.at("norm2"), width),
            mlp: SwiGlu::new(&cx.at("mlp"), width, config.ffn, residual),
        };
        let length = Axis::Channel.of(config.max_words + 1);
        Self {
            symbols: Embedding::new(&cx.at("symbols"), SYMBOLS, width, 0.5),
            windows: (config.windows > 0)
                .then(|| Embedding::new(&cx.at("windows"), config.windows, width, 0.5)),
            positions: cx.param("positions", [length, width], Init::Normal(0.5)),
            layers: Stack::new(&cx.at("layers"), config.layers, layer),
            norm: RmsNorm::new(&cx.at("norm"), width),
            config: config.clone(),
        }
    }

    /// Texts to embeddings of their words, `[B, L, width]`.
    pub fn forward(&self, texts: &Encoded, device: &Device) -> TextTokens {
        let (b, n) = (texts.words.len(), texts.bytes.len());
        let l = texts.words.iter().map(Vec::len).max().unwrap_or(1);
        let ids = |ids: &[i32]| {
            Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, n]), device)
        };
        let mut bytes = self.symbols.forward(ids(&texts.bytes)); // [1, n, width]
        if let Some(windows) = &self.windows {
            bytes = bytes + windows.forward(ids(&texts.windows));
        }
        let [_, _, width] = bytes.dims();
        let (dtype, words) = (bytes.dtype(), texts.words.iter());
        // Words differ in length, so their bytes are summed by index; the root keeps the variance.
        let place = words.clone().enumerate().flat_map(|(text, words)| {
            words
                .iter()
                .enumerate()
                .flat_map(move |(i, &len)| vec![(text * l + i) as i32; len])
        });
        let place =
            Tensor::<1, Int>::from_data(TensorData::new(place.collect::<Vec<_>>(), [n]), device);
        let share: Vec<f64> = words
            .clone()
            .flat_map(|words| {
                words
                    .iter()
                    .flat_map(|&len| vec![(len as f64).powf(-0.5); len])
            })
            .collect();
        let share = Tensor::<2>::from_data(TensorData::new(share, [n, 1]), (device, dtype));
        let tokens = Tensor::<2>::zeros([b * l, width], (device, dtype));
        let tokens = if bytes.is_autodiff() {
            tokens.autodiff()
        } else {
            tokens
        };
        let x = tokens.select_assign(
            0,
            place,
            bytes.reshape([n, width]) * share,
            IndexingUpdateOp::Add,
        );
        let x = x.reshape([b, l, width]) + self.positions.val().narrow(0, 0, l).unsqueeze();
        let mask: Vec<bool> = words
            .flat_map(|words| (0..l).map(move |i| i < words.len()))
            .collect();
        let mask: Tensor<2, Bool> = Tensor::from_data(TensorData::new(mask, [b, l]), device);
        let keys = mask.clone();
        let x = self.layers.forward([x], move |layer, [x]| {
            let x = x.clone() + layer.attn.forward(layer.norm1.forward(x), Some(&keys), l);
            x.clone() + layer.mlp.forward(layer.norm2.forward(x), l)
        });
        TextTokens {
            embedding: self.norm.forward(x),
            mask,
        }
    }

    /// Texts to the numbers that [`Bytes::forward`] reads.
    pub fn encode(&self, texts: &[String]) -> Encoded {
        self.config.encode(texts)
    }
}

impl BytesConfig {
    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        [(
            "text.heads",
            Axis::Heads.of(self.width).by(self.width / self.heads),
        )]
    }

    fn encode(&self, texts: &[String]) -> Encoded {
        let mut encoded = Encoded {
            bytes: vec![],
            windows: vec![],
            words: vec![],
        };
        for text in texts {
            encoded.bytes.push(START);
            encoded.windows.push(0);
            let mut lens = vec![1];
            for word in text.split_ascii_whitespace().take(self.max_words) {
                let word = &word.as_bytes()[..word.len().min(MAX_WORD)];
                // The space before a word is part of it, so that windows know where it starts.
                let word: Vec<u8> = [b" ", word, b" "].concat();
                lens.push(word.len() - 1);
                for (at, byte) in word[..word.len() - 1].iter().enumerate() {
                    encoded.bytes.push(i32::from(*byte));
                    encoded.windows.push(self.window(&word, at));
                }
            }
            encoded.words.push(lens);
        }
        encoded
    }

    /// The hash of the four bytes from two before `at` to one after.
    fn window(&self, word: &[u8], at: usize) -> i32 {
        if self.windows == 0 {
            return 0;
        }
        let window = [-2_isize, -1, 0, 1].map(|offset| {
            let index = at.checked_add_signed(offset);
            index
                .and_then(|index| word.get(index))
                .copied()
                .unwrap_or(0)
        });
        (fnv1a(&window) % self.windows as u64) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_words_of_bytes_and_are_cut() {
        let config = BytesConfig {
            width: 8,
            layers: 1,
            heads: 2,
            ffn: 8,
            windows: 97,
            max_words: 2,
        };
        let encoded = config.encode(&["ab c".into(), String::new(), "a  b c d".into()]);
        assert_eq!(encoded.words, [vec![1, 3, 2], vec![1], vec![1, 2, 2]]);
        let text = |text: &str| text.bytes().map(i32::from).collect::<Vec<_>>();
        assert_eq!(encoded.bytes[..6], [&[START][..], &text(" ab c")].concat());
        assert_eq!(encoded.windows.len(), encoded.bytes.len());
        // The same word has the same numbers wherever it stands.
        let long = BytesConfig {
            max_words: 30,
            ..config
        };
        let one = long.encode(&["a red circle".into()]);
        let other = long.encode(&["one red circle".into()]);
        assert_eq!(one.windows[3..], other.windows[5..]);
    }
}
