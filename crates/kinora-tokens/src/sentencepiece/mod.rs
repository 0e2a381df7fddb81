//! SentencePiece's Unigram models (Kudo and Richardson 2018), read from their `.model` files and
//! computed as its C++ library does: 32-bit scores, ties to the longer path's first finder, runs of
//! unknown characters as one token.

mod charsmap;
mod normalizer;
mod proto;
mod unigram;

use crate::TokensError;
use normalizer::Normalizer;
use std::path::Path;
use unigram::Unigram;

/// A model of pieces.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    normalizer: Normalizer,
    unigram: Unigram,
    end: Option<u32>,
    pad: Option<u32>,
}

impl SentencePiece {
    pub(crate) fn open(path: &Path) -> Result<Self, TokensError> {
        let bytes = std::fs::read(path).map_err(TokensError::io(path))?;
        Self::read(&bytes).map_err(|what| TokensError::Format {
            path: path.to_path_buf(),
            kind: "a SentencePiece model",
            what,
            help: "give the spiece.model or sentencepiece.model of a T5 model, whole",
        })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let model = proto::Model::read(bytes)?;
        if model.kind != proto::UNIGRAM {
            let kind = model.kind;
            return Err(format!(
                "it is a model of kind {kind}, and only kind 1, Unigram, is known"
            ));
        }
        Ok(Self {
            end: model.special(model.end, "</s>"),
            pad: model.special(model.pad, "<pad>"),
            normalizer: Normalizer::new(&model)?,
            unigram: Unigram::new(&model)?,
        })
    }

    /// The pieces of a text, without marks.
    pub(crate) fn ids(&self, text: &str) -> Vec<u32> {
        self.unigram.ids(&self.normalizer.normalize(text))
    }

    /// The mark that ends a text.
    pub(crate) fn end(&self) -> Option<u32> {
        self.end
    }

    /// The number of a padding token.
    pub(crate) fn pad(&self) -> Option<u32> {
        self.pad
    }
}
