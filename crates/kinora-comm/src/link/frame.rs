//! What travels between two processes: a header of a few bytes, and elements of a buffer.

use super::bytes::{Reader, Writer};
use super::failure;
use crate::{CommError, Dtype, HostBuffer, Whereabouts};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The bytes before the header of a frame that say how much follows.
pub(crate) const PREFIX: usize = 24;

// Headers are short; a longer one comes from somebody who speaks another language.
const LONGEST_HEADER: usize = 1 << 24;

/// A call of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) communicator: u128,
    pub(crate) sequence: u64,
}

/// What one rank tells another when it makes a call; its elements for that rank come with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    /// The sender's place in the communicator.
    pub(crate) place: usize,
    /// Of the whole signature.
    pub(crate) fingerprint: u64,
    /// The signature, cut short.
    pub(crate) signature: String,
    /// Elements that the sender passed in.
    pub(crate) total: usize,
    /// Of an exchange: whom the sender sends to.
    pub(crate) to: Option<usize>,
    /// Of an exchange: whom the sender receives from.
    pub(crate) from: Option<usize>,
}

/// A wait of a rank, as it tells its peers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wait {
    pub(crate) place: String,
    pub(crate) since: Duration,
    pub(crate) missing: Vec<usize>,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// The sender makes a call.
    Token(Address, Token),
    /// A slice of a result, from its owner at this place.
    Slice(Address, usize),
    /// How long ago the sender gave a sign of life, and where it waits.
    Beat(Duration, Vec<Wait>),
    /// Where the sender is in its work.
    At(Whereabouts),
    /// The world's first failure, and the rank that met it.
    Fail(usize, CommError),
    /// The sender's work has ended.
    Goodbye,
    /// The sender has read all before the receiver's goodbye.
    Seen,
}

/// Elements of a buffer that others may be reading too.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) buffer: Arc<HostBuffer>,
    pub(crate) range: Range<usize>,
}

/// A message ready to travel.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) header: Vec<u8>,
    pub(crate) body: Body,
}

impl Body {
    pub(crate) fn none() -> Self {
        Self::all(Arc::new(HostBuffer::empty(Dtype::U8)))
    }

    pub(crate) fn all(buffer: Arc<HostBuffer>) -> Self {
        let range = 0..buffer.len();
        Self { buffer, range }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let width = self.buffer.dtype().size();
        &self.buffer.as_bytes()[self.range.start * width..self.range.end * width]
    }
}

const DTYPES: [Dtype; 7] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::U8,
];

/// How much follows a prefix: bytes of header, and elements of a dtype. `None` if it is no prefix.
pub(crate) fn follows(prefix: &[u8; PREFIX]) -> Option<(usize, Dtype, usize)> {
    let mut reader = Reader(prefix);
    let header = reader.number().filter(|&len| len <= LONGEST_HEADER)?;
    let dtype = *DTYPES.get(reader.number()?)?;
    let len = reader.number()?;
    // The size in bytes must be a number too.
    len.checked_mul(dtype.size())?;
    Some((header, dtype, len))
}

impl Frame {
    pub(crate) fn new(message: &Message, body: Body) -> Self {
        let header = message.write().0;
        Self { header, body }
    }

    /// The bytes that go first.
    pub(crate) fn prefix(&self) -> [u8; PREFIX] {
        let dtype = self.body.buffer.dtype();
        let dtype = DTYPES.iter().position(|&other| other == dtype);
        let prefix = Writer::default()
            .number(self.header.len())
            .number(dtype.expect("all are listed"))
            .number(self.body.range.len());
        prefix.0.try_into().expect("three numbers")
    }
}

impl Message {
    fn write(&self) -> Writer {
        let to = Writer::default();
        match self {
            Message::Token(address, token) => to
                .u8(0)
                .u128(address.communicator)
                .u64(address.sequence)
                .number(token.place)
                .u64(token.fingerprint)
                .text(&token.signature)
                .number(token.total)
                .optional(token.to)
                .optional(token.from),
            Message::Slice(address, place) => to
                .u8(1)
                .u128(address.communicator)
                .u64(address.sequence)
                .number(*place),
            Message::Beat(age, waits) => {
                let to = to.u8(2).time(*age).number(waits.len());
                waits.iter().fold(to, |to, wait| {
                    to.text(&wait.place).time(wait.since).numbers(&wait.missing)
                })
            }
            Message::Fail(rank, error) => failure::write(to.u8(3).number(*rank), error),
            Message::Goodbye => to.u8(4),
            Message::Seen => to.u8(5),
            Message::At(seen) => to.u8(6).text(seen.place().unwrap_or_default()),
        }
    }

