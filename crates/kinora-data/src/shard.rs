//! One Parquet file of a data set: finding it, and its bytes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::DataError;
use crate::manifest::{MANIFEST, Manifest};
use crate::store::{LocalFile, Object, Storage, Store, StoreError};

/// A shard: where it lies, and the name that its samples go by.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) name: Arc<str>,
    store: Arc<Store>,
    object: Object,
    /// With the version that was met first, if the list of shards did not say it.
    met: Arc<OnceLock<Object>>,
}

impl Shard {
    fn new(store: &Arc<Store>, name: &str, object: Object) -> Self {
        Self {
            name: name.into(),
            store: store.clone(),
            object,
            met: Arc::default(),
        }
    }

    /// What messages call it.
    pub(crate) fn location(&self) -> PathBuf {
        self.store.display(&self.object.name).into()
    }

    /// The store that it lies in.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of the file.
    pub(crate) fn object(&self) -> &Object {
        self.met.get().unwrap_or(&self.object)
    }

    /// The file, if it is a local one.
    pub(crate) fn file(&self) -> Result<Option<LocalFile>, DataError> {
        Ok(self.store.file(self.object())?)
    }

    /// Some ranges of it, in one go.
    pub(crate) fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
        let (bytes, now) = self.store.read_now(self.object(), ranges)?;
        // From now on it is to stay what it is.
        if let (None, Some(now)) = (&self.object.etag, now) {
            _ = self.met.set(now);
        }
        Ok(bytes)
    }

    /// Its last bytes.
    pub(crate) fn tail(&self, length: u64) -> Result<Bytes, DataError> {
        let size = self.object().size;
        let from = size.saturating_sub(length);
        let range = from..size;
        Ok(self.fetch(std::slice::from_ref(&range))?.swap_remove(0))
    }
}

const SUFFIX: &str = ".parquet";
const LARGEST_MANIFEST: u64 = 256 << 20;

/// The shards at some locations, ordered by name, so that the order does not depend on where they
/// lie.
pub(crate) fn find(storage: &Arc<Storage>, locations: &[String]) -> Result<Vec<Shard>, DataError> {
    let mut shards = Vec::new();
    for location in locations {
        let store = Arc::new(storage.open(location)?);
        let found = in_store(&store).map_err(|error| match error {
            DataError::Store(StoreError::NotFound { .. }) => DataError::NoFile {
                paths: vec![location.clone()],
            },
            error => error,
        })?;
        shards.extend(found);
    }
    if shards.is_empty() {
        return Err(DataError::NoFile {
            paths: locations.to_vec(),
        });
    }
    shards.sort_by_cached_key(|shard| (shard.name.clone(), shard.location()));
    shards.dedup_by_key(|shard| shard.location());
    Ok(shards)
}

fn in_store(store: &Arc<Store>) -> Result<Vec<Shard>, DataError> {
    if let Some(name) = store.only() {
        return Ok(vec![Shard::new(store, name, store.stat(name)?)]);
    }
    let manifest = match store.read_all(MANIFEST, LARGEST_MANIFEST) {
        Ok(bytes) => Some(Manifest::parse(&bytes, &store.display(MANIFEST))?),
        // Some stores also say so of what does not exist; the list will tell.
        Err(StoreError::NotFound { .. }) => None,
        Err(StoreError::Denied { .. }) if store.can_list() => None,
        Err(error) => return Err(error.into()),
    };
    let Some(manifest) = manifest else {
        let objects = store.list()?;
        return Ok(objects
            .into_iter()
            .filter(|object| object.name.ends_with(SUFFIX))
            .map(|object| Shard::new(store, &object.name.clone(), object))
            .collect());
    };
    // Where nothing can be listed, what is missing shows when footers are read.
    let listed = store.can_list().then(|| store.list()).transpose()?;
    let mut shards = Vec::with_capacity(manifest.shards.len());
    for entry in &manifest.shards {
        let told = Object {
            name: entry.name.clone(),
            size: entry.bytes,
            etag: None,
        };
        let object = match &listed {
            None => told,
            Some(listed) => {
                let at = listed.binary_search_by(|object| object.name.cmp(&entry.name));
                let object = at.ok().map(|at| &listed[at]);
                let size = object.map(|object| object.size);
                if size != Some(entry.bytes) {
                    let found =
                        size.map_or("is missing".to_owned(), |size| format!("has {size} bytes"));
                    return Err(DataError::Manifest {
                        path: store.display(MANIFEST).into(),
                        shard: entry.name.clone(),
                        bytes: entry.bytes,
                        found,
                    });
                }
                object.cloned().unwrap_or(told)
            }
        };
        shards.push(Shard::new(store, &entry.name, object));
    }
    Ok(shards)
}
