//! The bytes of a shard, as the Parquet reader asks for them.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::page::check_header;
use crate::store::{LocalFile, StoreError};

/// A shard that is read: a local file page by page, or what was fetched of a remote one.
///
/// The Parquet reader knows only its own errors, so that a store's error is kept here meanwhile.
#[derive(Clone)]
pub(crate) struct Source {
    bytes: Arc<Content>,
    trouble: Arc<Mutex<Option<StoreError>>>,
}

enum Content {
    Local(LocalFile),
    /// By ascending start; and the whole file's size.
    Fetched(Vec<(Range<u64>, Bytes)>, u64),
}

impl Source {
    pub(crate) fn local(file: LocalFile) -> Self {
        Self::new(Content::Local(file))
    }

    /// Ranges of a file of `size` bytes.
    pub(crate) fn fetched(ranges: Vec<Range<u64>>, bytes: Vec<Bytes>, size: u64) -> Self {
        let mut parts: Vec<_> = ranges.into_iter().zip(bytes).collect();
        parts.sort_unstable_by_key(|(range, _)| range.start);
        Self::new(Content::Fetched(parts, size))
    }

    fn new(bytes: Content) -> Self {
        Self {
            bytes: Arc::new(bytes),
            trouble: Arc::default(),
        }
    }

    /// The store's error behind the Parquet reader's, if there is one.
    pub(crate) fn trouble(&self) -> Option<StoreError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take()
    }

    /// Checks the header of the page that begins here.
    pub(crate) fn check_page(&self, start: u64) -> Result<(), ParquetError> {
        let bytes = self.piece(start, HEADER)?;
        check_header(&bytes).map_err(ParquetError::General)
    }

    /// Up to `length` bytes from `start` on; fewer only at the end of what there is.
    fn piece(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match &*self.bytes {
            Content::Local(file) => {
                let end = start.saturating_add(length as u64).min(file.size());
                if start >= end {
                    return Ok(Bytes::new());
                }
                file.read(start..end).map_err(|error| {
                    let text = error.to_string();
                    let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                    *trouble = Some(error);
                    ParquetError::General(text)
                })
            }
            Content::Fetched(parts, _) => {
                let at = parts.partition_point(|(range, _)| range.start <= start);
                let part = at.checked_sub(1).map(|at| &parts[at]);
                let Some((range, bytes)) = part.filter(|(range, _)| start < range.end) else {
                    return Ok(Bytes::new());
                };
                let from = (start - range.start) as usize;
                Ok(bytes.slice(from..bytes.len().min(from.saturating_add(length))))
            }
        }
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match &*self.bytes {
            Content::Local(file) => file.size(),
            Content::Fetched(_, size) => *size,
        }
    }
}

impl ChunkReader for Source {
    type T = Reading;

    fn get_read(&self, start: u64) -> Result<Reading, ParquetError> {
        Ok(Reading {
            source: self.clone(),
            at: start,
            ready: Bytes::new(),
            checked: false,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // The length is checked against the file before memory is taken for it.
        let bytes = self.piece(start, length)?;
        if bytes.len() != length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes are wanted at {start}, where {} are",
                bytes.len()
            )));
        }
        Ok(bytes)
    }
}

/// Reads on from some byte, for headers of pages, whose length nobody knows before.
pub(crate) struct Reading {
    source: Source,
    at: u64,
    ready: Bytes,
    checked: bool,
}

const HEADER: usize = 1024;

impl Read for Reading {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() && !into.is_empty() {
            let length = into.len().max(HEADER);
            self.ready = self
                .source
                .piece(self.at, length)
                .map_err(io::Error::other)?;
            self.at += self.ready.len() as u64;
            if !self.checked {
                check_header(&self.ready).map_err(io::Error::other)?;
                self.checked = true;
            }
        }
        let taken = self.ready.split_to(into.len().min(self.ready.len()));
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fetched_is_found_and_nothing_else() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let source = Source::fetched(
            vec![100..106, 10..13],
            vec![bytes("abcdef"), bytes("xyz")],
            1000,
        );
        assert_eq!(source.len(), 1000);
        assert_eq!(source.get_bytes(101, 3).unwrap(), "bcd");
        assert_eq!(source.get_bytes(10, 3).unwrap(), "xyz");
        for (start, length) in [(9, 1), (12, 2), (13, 1), (99, 2), (105, 2), (u64::MAX, 9)] {
            assert!(source.get_bytes(start, length).is_err(), "{start}");
        }
        let mut text = String::new();
        source
            .get_read(103)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "def");
    }
}
