//! One tokenizer for all kinds of files, and what models do around it: clean, mark, cut and pad.

use crate::clip::{self, Clip};
use crate::sentencepiece::SentencePiece;
use crate::{Clean, TokensError, byt5, hugging_face};
use std::fmt;
use std::path::Path;

/// Prompts to numbers.
///
/// ```
/// use kinora_tokens::{Length, Tokenizer};
/// let tokens = Tokenizer::byt5().encode(&["Hi", ""], Length::AtMost(8))?;
/// assert_eq!(tokens.ids, [[75, 108, 1], [1, 0, 0]]);
/// assert_eq!(tokens.mask, [[true, true, true], [true, false, false]]);
/// # Ok::<(), kinora_tokens::TokensError>(())
/// ```
pub struct Tokenizer {
    kind: Kind,
    clean: Clean,
    pad: u32,
}

enum Kind {
    HuggingFace(Box<tokenizers::Tokenizer>),
    Clip(Box<Clip>),
    SentencePiece(Box<SentencePiece>),
    Byt5,
}

/// How long the rows of [`Tokens`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As the longest prompt, which is cut at so many tokens.
    AtMost(usize),
    /// So many: what is longer is cut, what is shorter padded. Wan's 512, CLIP's 77.
    Exactly(usize),
}

/// Prompts as numbers, rows of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `[B][L]`.
    pub ids: Vec<Vec<u32>>,
    /// `[B][L]`, false for padding.
    pub mask: Vec<Vec<bool>>,
}

const FILES: [&str; 6] = [
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.model",
    "vocab.json",
    "bpe_simple_vocab_16e6.txt.gz",
    "bpe_simple_vocab_16e6.txt",
];

