//! What tells whether a source has changed: the names, sizes and times of its files.

use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::SourceKind;

/// A source as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Its path, as given.
    pub(crate) path: String,
    /// Its kind.
    pub(crate) kind: SourceKind,
    /// Its items.
    pub(crate) items: u64,
    /// The bytes of all its files.
    pub(crate) bytes: u64,
    /// Hash of names, sizes and times of change, 16 hexadecimal digits.
    pub(crate) hash: String,
    /// The file that was changed last.
    pub(crate) newest: String,
}

impl Fingerprint {
    /// What is different in `now`, in words.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        if self == now {
            return None;
        }
        let Self { path, .. } = self;
        let (was, is) = if self.kind != now.kind {
            (self.kind.name().to_owned(), now.kind.name().to_owned())
        } else if self.items != now.items {
            (format!("{} items", self.items), now.items.to_string())
        } else if self.bytes != now.bytes {
            (format!("{} bytes", self.bytes), now.bytes.to_string())
        } else {
            let newest = &now.newest;
            return Some(format!("{path} has changed; the newest file is {newest}"));
        };
        let newest = &now.newest;
        Some(format!(
            "{path} had {was}, and has {is} now; the newest file is {newest}"
        ))
    }
}

/// The files of a source, as they are met.
#[derive(Default)]
pub(crate) struct Files {
    hash: Xxh3,
    bytes: u64,
    /// When the newest was changed, and its name.
    newest: (u128, String),
}

impl Files {
    /// Notes a file's name, size and time.
    pub(crate) fn add(&mut self, path: &Path, meta: &Metadata) {
        let since = meta
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let time = since.map_or(0, |since| since.as_nanos());
        self.name(path);
        self.hash.update(&meta.len().to_le_bytes());
        self.hash.update(&time.to_le_bytes());
        self.bytes += meta.len();
        let newest = (time, path.display().to_string());
        if newest > self.newest {
            self.newest = newest;
        }
    }

    /// Notes a name.
    pub(crate) fn name(&mut self, path: &Path) {
        self.hash.update(path.as_os_str().as_encoded_bytes());
        self.hash.update(&[0]);
    }

    /// The fingerprint of the source at `path` that they are.
    pub(crate) fn fingerprint(self, path: &Path, kind: SourceKind, items: u64) -> Fingerprint {
        Fingerprint {
            path: path.display().to_string(),
            kind,
            items,
            bytes: self.bytes,
            hash: format!("{:016x}", self.hash.digest()),
            newest: self.newest.1,
        }
    }
}
