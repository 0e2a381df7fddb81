//! Prompts to numbers: the tokenizers of the text encoders that video models read.
//!
//! Four kinds, each from the files that models come with: `tokenizer.json` of Hugging Face, CLIP's
//! byte pairs, SentencePiece's `.model` (T5, UL2, umT5), and the bytes of ByT5, which needs no file.
//! Around them is what the models' own programs do: prompts are cleaned, cut and padded to a length.
//!
//! Separate because it is text and files: it builds without Burn, so that a data pipeline can count
//! tokens on any machine. It deliberately trains no vocabulary and turns no numbers back into text.

mod byt5;
mod clean;
mod clip;
mod error;
mod hugging_face;
mod quoted;
mod sentencepiece;
mod tokenizer;

pub use clean::Clean;
pub use error::TokensError;
pub use quoted::quoted;
pub use tokenizer::{Length, Tokenizer, Tokens};
