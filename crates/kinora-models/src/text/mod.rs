//! Published text encoders, as video models read them: prompts as tokens to one vector a token, and
//! for some encoders one a prompt.
//!
//! Wan reads umT5; Movie Gen UL2, CLIP and, for quoted words, ByT5; HunyuanVideo a language model's
//! tokens and CLIP's one vector. All are run, not trained: made on a plain device they keep nothing for
//! a backward pass, and dropping one frees its weights. They run along the text, which every rank
//! has whole: a plan cuts heads, hidden units and stored weights, and never the tokens.

pub mod clip;
mod config;
pub mod t5;

pub use config::EncoderConfigError;

use crate::movie_gen::TextTokens;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Prompts as a tokenizer made them: rows of one length.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// `[B, L]`.
    pub ids: Tensor<2, Int>,
    /// `[B, L]`, false for padding.
    pub mask: Tensor<2, Bool>,
}

/// An encoder that turns prompts into vectors.
pub trait TextEncoder {
    /// The width of its embeddings.
    fn width(&self) -> usize;

    /// One vector a token: `[B, L, width]`, with the mask of the batch. What stands where the mask is
    /// false means nothing.
    fn encode(&self, tokens: &TokenBatch) -> TextTokens;

    /// One vector a prompt, `[B, width]`, if the encoder has one.
    fn pool(&self, tokens: &TokenBatch) -> Option<Tensor<2>> {
        let _ = tokens;
        None
    }
}

impl TokenBatch {
    /// Rows of numbers, and where they are no padding.
    ///
    /// # Panics
    /// If rows differ in length, or the mask from the rows.
    pub fn new(ids: &[Vec<u32>], mask: &[Vec<bool>], device: &Device) -> Self {
        let (b, l) = (ids.len(), ids.first().map_or(0, Vec::len));
        let mut lens = ids.iter().map(Vec::len).chain(mask.iter().map(Vec::len));
        assert!(
            mask.len() == b && lens.all(|len| len == l),
            "rows of {l} tokens, with a truth value each"
        );
        let ids: Vec<i32> = ids
            .concat()
            .into_iter()
            .map(|id| i32::try_from(id).expect("vocabularies are smaller than 2^31"))
            .collect();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [b, l]), device),
            mask: Tensor::from_data(TensorData::new(mask.concat(), [b, l]), device),
        }
    }
}

/// Embeddings as Wan's transformer reads them (wan/modules/t5.py, `T5EncoderModel`, and model.py):
/// zeros beyond each prompt's end, then zeros up to `length` tokens, to all of which it attends.
/// `[B, L, width]` to `[B, length, width]`.
///
/// # Panics
/// If the prompts are longer than that.
pub fn zero_padded(text: TextTokens, length: usize) -> Tensor<3> {
    let [b, l, width] = text.embedding.dims();
    assert!(l <= length, "{l} tokens do not fit into {length}");
    let (device, dtype) = (text.embedding.device(), text.embedding.dtype());
    let padding = text.mask.bool_not().unsqueeze_dim::<3>(2);
    let zeroed = text.embedding.mask_fill(padding.expand([b, l, width]), 0.0);
    if l == length {
        return zeroed;
    }
    let rest = Tensor::zeros([b, length - l, width], (&device, dtype));
    Tensor::cat(vec![zeroed, rest], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_a_prompt_is_zero() {
        let device = Device::flex();
        let mask = [vec![true, true], vec![true, false]];
        let batch = TokenBatch::new(&[vec![5, 1], vec![1, 0]], &mask, &device);
        let text = TextTokens {
            embedding: Tensor::from_data(
                [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]],
                &device,
            ),
            mask: batch.mask,
        };
        let got: Vec<f32> = zero_padded(text, 3).into_data().iter().collect();
        let want = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(got, want);
    }
}
