//! The `[[encoders]]` tables: frozen text encoders.

use crate::failure::{Failure, OrInput, OrRun, Outcome};
use kinora_models::text::t5::T5Config;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// A text encoder of released weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncoderSection {
    /// What it is.
    pub(crate) kind: EncoderKind,
    /// A .safetensors or .pth file, or a folder of them, with Hugging Face's or Wan's names.
    pub(crate) weights: PathBuf,
    /// Hugging Face's `config.json`, for sizes other than the kind's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<PathBuf>,
    /// A tokenizer.json, a SentencePiece model, or a folder with one of them; ByT5 needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Longer prompts are cut to so many tokens.
    #[serde(default = "tokens")]
    pub(crate) tokens: usize,
}

/// The kinds of text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncoderKind {
    /// umT5-XXL, which Wan reads.
    Umt5,
    /// T5 1.1 XXL; UL2 with its config.
    T5,
    /// ByT5, of bytes; with its config.
    Byt5,
}

/// As many as Wan reads.
fn tokens() -> usize {
    512
}

impl EncoderSection {
    /// The sizes.
    pub(crate) fn sizes(&self) -> Outcome<T5Config> {
        if let Some(path) = &self.config {
            let text = fs::read(path).or_run()?;
            let mut json = serde_json::Deserializer::from_slice(&text);
            return T5Config::from_hugging_face(&mut json).or_input();
        }
        match self.kind {
            EncoderKind::Umt5 => Ok(T5Config::umt5_xxl()),
            EncoderKind::T5 => Ok(T5Config::t5_xxl()),
            EncoderKind::Byt5 => Err(Failure::input(
                "encoders: ByT5 comes in many sizes\n  help: set config to its config.json",
            )),
        }
    }

    pub(crate) fn check(&self) -> Outcome {
        if self.tokens < 2 || self.tokens > 1 << 16 {
            return Err(Failure::input(format!(
                "encoders.tokens = {}\n  help: use 2 to 65536; Wan reads 512",
                self.tokens
            )));
        }
        match (self.kind, &self.tokenizer) {
            (EncoderKind::Byt5, Some(_)) => Err(Failure::input(
                "encoders.tokenizer has no effect: ByT5 reads bytes\n  help: remove it",
            )),
            (EncoderKind::Umt5 | EncoderKind::T5, None) => Err(Failure::input(
                "encoders.tokenizer is missing\n  help: name the tokenizer.json, or spiece.model, that came with the weights",
            )),
            _ => Ok(()),
        }
    }
}
