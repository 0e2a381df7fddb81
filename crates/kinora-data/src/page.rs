//! Headers of pages, looked at before the Parquet reader takes memory by what they claim.
//!
//! A header is a Thrift struct in the compact protocol. Of it, the sizes are read: field 2, bytes
//! once decompressed; field 3, bytes as stored; and of a dictionary (field 7) its field 1, the
//! number of its values.

/// What decompressed pages may take whatever their stored size, and how many times that size beyond.
const ALWAYS: u64 = 32 << 20;
const TIMES: u64 = 256;

/// Checks that a page's header, which these bytes begin with, claims no more than the page could
/// hold. What cannot be read as a header is left to the Parquet reader.
///
/// # Errors
/// If it claims more, saying how much.
pub fn check_header(bytes: &[u8]) -> Result<(), String> {
    let mut sizes = Sizes::default();
    // A header that goes beyond the bytes has its sizes at its start all the same.
    _ = Compact { bytes }.fields(&mut |id, value| match id {
        [2] => sizes.grown = value,
        [3] => sizes.stored = value,
        [7, 1] => sizes.values = value,
        _ => {}
    });
    let Sizes {
        grown,
        stored,
        values,
    } = sizes;
    if grown > ALWAYS.max(stored.saturating_mul(TIMES)) {
        return Err(format!(
            "a page of {stored} bytes claims to grow to {grown} bytes"
        ));
    }
    // Each value of a dictionary takes a byte at least.
    if values > grown {
        return Err(format!(
            "a dictionary of {grown} bytes claims to have {values} values"
        ));
    }
    Ok(())
}

#[derive(Default)]
struct Sizes {
    grown: u64,
    stored: u64,
    values: u64,
}

/// A reader of the compact protocol, as far as headers of pages use it. None is the end of the bytes,
/// or what no header holds.
struct Compact<'a> {
    bytes: &'a [u8],
}

// Structs within structs; headers have two.
const DEEPEST: usize = 6;

impl Compact<'_> {
    /// Calls `seen` with each integer and the numbers of the fields that lead to it. Negative ones
    /// count as 0, as the Parquet reader refuses them.
    fn fields(&mut self, seen: &mut dyn FnMut(&[u16], u64)) -> Option<()> {
        self.structure(&mut Vec::new(), seen)
    }

    fn structure(&mut self, path: &mut Vec<u16>, seen: &mut dyn FnMut(&[u16], u64)) -> Option<()> {
        if path.len() > DEEPEST {
            return None;
        }
        let mut id = 0u16;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Some(());
            }
            let step = u16::from(byte >> 4);
            id = match step {
                0 => u16::try_from(self.zigzag()?).ok()?,
                step => id.checked_add(step)?,
            };
            path.push(id);
            match byte & 0xF {
                // True and false.
                1 | 2 => {}
                3 => {
                    self.byte()?;
                }
                4..=6 => {
                    let value = self.zigzag()?;
                    seen(path, u64::try_from(value).unwrap_or(0));
                }
                // Bytes, such as the least value of a page.
                8 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    self.bytes = self.bytes.get(length..)?;
                }
                12 => self.structure(path, seen)?,
                _ => return None,
            }
            path.pop();
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type 0 or 2, then the two sizes, then what follows.
    fn header(kind: u8, grown: &[u8], stored: &[u8], rest: &[u8]) -> Vec<u8> {
        [&[0x15, kind, 0x15], grown, &[0x15], stored, rest].concat()
    }

    const HUGE: [u8; 5] = [0xFE, 0xFF, 0xFF, 0xFF, 0x0F];

    #[test]
    fn pages_may_grow_but_not_without_bound() {
        // 100 bytes to 200, 10 bytes to 2 GiB, and 16 MiB to 2 GiB.
        assert!(check_header(&header(0, &[0x90, 0x03], &[0xC8, 0x01], &[0])).is_ok());
        let error = check_header(&header(0, &HUGE, &[20], &[0])).unwrap_err();
        assert_eq!(
            error,
            "a page of 10 bytes claims to grow to 2147483647 bytes"
        );
        let large = [0x80, 0x80, 0x80, 0x10];
        assert!(check_header(&header(0, &HUGE, &large, &[0])).is_ok());
        // The sizes count even if the rest is cut off or strange.
        assert!(check_header(&header(0, &HUGE, &[20], &[])).is_err());
        assert!(check_header(&header(0, &HUGE, &[20], &[0x1D, 9])).is_err());
    }

    #[test]
    fn a_dictionary_has_no_more_values_than_bytes() {
        let of = |values: &[u8]| {
            let rest = [&[0x4C, 0x15], values, &[0x15, 0, 0, 0]].concat();
            check_header(&header(4, &[40], &[30], &rest))
        };
        assert!(of(&[40]).is_ok());
        assert!(of(&[42]).unwrap_err().contains("21 values"));
        assert!(of(&HUGE).is_err());
    }

    #[test]
    fn anything_else_is_left_alone() {
        for bytes in [&b""[..], &[0], &[0x15], &[0xFF; 40], &[0x1C; 40]] {
            assert!(check_header(bytes).is_ok(), "{bytes:?}");
        }
    }
}
