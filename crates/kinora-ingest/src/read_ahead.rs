//! How much may be under way between the source and the writer.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Items that were read and are not written yet. Bounded in number and bytes, but for a single item
/// that is larger than the bound.
pub(crate) struct ReadAhead {
    most_items: usize,
    most_bytes: u64,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    items: BTreeMap<u64, (u64, String)>,
    bytes: u64,
    stopped: bool,
}

impl ReadAhead {
    pub(crate) fn new(most_items: usize, most_bytes: u64) -> Self {
        Self {
            most_items,
            most_bytes,
            held: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Counts stay right when a thread panics between two of them.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an item of so many bytes may be read; false if all is over.
    pub(crate) fn take(&self, index: u64, bytes: u64, key: &str) -> bool {
        let mut held = self.lock();
        while !held.stopped
            && !held.items.is_empty()
            && (held.items.len() >= self.most_items || held.bytes + bytes > self.most_bytes)
        {
            // Whoever waits for the writer is told when it ends; the time limit is only for safety.
            let waited = self.changed.wait_timeout(held, Duration::from_secs(1));
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        held.bytes += bytes;
        held.items.insert(index, (bytes, key.to_owned()));
        !held.stopped
    }

    /// An item is written.
    pub(crate) fn give(&self, index: u64) {
        let mut held = self.lock();
        if let Some((bytes, _)) = held.items.remove(&index) {
            held.bytes -= bytes;
        }
        self.changed.notify_all();
    }

    /// The name of the oldest item under way.
    pub(crate) fn oldest(&self) -> String {
        let held = self.lock();
        let oldest = held.items.values().next();
        oldest.map_or("none".into(), |(_, key)| key.clone())
    }

    /// Nothing more is wanted.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}
