//! CLIP's byte pairs (Radford et al. 2021; open_clip, tokenizer.py): bytes as printable characters,
//! words ended by `</w>`, merged in the order of a list.

use crate::{Clean, TokensError};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::Path;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const END_OF_WORD: &str = "</w>";
/// Merges that CLIP uses of the list, which is longer.
const MERGES: usize = 49_152 - 256 - 2;

/// A tokenizer of byte pairs with its marks.
pub(crate) struct Clip {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// From open_clip's `bpe_simple_vocab_16e6.txt.gz`, or the same unpacked: merges alone, from which the
/// vocabulary follows.
pub(crate) fn from_merges(path: &Path) -> Result<Clip, TokensError> {
    let merges = read_merges(&text(path)?, MERGES);
    if merges.is_empty() {
        return Err(broken(path, "it has no merges".into()));
    }
    let bytes: Vec<String> = alphabet().collect();
    let ends = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
    let merged = merges
        .iter()
        .map(|(first, second)| format!("{first}{second}"));
    let marks = ["<start_of_text>", "<end_of_text>"];
    let all = bytes.iter().cloned().chain(ends).chain(merged);
    let all = all.chain(marks.map(String::from));
    build(
        path,
        (0..).zip(all).map(|(id, piece)| (piece, id)).collect(),
        merges,
        marks,
    )
}

/// From Hugging Face's `vocab.json` and `merges.txt`.
pub(crate) fn from_vocabulary(vocabulary: &Path, merges: &Path) -> Result<Clip, TokensError> {
    let (pieces, _) = BPE::read_file(&utf8(vocabulary)?, &utf8(merges)?)
        .map_err(|error| broken(vocabulary, error.to_string()))?;
    let list = read_merges(&text(merges)?, usize::MAX);
    build(
        vocabulary,
        pieces,
        list,
        ["<|startoftext|>", "<|endoftext|>"],
    )
}

/// What CLIP does to a prompt before it is cut into words.
pub(crate) const CLEAN: Clean = Clean::Lower;

fn build(
    path: &Path,
    pieces: Vocab,
    merges: Vec<(String, String)>,
    marks: [&str; 2],
) -> Result<Clip, TokensError> {
    let failed = |error: tokenizers::Error| broken(path, error.to_string());
    let mark = |mark: &str| {
        let id = pieces.get(mark).copied();
        id.ok_or_else(|| broken(path, format!("it has no {mark}")))
    };
    let (start, end) = (mark(marks[0])?, mark(marks[1])?);
    let model = BPE::builder()
        .vocab_and_merges(pieces, merges)
        .end_of_word_suffix(END_OF_WORD.into())
        .unk_token(marks[1].into())
        .build()
        .map_err(failed)?;
    let words = Split::new(
        SplitPattern::Regex(WORDS.into()),
        SplitDelimiterBehavior::Removed,
        true,
    )
    .map_err(failed)?;
    let steps: Vec<PreTokenizerWrapper> =
        vec![words.into(), ByteLevel::new(false, true, false).into()];
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer
        .add_special_tokens(marks.map(|mark| AddedToken::from(mark, true)))
        .map_err(failed)?;
    Ok(Clip {
        tokenizer,
        start,
        end,
    })
}

/// The pairs of a list, at most so many; the first line is a heading.
fn read_merges(list: &str, most: usize) -> Vec<(String, String)> {
    let first = list.lines().next().unwrap_or_default();
    let heading = usize::from(first.contains("#version"));
    let pairs = list.lines().skip(heading).filter_map(|line| {
        let (first, second) = line.trim_end().split_once(' ')?;
        Some((first.to_owned(), second.to_owned()))
    });
    pairs.take(most).collect()
}

/// All bytes as characters that can be seen: those that already can first, then the others.
fn alphabet() -> impl Iterator<Item = String> {
    let seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let shown = (0..=255).filter(seen).map(char::from);
    let hidden = (0..=255_u8).filter(move |byte| !seen(byte)).count() as u32;
    let others = (256..256 + hidden).filter_map(char::from_u32);
    shown.chain(others).map(String::from)
}

fn text(path: &Path) -> Result<String, TokensError> {
    let bytes = std::fs::read(path).map_err(TokensError::io(path))?;
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(&bytes[..]).read_to_string(&mut text)
    } else {
        bytes.as_slice().read_to_string(&mut text)
    }
    .map_err(|error| broken(path, error.to_string()))?;
    Ok(text)
}

fn utf8(path: &Path) -> Result<String, TokensError> {
    let path = path.to_str().map(str::to_owned);
    path.ok_or_else(|| broken(Path::new("?"), "its path is not UTF-8".into()))
}

fn broken(path: &Path, what: String) -> TokensError {
    TokensError::Format {
        path: path.to_path_buf(),
        kind: "a vocabulary of CLIP's",
        what,
        help: "give bpe_simple_vocab_16e6.txt.gz, or vocab.json with merges.txt beside it",
    }
}