    pub(crate) fn read(header: &[u8]) -> Option<Self> {
        let mut from = Reader(header);
        let kind = from.u8()?;
        let address = |from: &mut Reader<'_>| {
            Some(Address {
                communicator: from.u128()?,
                sequence: from.u64()?,
            })
        };
        Some(match kind {
            0 => {
                let address = address(&mut from)?;
                let token = Token {
                    place: from.number()?,
                    fingerprint: from.u64()?,
                    signature: from.text()?,
                    total: from.number()?,
                    to: from.optional()?,
                    from: from.optional()?,
                };
                Message::Token(address, token)
            }
            1 => Message::Slice(address(&mut from)?, from.number()?),
            2 => {
                let age = from.time()?;
                let count = from.number()?;
                let mut waits = vec![];
                for _ in 0..count {
                    waits.push(Wait {
                        place: from.text()?,
                        since: from.time()?,
                        missing: from.numbers()?,
                    });
                }
                Message::Beat(age, waits)
            }
            3 => Message::Fail(from.number()?, failure::read(&mut from)?),
            4 => Message::Goodbye,
            5 => Message::Seen,
            6 => Message::At(Whereabouts::at(&from.text()?)),
            _ => return None,
        })
    }
}

// FNV-1a, 64 and 128 bits: the same on every machine, which the standard library does not promise.
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The communicator that a split makes for a color: all members find the same one, and no other
/// split does.
pub(crate) fn child(parent: Address, color: usize) -> u128 {
    let path = Writer::default()
        .u128(parent.communicator)
        .u64(parent.sequence)
        .number(color)
        .0;
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    path.into_iter().fold(start, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    })
}

/// A signature of at most a few hundred bytes, still unlike another's if they differ.
pub(crate) fn shorten(signature: &str) -> String {
    if signature.len() <= 240 {
        return signature.to_string();
    }
    let (short, print) = (
        signature.chars().take(180).collect::<String>(),
        fingerprint(signature),
    );
    format!("{short} ... (in full {print:016x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_way() {
        let address = Address {
            communicator: u128::MAX - 3,
            sequence: 12,
        };
        let messages = [
            Message::Token(
                address,
                Token {
                    place: 2,
                    fingerprint: 77,
                    signature: "all-reduce".into(),
                    total: 5,
                    to: None,
                    from: Some(0),
                },
            ),
            Message::Slice(address, 3),
            Message::Beat(
                Duration::from_millis(3),
                vec![Wait {
                    place: "x".into(),
                    since: Duration::from_secs(2),
                    missing: vec![1, 4],
                }],
            ),
            Message::Fail(
                1,
                CommError::Aborted {
                    rank: 1,
                    reason: "r".into(),
                },
            ),
            Message::Goodbye,
            Message::Seen,
            Message::At(Whereabouts::at("step 118")),
        ];
        for message in messages {
            let bytes = message.write().0;
            assert_eq!(Message::read(&bytes), Some(message));
            for end in 0..bytes.len() {
                assert_eq!(Message::read(&bytes[..end]), None);
            }
        }
        let buffer = Arc::new(HostBuffer::from(vec![1.0_f32, 2.0, 3.0]));
        let frame = Frame::new(
            &Message::Seen,
            Body {
                buffer,
                range: 1..3,
            },
        );
        assert_eq!(follows(&frame.prefix()), Some((1, Dtype::F32, 2)));
        assert_eq!(
            frame.body.bytes(),
            [2.0_f32.to_ne_bytes(), 3.0_f32.to_ne_bytes()].concat()
        );
        assert_eq!(follows(&[255; PREFIX]), None);
    }

    #[test]
    fn long_signatures_stay_apart() {
        let long = |end: &str| format!("{}{end}", "7, ".repeat(1000));
        let (a, b) = (shorten(&long("a")), shorten(&long("b")));
        assert!(a != b && a.len() < 300, "{a}");
    }

    #[test]
    fn communicators_are_unlike() {
        let mut all = std::collections::HashSet::new();
        for parent in 0..20 {
            for sequence in 0..20 {
                for color in 0..50 {
                    let at = Address {
                        communicator: parent,
                        sequence,
                    };
                    assert!(all.insert(child(at, color)));
                }
            }
        }
    }
}