impl Tokenizer {
    /// The tokenizer in a file, or the first in a folder of `tokenizer.json`, `spiece.model`,
    /// `sentencepiece.model`, `vocab.json` (with `merges.txt`) and `bpe_simple_vocab_16e6.txt.gz`.
    ///
    /// # Errors
    /// [`TokensError::Unknown`] where there is none, and those of reading it.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let file = if path.is_dir() {
            FILES
                .iter()
                .map(|name| path.join(name))
                .find(|at| at.is_file())
        } else {
            Some(path.to_path_buf())
        };
        let unknown = || TokensError::Unknown {
            path: path.to_path_buf(),
            looked: &FILES,
        };
        let file = file.ok_or_else(unknown)?;
        let name = file.file_name().and_then(|name| name.to_str());
        match name.ok_or_else(unknown)? {
            "vocab.json" => Self::clip(&file, &file.with_file_name("merges.txt")),
            name if name.ends_with(".json") => Self::hugging_face(&file),
            name if name.ends_with(".model") => Self::sentencepiece(&file),
            name if name.ends_with(".txt") || name.ends_with(".txt.gz") => Self::open_clip(&file),
            _ => Err(unknown()),
        }
    }

    /// The pipeline of a `tokenizer.json`, with the marks that it adds; prompts are not cleaned first.
    ///
    /// # Errors
    /// [`TokensError::Io`] and [`TokensError::Format`].
    pub fn hugging_face(path: &Path) -> Result<Self, TokensError> {
        let (tokenizer, pad) = hugging_face::open(path)?;
        Ok(Self {
            kind: Kind::HuggingFace(Box::new(tokenizer)),
            clean: Clean::None,
            pad,
        })
    }

    /// CLIP's byte pairs from Hugging Face's `vocab.json` and `merges.txt`: cleaned in lower case,
    /// marked at both ends and padded with the end mark.
    ///
    /// # Errors
    /// [`TokensError::Io`] and [`TokensError::Format`].
    pub fn clip(vocabulary: &Path, merges: &Path) -> Result<Self, TokensError> {
        let clip = clip::from_vocabulary(vocabulary, merges)?;
        Ok(Self {
            pad: clip.end,
            kind: Kind::Clip(Box::new(clip)),
            clean: clip::CLEAN,
        })
    }

    /// CLIP's byte pairs from open_clip's list of merges, packed or not: cleaned in lower case, marked
    /// at both ends and padded with zeros.
    ///
    /// # Errors
    /// [`TokensError::Io`] and [`TokensError::Format`].
    pub fn open_clip(path: &Path) -> Result<Self, TokensError> {
        Ok(Self {
            kind: Kind::Clip(Box::new(clip::from_merges(path)?)),
            clean: clip::CLEAN,
            pad: 0,
        })
    }

    /// A SentencePiece model, with the end mark that T5 adds; prompts are not cleaned first.
    ///
    /// # Errors
    /// [`TokensError::Io`] and [`TokensError::Format`].
    pub fn sentencepiece(path: &Path) -> Result<Self, TokensError> {
        let model = SentencePiece::open(path)?;
        Ok(Self {
            pad: model.pad().unwrap_or(0),
            kind: Kind::SentencePiece(Box::new(model)),
            clean: Clean::None,
        })
    }

    /// ByT5's bytes, with its end mark.
    pub fn byt5() -> Self {
        Self {
            kind: Kind::Byt5,
            clean: Clean::None,
            pad: byt5::PAD,
        }
    }

    /// The same tokenizer of prompts cleaned in this way first. Wan cleans with
    /// [`Clean::Whitespace`].
    pub fn cleaning(self, clean: Clean) -> Self {
        Self { clean, ..self }
    }

    /// The same tokenizer with another padding token.
    pub fn padding_with(self, pad: u32) -> Self {
        Self { pad, ..self }
    }

    /// The number of a padding token.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The numbers of a prompt, without marks.
    ///
    /// # Errors
    /// [`TokensError::Text`] if the vocabulary cannot spell it.
    pub fn ids(&self, prompt: &str) -> Result<Vec<u32>, TokensError> {
        self.plain(&self.clean.apply(prompt))
    }

    /// The numbers of prompts with their marks, cut and padded to rows of one length.
    ///
    /// # Errors
    /// [`TokensError::TooShort`] if the marks alone fill the length, and [`TokensError::Text`] if the
    /// vocabulary cannot spell a prompt.
    pub fn encode<S: AsRef<str>>(
        &self,
        prompts: &[S],
        length: Length,
    ) -> Result<Tokens, TokensError> {
        let (Length::AtMost(longest) | Length::Exactly(longest)) = length;
        let marks = self.marks();
        if longest <= marks {
            let length = longest;
            return Err(TokensError::TooShort { length, marks });
        }
        let rows = prompts
            .iter()
            .map(|prompt| self.marked(&self.clean.apply(prompt.as_ref()), longest));
        let rows: Vec<Vec<u32>> = rows.collect::<Result<_, _>>()?;
        let width = match length {
            Length::AtMost(_) => rows.iter().map(Vec::len).max().unwrap_or(0),
            Length::Exactly(width) => width,
        };
        let mask = |row: &Vec<u32>| (0..width).map(|i| i < row.len()).collect();
        Ok(Tokens {
            mask: rows.iter().map(mask).collect(),
            ids: rows
                .into_iter()
                .map(|mut row| {
                    row.resize(width, self.pad);
                    row
                })
                .collect(),
        })
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => hugging_face::ids(tokenizer, text),
            Kind::Clip(clip) => hugging_face::ids(&clip.tokenizer, text),
            Kind::SentencePiece(model) => Ok(model.ids(text)),
            Kind::Byt5 => Ok(byt5::ids(text)),
        }
    }

    /// How many marks are added to a prompt.
    fn marks(&self) -> usize {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => hugging_face::marks(tokenizer),
            Kind::Clip(_) => 2,
            Kind::SentencePiece(model) => usize::from(model.end().is_some()),
            Kind::Byt5 => 1,
        }
    }

    fn marked(&self, text: &str, longest: usize) -> Result<Vec<u32>, TokensError> {
        let (start, end) = match &self.kind {
            Kind::HuggingFace(tokenizer) => return hugging_face::marked(tokenizer, text, longest),
            Kind::Clip(clip) => (Some(clip.start), Some(clip.end)),
            Kind::SentencePiece(model) => (None, model.end()),
            Kind::Byt5 => (None, Some(byt5::END)),
        };
        let mut ids = self.plain(text)?;
        ids.truncate(longest - self.marks());
        Ok(start.into_iter().chain(ids).chain(end).collect())
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::HuggingFace(_) => "tokenizer.json",
            Kind::Clip(_) => "CLIP",
            Kind::SentencePiece(_) => "SentencePiece",
            Kind::Byt5 => "ByT5",
        };
        f.debug_struct("Tokenizer")
            .field("kind", &kind)
            .field("clean", &self.clean)
            .field("pad", &self.pad)
            .finish()
    }
}
