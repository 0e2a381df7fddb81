//! What a velocity is asked for.

use crate::movie_gen::TextTokens;
use burn::tensor::{Bool, Tensor};

/// What is wanted of each sample of a batch, or known of it.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// The prompts, for a text encoder that is part of the model. The empty one is unconditional.
    pub prompts: Vec<String>,
    /// What frozen text encoders made of the prompts, in the order in which the model reads them; none
    /// for a model that reads the prompts themselves.
    pub texts: Vec<TextTokens>,
    /// Frames that are known, for a model that reads them.
    pub known: Option<Known>,
    /// What an image encoder made of a given image, `[B, tokens, width]`, for a model that reads it.
    pub image: Option<Tensor<3>>,
}

/// Frames of a video that are given.
#[derive(Clone, Debug)]
pub struct Known {
    /// The latent of what is given, `[B, C, T, H, W]`; what it holds at other frames is the model's
    /// custom: zeros, or the latent of gray.
    pub latent: Tensor<5>,
    /// `[B, 1, T, H, W]`: one where the latent is given, zero elsewhere.
    pub mask: Tensor<5>,
}

impl Condition {
    /// Prompts alone.
    pub fn of_prompts(prompts: &[String]) -> Self {
        Self {
            prompts: prompts.to_vec(),
            ..Self::default()
        }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// The samples of both, those of `other` last.
    ///
    /// # Panics
    /// If one knows what the other does not: the samples of a batch are of one kind.
    pub fn and(self, other: Self) -> Self {
        assert_eq!(self.texts.len(), other.texts.len(), "texts of each encoder");
        let texts = self.texts.into_iter().zip(other.texts);
        Self {
            prompts: [self.prompts, other.prompts].concat(),
            texts: texts.map(|(a, b)| beside(a, b)).collect(),
            known: both(self.known, other.known, "known frames").map(|(a, b)| Known {
                latent: Tensor::cat(vec![a.latent, b.latent], 0),
                mask: Tensor::cat(vec![a.mask, b.mask], 0),
            }),
            image: both(self.image, other.image, "an image")
                .map(|(a, b)| Tensor::cat(vec![a, b], 0)),
        }
    }
}

fn both<T>(a: Option<T>, b: Option<T>, what: &str) -> Option<(T, T)> {
    assert_eq!(a.is_some(), b.is_some(), "{what} for one half of a batch");
    a.zip(b)
}

/// The samples of both, the shorter texts filled up with padding.
fn beside(a: TextTokens, b: TextTokens) -> TextTokens {
    let tokens = a.embedding.dims()[1].max(b.embedding.dims()[1]);
    let [a, b] = [a, b].map(|text| filled(text, tokens));
    TextTokens {
        embedding: Tensor::cat(vec![a.embedding, b.embedding], 0),
        mask: Tensor::cat(vec![a.mask, b.mask], 0),
    }
}

fn filled(text: TextTokens, tokens: usize) -> TextTokens {
    let [b, len, width] = text.embedding.dims();
    if len == tokens {
        return text;
    }
    let options = (&text.embedding.device(), text.embedding.dtype());
    let zeros = Tensor::zeros([b, tokens - len, width], options);
    let padding = Tensor::<2, Bool>::full([b, tokens - len], false, &text.mask.device());
    TextTokens {
        embedding: Tensor::cat(vec![text.embedding, zeros], 1),
        mask: Tensor::cat(vec![text.mask, padding], 1),
    }
}

/// A frozen text encoder, or several that a model reads together, with their tokenizers.
pub trait PromptEncoder: Send + Sync {
    /// The tokens of each encoder, for all prompts. Every rank of a sharded encoder calls it alike.
    fn encode(&self, prompts: &[String]) -> Vec<TextTokens>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn texts_of_unlike_lengths_are_filled_up_with_padding() {
        let device = Device::flex();
        let text = |len: usize| TextTokens {
            embedding: Tensor::ones([1, len, 2], &device),
            mask: Tensor::full([1, len], true, &device),
        };
        let condition = |prompt: &str, len| Condition {
            prompts: vec![prompt.into()],
            texts: vec![text(len)],
            ..Condition::default()
        };
        let both = condition("a", 1).and(condition("b", 3));
        assert_eq!((both.len(), both.prompts[1].as_str()), (2, "b"));
        let [tokens] = both.texts.as_slice() else {
            panic!("one encoder's tokens");
        };
        let embedding = tokens.embedding.clone().into_data();
        let wanted = [
            1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0_f32,
        ];
        assert_eq!(embedding, TensorData::new(wanted.to_vec(), [2, 3, 2]));
        let mask: Vec<bool> = tokens.mask.clone().into_data().iter().collect();
        assert_eq!(mask, [true, false, false, true, true, true]);
    }

    #[test]
    #[should_panic(expected = "an image for one half")]
    fn halves_of_a_batch_are_of_one_kind() {
        let image = Some(Tensor::ones([1, 2, 2], &Device::flex()));
        let a = Condition {
            image,
            ..Condition::default()
        };
        let _ = a.and(Condition::default());
    }
}
