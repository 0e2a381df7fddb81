//! The most probable way to cut a text into pieces (Kudo 2018), found by Viterbi's algorithm.

use super::proto::{Kind, Model};
use std::collections::HashMap;

/// How much worse an unknown character is than the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Pieces with their scores.
#[derive(Debug)]
pub(super) struct Unigram {
    pieces: HashMap<Box<str>, (u32, f32)>,
    /// The longest piece, in bytes.
    longest: usize,
    unknown: u32,
    unknown_score: f32,
    /// The pieces of the 256 bytes, where unknown characters are spelled with them.
    bytes: Option<Vec<u32>>,
}

/// The best way to a place in the text.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    /// Where its last piece starts, and which it is; none before the place was reached.
    last: Option<(usize, u32)>,
}

impl Unigram {
    pub(super) fn new(model: &Model) -> Result<Self, String> {
        let normal = || {
            model
                .pieces
                .iter()
                .filter(|piece| piece.kind == Kind::Normal)
        };
        let lowest = normal()
            .map(|piece| piece.score)
            .fold(f32::INFINITY, f32::min);
        let highest = normal()
            .map(|piece| piece.score)
            .fold(f32::NEG_INFINITY, f32::max);
        let mut pieces: HashMap<Box<str>, (u32, f32)> = HashMap::new();
        let mut unknown = u32::try_from(model.unknown).unwrap_or(0);
        let mut bytes = vec![None; 256];
        for (id, piece) in (0_u32..).zip(&model.pieces) {
            match piece.kind {
                Kind::Normal => {
                    pieces.insert(piece.text.clone().into(), (id, piece.score));
                }
                Kind::UserDefined => {
                    // Better than any other way to spell it.
                    let score = piece.text.len() as f32 * highest - 0.1;
                    pieces.insert(piece.text.clone().into(), (id, score));
                }
                Kind::Unknown => unknown = id,
                Kind::Byte => {
                    let hex = piece
                        .text
                        .strip_prefix("<0x")
                        .and_then(|x| x.strip_suffix('>'));
                    let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    let byte = byte.ok_or_else(|| format!("{:?} is no byte", piece.text))?;
                    bytes[usize::from(byte)] = Some(id);
                }
                Kind::Control | Kind::Unused => {}
            }
        }
        let bytes: Option<Vec<u32>> = bytes.into_iter().collect();
        if model.byte_fallback && bytes.is_none() {
            return Err("it spells unknown characters with bytes, but some have no piece".into());
        }
        Ok(Self {
            longest: pieces.keys().map(|text| text.len()).max().unwrap_or(0),
            pieces,
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
            bytes: bytes.filter(|_| model.byte_fallback),
        })
    }

    /// The numbers of the best pieces of a normalised text.
    pub(super) fn ids(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut after_unknown = false;
        for (piece, id) in self.best(text) {
            let unknown = id == self.unknown;
            match &self.bytes {
                Some(bytes) if unknown => {
                    ids.extend(piece.bytes().map(|byte| bytes[usize::from(byte)]));
                }
                // Neighbours that are unknown are one token.
                _ if unknown && after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = unknown;
        }
        ids
    }

    fn best<'a>(&self, text: &'a str) -> Vec<(&'a str, u32)> {
        let none = Best {
            score: 0.0,
            last: None,
        };
        let mut best = vec![none; text.len() + 1];
        for (start, c) in text.char_indices() {
            let so_far = best[start].score;
            let mut reach = |end: usize, id: u32, score: f32| {
                let score = score + so_far;
                let there = &mut best[end];
                if there.last.is_none() || score > there.score {
                    *there = Best {
                        score,
                        last: Some((start, id)),
                    };
                }
            };
            let mut alone = false;
            let longest = text.len().min(start + self.longest);
            for end in start + c.len_utf8()..=longest {
                let Some(piece) = text.get(start..end) else {
                    continue;
                };
                if let Some(&(id, score)) = self.pieces.get(piece) {
                    reach(end, id, score);
                    alone |= piece.len() == c.len_utf8();
                }
            }
            if !alone {
                reach(start + c.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        let mut found = Vec::new();
        let mut end = text.len();
        while let Some((start, id)) = best[end].last {
            found.push((&text[start..end], id));
            end = start;
        }
        found.reverse();
        found
    }
}
