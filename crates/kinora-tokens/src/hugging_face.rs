//! Hugging Face's `tokenizer.json`, which holds a whole pipeline.

use crate::TokensError;
use std::path::Path;
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

/// The names that padding has, the most telling first; CLIP pads with its end mark.
const PADDING: [&str; 4] = ["<pad>", "[PAD]", "<|padding|>", "<|endoftext|>"];

/// Reads a `tokenizer.json`; its own truncation and padding are switched off, since lengths are given
/// with each call. Also the number of a padding token.
pub(crate) fn open(path: &Path) -> Result<(Tokenizer, u32), TokensError> {
    let bytes = std::fs::read(path).map_err(TokensError::io(path))?;
    let broken = |error: tokenizers::Error| TokensError::Format {
        path: path.to_path_buf(),
        kind: "a tokenizer.json",
        what: error.to_string(),
        help: "download it again",
    };
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(broken)?;
    let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
    let pad = pad.or_else(|| PADDING.iter().find_map(|name| tokenizer.token_to_id(name)));
    tokenizer.with_truncation(None).map_err(broken)?;
    tokenizer.with_padding(None);
    Ok((tokenizer, pad.unwrap_or(0)))
}

/// The numbers of a text without marks.
pub(crate) fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokensError> {
    let encoding = tokenizer.encode_fast(text, false);
    Ok(encoding
        .map_err(TokensError::text(text))?
        .get_ids()
        .to_vec())
}

/// How many marks the pipeline adds.
pub(crate) fn marks(tokenizer: &Tokenizer) -> usize {
    let processor = tokenizer.get_post_processor();
    processor.map_or(0, |processor| processor.added_tokens(false))
}

/// The numbers of a text with the pipeline's marks, at most `longest` in all.
pub(crate) fn marked(
    tokenizer: &Tokenizer,
    text: &str,
    longest: usize,
) -> Result<Vec<u32>, TokensError> {
    let mut encoding = tokenizer
        .encode_fast(text, false)
        .map_err(TokensError::text(text))?;
    encoding.truncate(longest - marks(tokenizer), 0, TruncationDirection::Right);
    let encoding = match tokenizer.get_post_processor() {
        Some(processor) => processor
            .process(encoding, None, true)
            .map_err(TokensError::text(text))?,
        None => encoding,
    };
    Ok(encoding.get_ids().to_vec())
}
