//! Numbers and texts as bytes, in the order of the smallest first.

use std::time::Duration;

/// Appends.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u128(mut self, value: u128) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn number(self, value: usize) -> Self {
        self.u64(value as u64)
    }

    /// A number that may be absent; the largest stands for that.
    pub(crate) fn optional(self, value: Option<usize>) -> Self {
        self.u64(value.map_or(u64::MAX, |value| value as u64))
    }

    pub(crate) fn time(self, value: Duration) -> Self {
        self.u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Self {
        let mut longer = self.number(value.len());
        longer.0.extend_from_slice(value);
        longer
    }

    pub(crate) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn numbers(self, values: &[usize]) -> Self {
        let longer = self.number(values.len());
        values.iter().fold(longer, |to, &value| to.number(value))
    }
}

/// Reads what a [`Writer`] wrote; `None` where it ends too early.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }

    pub(crate) fn number(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok()
    }

    pub(crate) fn optional(&mut self) -> Option<Option<usize>> {
        match self.u64()? {
            u64::MAX => Some(None),
            value => Some(Some(usize::try_from(value).ok()?)),
        }
    }

    pub(crate) fn time(&mut self) -> Option<Duration> {
        Some(Duration::from_micros(self.u64()?))
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(crate) fn numbers(&mut self) -> Option<Vec<usize>> {
        let len = self.number()?;
        // A length that the bytes cannot hold must not ask for memory.
        if len > self.0.len() / 8 {
            return None;
        }
        (0..len).map(|_| self.number()).collect()
    }
}
