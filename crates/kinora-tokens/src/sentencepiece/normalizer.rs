//! A text as the pieces are spelled: characters mapped, blanks joined and made visible.

use super::charsmap::CharsMap;
use super::proto::{Kind, Model};

/// How a blank is written in pieces.
const BLANK: char = '\u{2581}';

/// What a model does to a text first (SentencePiece, normalizer.cc).
#[derive(Debug)]
pub(super) struct Normalizer {
    map: Option<CharsMap>,
    /// Pieces that are left as they are, the longest first.
    protected: Vec<String>,
    prefix: bool,
    suffix: bool,
    join: bool,
    blank: char,
}

impl Normalizer {
    pub(super) fn new(model: &Model) -> Result<Self, String> {
        let mut protected: Vec<String> = model
            .pieces
            .iter()
            .filter(|piece| piece.kind == Kind::UserDefined && !piece.text.is_empty())
            .map(|piece| piece.text.clone())
            .collect();
        protected.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(Self {
            map: CharsMap::read(&model.charsmap)?,
            protected,
            prefix: model.dummy_prefix && !model.space_is_suffix,
            suffix: model.dummy_prefix && model.space_is_suffix,
            join: model.join_spaces,
            blank: if model.escape_spaces { BLANK } else { ' ' },
        })
    }

    pub(super) fn normalize(&self, text: &str) -> String {
        let mut rest = text;
        while self.join && !rest.is_empty() {
            let (len, result) = self.next(rest);
            if result != " " {
                break;
            }
            rest = &rest[len..];
        }
        let mut out = String::with_capacity(text.len() + BLANK.len_utf8());
        if rest.is_empty() {
            return out;
        }
        if self.prefix {
            out.push(self.blank);
        }
        let mut after_blank = self.join;
        while !rest.is_empty() {
            let (len, mut result) = self.next(rest);
            if after_blank {
                result = result.trim_start_matches(' ');
            }
            if !result.is_empty() {
                out.extend(
                    result
                        .chars()
                        .map(|c| if c == ' ' { self.blank } else { c }),
                );
                after_blank = self.join && result.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if self.join {
            out.truncate(out.trim_end_matches(self.blank).len());
        }
        if self.suffix {
            out.push(self.blank);
        }
        out
    }

    /// How many bytes are taken from the start of `text`, and what they become.
    fn next<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if let Some(piece) = self.protected.iter().find(|p| text.starts_with(p.as_str())) {
            return (piece.len(), &text[..piece.len()]);
        }
        if let Some(found) = self.map.as_ref().and_then(|map| map.longest(text)) {
            return found;
        }
        let len = text.chars().next().map_or(0, char::len_utf8);
        (len, &text[..len])
    }
}
