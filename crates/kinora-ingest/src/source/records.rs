//! Splitting tables into records, with bounded memory whatever the file holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use crate::hold::LONGEST_TEXT;

/// Records of a file, one after the other.
pub(super) struct Records {
    file: BufReader<File>,
    /// The delimiter of fields, if fields may be quoted and then hold line breaks.
    delimiter: Option<u8>,
    /// Where the next record begins.
    at: u64,
}

/// A record.
pub(super) enum Record {
    /// Its bytes, without the line break.
    Line(Vec<u8>),
    /// It is longer than records may be.
    TooLong,
}

impl Records {
    /// Opens a file at the beginning of a record.
    pub(super) fn open(path: &Path, delimiter: Option<u8>, at: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Self {
            file: BufReader::with_capacity(1 << 16, file),
            delimiter,
            at,
        })
    }

    /// Where the next record begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next record; `seen` gets all bytes read.
    pub(super) fn next(&mut self, mut seen: impl FnMut(&[u8])) -> io::Result<Option<Record>> {
        let mut line = Vec::new();
        let mut state = State::FieldStart;
        let (mut long, mut any) = (false, false);
        loop {
            let buffer = self.file.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            any = true;
            let room = LONGEST_TEXT as usize - line.len();
            let buffer = match long {
                true => buffer,
                false => &buffer[..buffer.len().min(room + 1)],
            };
            let end = match self.delimiter {
                None => buffer.iter().position(|&byte| byte == b'\n'),
                Some(delimiter) => buffer.iter().position(|&byte| state.step(byte, delimiter)),
            };
            let taken = end.map_or(buffer.len(), |end| end + 1);
            let read = &buffer[..taken];
            seen(read);
            long |= read.len() > room;
            line.extend_from_slice(&read[..read.len().min(room)]);
            self.at += taken as u64;
            self.file.consume(taken);
            // A quote that is never closed would swallow the rest of the file: the record ends where
            // it is too long, and the next one begins with the next line.
            if long {
                state = State::Field;
            }
            if end.is_some() {
                break;
            }
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        Ok(match (any, long) {
            (false, _) => None,
            (true, true) => Some(Record::TooLong),
            (true, false) => Some(Record::Line(line)),
        })
    }
}

/// Where in a record of quoted fields a byte lies.
enum State {
    FieldStart,
    Field,
    Quoted,
    /// Behind a quote inside of a quoted field: the end of the field, or the first half of a quote.
    Quote,
}

impl State {
    /// Whether this byte ends the record.
    fn step(&mut self, byte: u8, delimiter: u8) -> bool {
        *self = match (&self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (Self::FieldStart | Self::Quote, b'"') => Self::Quoted,
            (_, b'\n') => return true,
            (_, byte) if byte == delimiter => Self::FieldStart,
            _ => Self::Field,
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &[u8], delimiter: Option<u8>) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut records = Records::open(file.path(), delimiter, 0).unwrap();
        let mut lines = Vec::new();
        let mut bytes = 0;
        while let Some(record) = records.next(|read| bytes += read.len()).unwrap() {
            lines.push(match record {
                Record::Line(line) => String::from_utf8(line).unwrap(),
                Record::TooLong => "TOO LONG".into(),
            });
        }
        assert_eq!((bytes, records.at()), (text.len(), text.len() as u64));
        lines
    }

    #[test]
    fn records_end_at_line_breaks_outside_of_quotes() {
        assert_eq!(split(b"a\nb\r\n\nc", None), ["a", "b", "", "c"]);
        let quoted = b"a,\"x\ny\",b\n5\" disk,\"he said \"\"no\"\"\n\"\nlast";
        assert_eq!(
            split(quoted, Some(b',')),
            ["a,\"x\ny\",b", "5\" disk,\"he said \"\"no\"\"\n\"", "last"]
        );
        assert!(split(b"", None).is_empty());
    }

    #[test]
    fn an_open_quote_does_not_swallow_the_file() {
        let mut text = b"a\n\"open".to_vec();
        text.extend(vec![b'x'; LONGEST_TEXT as usize]);
        text.extend(b"\nb\n");
        assert_eq!(split(&text, Some(b',')), ["a", "TOO LONG", "b"]);
    }
}
