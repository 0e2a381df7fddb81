//! Counting: bytes that are held in memory, and what was asked of stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;

/// Counts the bytes of the buffers that it has wrapped and that are still in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    held: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Meter {
    /// Bytes in use, and those that are reserved.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// The most that it ever was.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }

    /// Shares a buffer, and counts it until its last slice is gone.
    pub(crate) fn wrap<T: AsRef<[u8]> + Send + 'static>(&self, buffer: T) -> Bytes {
        let hold = self.hold(buffer.as_ref().len() as u64);
        Bytes::from_owner(Held {
            buffer,
            _hold: hold,
        })
    }

    /// Counts bytes until the value is dropped.
    pub(crate) fn hold(&self, bytes: u64) -> Hold {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.most.fetch_max(held, Relaxed);
        Hold {
            meter: self.clone(),
            bytes,
        }
    }

    /// Counts bytes if the sum stays within `bound`.
    pub(crate) fn try_hold(&self, bytes: u64, bound: u64) -> Option<Hold> {
        let add = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= bound);
        let before = self.held.fetch_update(Relaxed, Relaxed, add).ok()?;
        self.most.fetch_max(before + bytes, Relaxed);
        Some(Hold {
            meter: self.clone(),
            bytes,
        })
    }
}

/// Some counted bytes.
#[derive(Debug)]
pub(crate) struct Hold {
    meter: Meter,
    bytes: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.meter.held.fetch_sub(self.bytes, Relaxed);
    }
}

struct Held<T> {
    buffer: T,
    _hold: Hold,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

/// What was asked of stores so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes read.
    pub bytes: u64,
    /// Requests to servers, and reads of local files.
    pub requests: u64,
    /// Requests that were repeated.
    pub retries: u64,
    /// Seconds that threads waited for reads, summed over the threads.
    pub waited_s: f64,
    /// Bytes of rows, read or being read, that are in memory now.
    pub held: u64,
    /// The most that this ever was.
    pub most_held: u64,
}

/// Adds up [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    bytes: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    waited_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn traffic(&self, meter: &Meter) -> Traffic {
        Traffic {
            held: meter.held(),
            most_held: meter.most(),
            bytes: self.bytes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            retries: self.retries.load(Relaxed),
            waited_s: self.waited_ns.load(Relaxed) as f64 / 1e9,
        }
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn waited(&self, since: Instant) {
        let ns = since.elapsed().as_nanos() as u64;
        self.waited_ns.fetch_add(ns, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_counts_until_its_last_slice_is_gone() {
        let meter = Meter::default();
        let whole = meter.wrap(vec![1u8; 100]);
        let slice = whole.slice(3..5);
        drop(whole);
        assert_eq!((meter.held(), &slice[..]), (100, &[1, 1][..]));
        assert!(meter.try_hold(51, 150).is_none());
        let hold = meter.try_hold(50, 150).unwrap();
        assert_eq!(meter.held(), 150);
        drop((slice, hold));
        assert_eq!(meter.held(), 0);
    }
}
