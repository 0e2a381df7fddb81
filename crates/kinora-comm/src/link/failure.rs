//! A world's first failure, as one process tells it to another.

use super::bytes::{Reader, Writer};
use crate::{CommError, Whereabouts};

/// Appends an error.
pub(crate) fn write(to: Writer, error: &CommError) -> Writer {
    match error {
        CommError::Mismatch {
            communicator,
            sequence,
            first,
            first_call,
            second,
            second_call,
            first_seen,
            second_seen,
        } => to
            .u8(0)
            .text(communicator)
            .u64(*sequence)
            .number(*first)
            .text(first_call)
            .number(*second)
            .text(second_call)
            .text(said(first_seen))
            .text(said(second_seen)),
        CommError::PeerLost {
            rank,
            operation,
            communicator,
            sequence,
            cause,
            seen,
        } => to
            .u8(1)
            .number(*rank)
            .text(operation)
            .text(communicator)
            .u64(*sequence)
            .text(cause)
            .text(said(seen)),
        CommError::Late {
            rank,
            operation,
            communicator,
            sequence,
            waited,
            seen,
        } => to
            .u8(2)
            .number(*rank)
            .text(operation)
            .text(communicator)
            .u64(*sequence)
            .time(*waited)
            .text(said(seen)),
        CommError::Deadlock {
            first,
            first_call,
            second,
            second_call,
            first_seen,
            second_seen,
        } => to
            .u8(3)
            .number(*first)
            .text(first_call)
            .number(*second)
            .text(second_call)
            .text(said(first_seen))
            .text(said(second_seen)),
        CommError::Aborted { rank, reason } => to.u8(4).number(*rank).text(reason),
        CommError::BadLength {
            operation,
            rank,
            wanted,
            found,
        } => to
            .u8(5)
            .text(operation)
            .number(*rank)
            .number(*wanted)
            .number(*found),
        CommError::BadCall { operation, what } => to.u8(6).text(operation).text(what),
        CommError::Unsupported {
            operation,
            transport,
            what,
        } => to.u8(7).text(operation).text(transport).text(what),
        CommError::Absent {
            ranks,
            address,
            waited,
            why,
        } => to
            .u8(8)
            .numbers(ranks)
            .text(address)
            .time(*waited)
            .text(why),
        CommError::Refused { address, what } => to.u8(9).text(address).text(what),
        CommError::Missing { what, help } => to.u8(10).text(what).text(help),
        CommError::Native {
            operation,
            place,
            what,
        } => to.u8(11).text(operation).text(place).text(what),
    }
}

/// A place, or nothing.
fn said(seen: &Whereabouts) -> &str {
    seen.place().unwrap_or_default()
}

/// Reads an error.
pub(crate) fn read(from: &mut Reader<'_>) -> Option<CommError> {
    Some(match from.u8()? {
        0 => CommError::Mismatch {
            communicator: from.text()?,
            sequence: from.u64()?,
            first: from.number()?,
            first_call: from.text()?,
            second: from.number()?,
            second_call: from.text()?,
            first_seen: seen(from)?,
            second_seen: seen(from)?,
        },
        1 => CommError::PeerLost {
            rank: from.number()?,
            operation: from.text()?,
            communicator: from.text()?,
            sequence: from.u64()?,
            cause: from.text()?,
            seen: seen(from)?,
        },
        2 => CommError::Late {
            rank: from.number()?,
            operation: from.text()?,
            communicator: from.text()?,
            sequence: from.u64()?,
            waited: from.time()?,
            seen: seen(from)?,
        },
        3 => CommError::Deadlock {
            first: from.number()?,
            first_call: from.text()?,
            second: from.number()?,
            second_call: from.text()?,
            first_seen: seen(from)?,
            second_seen: seen(from)?,
        },
        4 => CommError::Aborted {
            rank: from.number()?,
            reason: from.text()?,
        },
        5 => CommError::BadLength {
            operation: from.text()?,
            rank: from.number()?,
            wanted: from.number()?,
            found: from.number()?,
        },
        6 => CommError::BadCall {
            operation: from.text()?,
            what: from.text()?,
        },
        7 => CommError::Unsupported {
            operation: from.text()?,
            transport: known(&from.text()?),
            what: from.text()?,
        },
        8 => CommError::Absent {
            ranks: from.numbers()?,
            address: from.text()?,
            waited: from.time()?,
            why: from.text()?,
        },
        9 => CommError::Refused {
            address: from.text()?,
            what: from.text()?,
        },
        10 => CommError::Missing {
            what: from.text()?,
            help: from.text()?,
        },
        11 => CommError::Native {
            operation: from.text()?,
            place: from.text()?,
            what: from.text()?,
        },
        _ => return None,
    })
}

fn seen(from: &mut Reader<'_>) -> Option<Whereabouts> {
    from.text().map(|place| Whereabouts::at(&place))
}

fn known(transport: &str) -> &'static str {
    let names = ["local", "tcp", "mpi", "nccl"];
    names
        .into_iter()
        .find(|&name| name == transport)
        .unwrap_or("peer's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_error_survives_the_way() {
        let text = |text: &str| text.to_string();
        let waited = Duration::from_micros(1_234_567);
        let errors = [
            CommError::Mismatch {
                communicator: text("world"),
                sequence: 7,
                first: 1,
                first_call: text("a"),
                second: 2,
                second_call: text("b"),
                first_seen: Whereabouts::at("step 5"),
                second_seen: Whereabouts::default(),
            },
            CommError::PeerLost {
                rank: 3,
                operation: text("sum"),
                communicator: text("tp[0, 3]"),
                sequence: 9,
                cause: text("it panicked: \u{e9}"),
                seen: Whereabouts::default(),
            },
            CommError::Late {
                rank: 3,
                operation: text("sum"),
                communicator: text("world"),
                sequence: 9,
                waited,
                seen: Whereabouts::at("step 118"),
            },
            CommError::Deadlock {
                first: 1,
                first_call: text("a"),
                second: 2,
                second_call: text("b"),
                first_seen: Whereabouts::at("step 5"),
                second_seen: Whereabouts::default(),
            },
            CommError::Aborted {
                rank: 5,
                reason: text("enough"),
            },
            CommError::BadLength {
                operation: text("sum"),
                rank: 1,
                wanted: 3,
                found: 4,
            },
            CommError::BadCall {
                operation: text("sum"),
                what: text("nonsense"),
            },
            CommError::Unsupported {
                operation: text("sum"),
                transport: "tcp",
                what: text("device buffers"),
            },
            CommError::Absent {
                ranks: vec![2, 5],
                address: text("10.0.0.1:29500"),
                waited,
                why: String::new(),
            },
            CommError::Refused {
                address: text("10.0.0.1:29500"),
                what: text("size"),
            },
        ];
        for error in errors {
            let bytes = write(Writer::default(), &error).0;
            assert_eq!(read(&mut Reader(&bytes)).as_ref(), Some(&error));
            for end in 0..bytes.len() {
                assert_eq!(read(&mut Reader(&bytes[..end])), None, "{error}");
            }
        }
    }
}
