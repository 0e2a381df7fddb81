//! MP4's boxes and the numbers in them, with every read checked.

use crate::MediaError;

/// One box: its name and what is inside.
pub(crate) struct Part<'a> {
    pub(crate) name: [u8; 4],
    pub(crate) body: &'a [u8],
    /// Where the box begins in the bytes that were walked.
    pub(crate) start: u64,
}

/// Walks over the boxes that fill some bytes. Ends after the first error.
pub(crate) struct Boxes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Boxes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn part(&mut self) -> Result<Part<'a>, MediaError> {
        let start = self.at;
        let mut fields = Fields::new(&self.bytes[start..], "header");
        let short = u64::from(fields.u32()?);
        let mut name = [0; 4];
        name.copy_from_slice(fields.take(4)?);
        let (size, head) = match short {
            // The last box may leave its size out.
            0 => ((self.bytes.len() - start) as u64, 8),
            1 => (fields.u64()?, 16),
            size => (size, 8),
        };
        let left = (self.bytes.len() - start) as u64;
        if size < head || size > left {
            return Err(MediaError::mp4(format!(
                "box {:?} of {size} bytes, where {left} are left",
                String::from_utf8_lossy(&name)
            )));
        }
        let end = start + size as usize;
        self.at = end;
        Ok(Part {
            name,
            body: &self.bytes[start + head as usize..end],
            start: start as u64,
        })
    }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<Part<'a>, MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.at = self.bytes.len();
        }
        Some(part)
    }
}

/// The inside of the first box of a name.
pub(crate) fn child<'a>(body: &'a [u8], name: &[u8; 4]) -> Result<&'a [u8], MediaError> {
    for part in Boxes::new(body) {
        let part = part?;
        if &part.name == name {
            return Ok(part.body);
        }
    }
    Err(MediaError::mp4(format!(
        "no {} box",
        String::from_utf8_lossy(name)
    )))
}

/// Big-endian numbers, one after the other.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], MediaError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(count)
            .ok_or_else(|| MediaError::mp4(format!("box {:?} ends too early", self.what)))?;
        self.bytes = tail;
        Ok(head)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), MediaError> {
        self.take(count).map(|_| ())
    }

    /// The version of a box that has one, past its flags.
    pub(crate) fn version(&mut self) -> Result<u8, MediaError> {
        Ok((self.u32()? >> 24) as u8)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, MediaError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, MediaError> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, MediaError> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, MediaError> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }
}
