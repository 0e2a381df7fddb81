//! The few fields of SentencePiece's protocol buffer (sentencepiece_model.proto) that encoding needs.

/// The kind of model that is read.
pub(super) const UNIGRAM: u64 = 1;

/// What a model file says.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pieces: Vec<Piece>,
    pub(super) kind: u64,
    pub(super) byte_fallback: bool,
    pub(super) space_is_suffix: bool,
    /// Numbers of special pieces; negative where there is none.
    pub(super) unknown: i32,
    pub(super) end: i32,
    pub(super) pad: i32,
    pub(super) charsmap: Vec<u8>,
    pub(super) dummy_prefix: bool,
    pub(super) join_spaces: bool,
    pub(super) escape_spaces: bool,
}

/// One entry of the vocabulary.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Normal,
    Unknown,
    /// A mark that no text contains.
    Control,
    /// Always a token of its own, and never normalised.
    UserDefined,
    /// In the table, but never chosen.
    Unused,
    /// One byte of a character that no piece spells.
    Byte,
}

impl Model {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            kind: UNIGRAM,
            byte_fallback: false,
            space_is_suffix: false,
            unknown: 0,
            end: 2,
            pad: -1,
            charsmap: Vec::new(),
            dummy_prefix: true,
            join_spaces: true,
            escape_spaces: true,
        };
        fields(bytes, |number, value| {
            match (number, value) {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Value::Bytes(trainer)) => fields(trainer, |number, value| {
                    match (number, value) {
                        (3, Value::Number(kind)) => model.kind = kind,
                        (24, Value::Number(on)) => model.space_is_suffix = on != 0,
                        (35, Value::Number(on)) => model.byte_fallback = on != 0,
                        // Negative numbers are written as 64 bits; the lower half is the number.
                        (40, Value::Number(id)) => model.unknown = id as i32,
                        (42, Value::Number(id)) => model.end = id as i32,
                        (43, Value::Number(id)) => model.pad = id as i32,
                        _ => {}
                    }
                    Ok(())
                })?,
                (3, Value::Bytes(normalizer)) => fields(normalizer, |number, value| {
                    match (number, value) {
                        (2, Value::Bytes(map)) => model.charsmap = map.to_vec(),
                        (3, Value::Number(on)) => model.dummy_prefix = on != 0,
                        (4, Value::Number(on)) => model.join_spaces = on != 0,
                        (5, Value::Number(on)) => model.escape_spaces = on != 0,
                        _ => {}
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        Ok(model)
    }

    /// The number of a special piece: the one that the trainer wrote down, or the one of that text.
    pub(super) fn special(&self, written: i32, text: &str) -> Option<u32> {
        let is = |id: usize| self.pieces.get(id).is_some_and(|piece| piece.text == text);
        let written = usize::try_from(written).ok().filter(|&id| is(id));
        let found = written.or_else(|| self.pieces.iter().position(|piece| piece.text == text));
        found.and_then(|id| u32::try_from(id).ok())
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self::default();
        fields(bytes, |number, value| {
            match (number, value) {
                (1, Value::Bytes(text)) => {
                    piece.text = String::from_utf8(text.to_vec())
                        .map_err(|_| "a piece is not UTF-8".to_owned())?;
                }
                (2, Value::Float(score)) => piece.score = score,
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        kind => return Err(format!("a piece is of the unknown kind {kind}")),
                    };
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(piece)
    }
}

/// The value of one field.
enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    /// Eight bytes: no field that is read has them.
    Other,
}

/// Calls `each` with the number and the value of every field of a message.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        let key = number(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                Value::Other
            }
            2 => {
                let len = number(&mut bytes)?;
                Value::Bytes(take(
                    &mut bytes,
                    usize::try_from(len).unwrap_or(usize::MAX),
                )?)
            }
            5 => {
                let four = take(&mut bytes, 4)?;
                Value::Float(f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            }
            wire => return Err(format!("a field has the unknown wire type {wire}")),
        };
        each(key >> 3, value)?;
    }
    Ok(())
}

fn number(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number has more than 64 bits".into())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (head, tail) = bytes
        .split_at_checked(len)
        .ok_or_else(|| format!("it ends {} bytes too early", len - bytes.len()))?;
    *bytes = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_refused() {
        // A piece "a" with the score 0.5, of kind 1.
        let piece = [10, 3, b'a', 0xcc, 0x88, 21, 0, 0, 0, 63, 24, 1];
        let mut file = vec![10, piece.len() as u8];
        file.extend(piece);
        let model = Model::read(&file).unwrap();
        assert_eq!(model.pieces[0].text, "a\u{308}");
        assert_eq!(model.pieces[0].score, 0.5);
        assert_eq!(model.special(-1, "a\u{308}"), Some(0));
        for len in 1..file.len() {
            assert!(Model::read(&file[..len]).is_err(), "{len} bytes");
        }
        assert!(Model::read(&[]).is_err());
        assert!(Model::read(b"not a protocol buffer").is_err());
    }
}
