//! Where the files of a data set lie: a local folder, S3, Google Cloud Storage, Azure, or a server
//! that speaks HTTP.
//!
//! Separate from the shards because it knows only names and bytes. Its calls block; one thread with a
//! runtime of its own speaks with servers for all of them. Whatever a server does, a call ends: by an
//! answer of the length that was asked for, or by an error that names the object and the reason, at
//! the latest after `deadline_s`.
//!
//! It deliberately does no writing, and keeps nothing on disk.

mod error;
mod local;
mod meter;
mod network;
mod options;
mod remote;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use object_store::ObjectStore;

pub use error::StoreError;
pub(crate) use meter::Meter;
pub use meter::Traffic;
pub use options::StoreOptions;

use local::Local;
use meter::Counters;
use network::Network;
use remote::Remote;

/// What all stores of a run share: settings, the thread that speaks with servers, and counters.
#[derive(Debug)]
pub struct Storage {
    pub(crate) options: Arc<StoreOptions>,
    pub(crate) meter: Meter,
    counters: Arc<Counters>,
    network: OnceLock<Result<Network, StoreError>>,
    clients: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Storage {
    /// Storage with these settings. Starts nothing before a server is asked.
    pub fn new(options: StoreOptions) -> Arc<Self> {
        Arc::new(Self {
            options: Arc::new(options),
            meter: Meter::default(),
            counters: Arc::default(),
            network: OnceLock::new(),
            clients: Mutex::default(),
        })
    }

    /// A store at a path, or at the URL of an object store (`s3://`, `gs://`, `az://`, `abfs://`) or
    /// server (`http://`, `https://`). A location that ends in `.parquet` is a store of that object
    /// alone.
    ///
    /// # Errors
    /// If the URL or a setting is wrong. Does not ask whether anything is there.
    pub fn open(self: &Arc<Self>, location: &str) -> Result<Store, StoreError> {
        let storage = self.clone();
        let Some((scheme, rest)) = location.split_once("://") else {
            return Ok(Store::local(location, storage));
        };
        let scheme = scheme.to_ascii_lowercase();
        let known = [
            "s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https",
        ];
        if scheme == "file" {
            return Ok(Store::local(rest, storage));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !known.contains(&scheme.as_str()) || authority.is_empty() {
            return Err(StoreError::settings(
                format!("{location} is no location of data"),
                "give a path, or a URL as s3://bucket/folder, gs://bucket/folder, az://container/folder or https://host/folder",
            ));
        }
        if path.contains(['?', '#']) {
            return Err(StoreError::settings(
                format!("{}://{authority}/... has a query in its URL", scheme),
                "give the path alone; settings belong into data.store.options",
            ));
        }
        let path = match object_store::path::Path::from_url_path(path) {
            Ok(decoded) if scheme.starts_with("http") => decoded.to_string(),
            _ => path.trim_matches('/').to_owned(),
        };
        let (prefix, only) = match path.rsplit_once('/') {
            _ if !path.ends_with(".parquet") => (path.as_str(), None),
            Some((folder, name)) => (folder, Some(name.to_owned())),
            None => ("", Some(path.clone())),
        };
        let remote = Remote::open(&scheme, authority, prefix, self)?;
        Ok(Store {
            location: location.trim_end_matches('/').to_owned(),
            storage,
            place: Place::Remote(remote),
            only,
        })
    }

    /// What was asked of all stores so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic(&self.meter)
    }

    fn network(&self) -> Result<&Network, StoreError> {
        let network = self
            .network
            .get_or_init(|| Network::start(self.options.requests));
        network.as_ref().map_err(Clone::clone)
    }

    /// The client for a bucket or host, made at its first use.
    fn client(
        &self,
        authority: &str,
        make: impl FnOnce() -> Result<Arc<dyn ObjectStore>, StoreError>,
    ) -> Result<Arc<dyn ObjectStore>, StoreError> {
        // A panic elsewhere leaves the table as it was.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(authority) {
            return Ok(client.clone());
        }
        let client = make()?;
        clients.insert(authority.to_owned(), client.clone());
        Ok(client)
    }
}

/// A file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its path from the store's location.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What changes with its content, if the store says so.
    pub etag: Option<String>,
}

impl Object {
    /// Whether this is still the same object.
    fn same_as(&self, now: &Self, display: &str) -> Result<(), StoreError> {
        let changed = |what: String| StoreError::Changed {
            object: display.to_owned(),
            what,
        };
        if self.size != now.size {
            return Err(changed(format!(
                "it had {} bytes and has {}",
                self.size, now.size
            )));
        }
        match (&self.etag, &now.etag) {
            (Some(was), Some(is)) if was != is => {
                Err(changed(format!("its version was {was} and is {is}")))
            }
            _ => Ok(()),
        }
    }
}

/// The files at a location.
#[derive(Clone, Debug)]
pub struct Store {
    location: String,
    storage: Arc<Storage>,
    place: Place,
    /// The location's single object, if it is no folder.
    only: Option<String>,
}

#[derive(Clone, Debug)]
enum Place {
    Local(Local),
    Remote(Remote),
}

impl Store {
    /// A store with settings of its own; see [`Storage::open`].
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        Storage::new(options.clone()).open(location)
    }

    fn local(location: &str, storage: Arc<Storage>) -> Self {
        let path = PathBuf::from(location);
        let only = path.is_file().then(|| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        let root = match (&only, path.parent()) {
            (Some(_), Some(parent)) => parent.to_path_buf(),
            _ => path,
        };
        Self {
            location: location.to_owned(),
            storage,
            place: Place::Local(Local { root }),
            only,
        }
    }

    /// The location it was opened with.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// What it shares with other stores.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The name of its only object, if its location names one and not a folder.
    pub fn only(&self) -> Option<&str> {
        self.only.as_deref()
    }

    /// Whether reading means asking a server.
    pub fn is_remote(&self) -> bool {
        matches!(self.place, Place::Remote(_))
    }

    /// Whether it can say which objects there are; a plain HTTP server cannot.
    pub fn can_list(&self) -> bool {
        match &self.place {
            Place::Local(_) => true,
            Place::Remote(remote) => remote.can_list(),
        }
    }

    /// What messages call an object.
    pub fn display(&self, name: &str) -> String {
        match &self.place {
            Place::Local(local) => local.root.join(name).display().to_string(),
            Place::Remote(remote) => remote.display(name),
        }
    }

    /// All objects, at any depth, except those with a name or folder that begins with a dot. Ordered
    /// by name.
    ///
    /// # Errors
    /// If the location cannot be read, or is a server that cannot list.
    pub fn list(&self) -> Result<Vec<Object>, StoreError> {
        let start = Instant::now();
        let mut objects = match (&self.only, &self.place) {
            (Some(name), _) => vec![self.stat(name)?],
            (None, Place::Local(local)) => local.list()?,
            (None, Place::Remote(remote)) if remote.can_list() => remote.list(&self.storage)?,
            (None, Place::Remote(_)) => {
                return Err(StoreError::settings(
                    format!(
                        "{}: a plain HTTP server cannot list its files",
                        self.location
                    ),
                    "put a manifest.json beside the shards, or name each .parquet file",
                ));
            }
        };
        self.storage.counters.waited(start);
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// An object's size and version.
    ///
    /// # Errors
    /// If there is none, or it cannot be asked for.
    pub fn stat(&self, name: &str) -> Result<Object, StoreError> {
        let start = Instant::now();
        let object = match &self.place {
            Place::Local(local) => local.stat(name),
            Place::Remote(remote) => remote.stat(&self.storage, name),
        };
        self.storage.counters.waited(start);
        object
    }

    /// Some ranges of an object, each of exactly the length asked for. Near ranges are fetched
    /// together, and all of them at once as far as `requests` allows; ranges of one fetch share a
    /// buffer.
    ///
    /// # Errors
    /// If the object has changed, cannot be read, or a range does not lie within it.
    pub fn read(&self, object: &Object, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        Ok(self.read_now(object, ranges)?.0)
    }

    /// As [`Self::read`]; also returns the object with its version, if that was asked of a server.
    pub(crate) fn read_now(
        &self,
        object: &Object,
        ranges: &[Range<u64>],
    ) -> Result<(Vec<Bytes>, Option<Object>), StoreError> {
        if let Some(range) = ranges
            .iter()
            .find(|range| range.start > range.end || range.end > object.size)
        {
            return Err(StoreError::Changed {
                object: self.display(&object.name),
                what: format!(
                    "bytes {} to {} are wanted, but it has {}",
                    range.start, range.end, object.size
                ),
            });
        }
        let start = Instant::now();
        let read = match &self.place {
            Place::Local(local) => local
                .read(&self.storage, object, ranges)
                .map(|bytes| (bytes, None)),
            Place::Remote(remote) => remote.read(&self.storage, object, ranges),
        };
        self.storage.counters.waited(start);
        read
    }

    /// A whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or it is larger.
    pub fn read_all(&self, name: &str, limit: u64) -> Result<Bytes, StoreError> {
        let start = Instant::now();
        let bytes = match &self.place {
            Place::Local(local) => local.read_all(&self.storage, name, limit),
            Place::Remote(remote) => remote.read_all(&self.storage, name, limit),
        };
        self.storage.counters.waited(start);
        bytes
    }

    /// The media at a URI: an absolute URL, or a path from the store's location, which cannot lead
    /// out of it.
    ///
    /// # Errors
    /// As [`Self::read_all`], or if the URI is none.
    pub fn media(&self, uri: &str) -> Result<Bytes, StoreError> {
        let limit = (self.storage.options.media_mb as u64) << 20;
        if let Some((scheme, rest)) = uri.split_once("://") {
            let wrong = || {
                StoreError::settings(
                    format!("{uri} is no URI of media"),
                    "use a path from the data set's folder, or the URL of an object or page",
                )
            };
            // A data set from elsewhere has no business with files of this machine.
            if scheme.eq_ignore_ascii_case("file") {
                return Err(wrong());
            }
            let (folder, name) = rest.rsplit_once('/').ok_or_else(wrong)?;
            let store = self.storage.open(&format!("{scheme}://{folder}"))?;
            return store.read_all(name, limit);
        }
        let path = Path::new(uri);
        let inside = |part| matches!(part, std::path::Component::Normal(_));
        if uri.is_empty() || !path.components().all(inside) {
            return Err(StoreError::settings(
                format!("{uri:?} leads out of {}", self.location),
                "use a path from the data set's folder, without ..",
            ));
        }
        self.read_all(uri, limit)
    }

    /// The open file behind an object, if it is a local one.
    pub(crate) fn file(&self, object: &Object) -> Result<Option<LocalFile>, StoreError> {
        let Place::Local(local) = &self.place else {
            return Ok(None);
        };
        Ok(Some(LocalFile {
            file: local.open(object)?,
            local: local.clone(),
            object: object.clone(),
            storage: self.storage.clone(),
        }))
    }
}

/// A local file, for readers that ask for one range after the other.
pub(crate) struct LocalFile {
    file: File,
    local: Local,
    object: Object,
    storage: Arc<Storage>,
}

impl LocalFile {
    pub(crate) fn size(&self) -> u64 {
        self.object.size
    }

    /// Some bytes; the range lies within the file.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let start = Instant::now();
        let bytes = self
            .local
            .range(&self.storage, &self.file, &self.object, range);
        self.storage.counters.waited(start);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("in/deep")).unwrap();
        for (name, text) in [
            ("b.parquet", "0123456789"),
            ("in/deep/a.parquet", "abc"),
            (".hidden", "x"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn local_files_are_listed_and_read() {
        let folder = folder();
        let store = Store::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let objects = store.list().unwrap();
        let names: Vec<_> = objects.iter().map(|o| (o.name.as_str(), o.size)).collect();
        assert_eq!(names, [("b.parquet", 10), ("in/deep/a.parquet", 3)]);
        let bytes = store.read(&objects[0], &[7..9, 0..3, 4..4]).unwrap();
        assert_eq!(bytes, ["78", "012", ""]);
        let traffic = store.storage().traffic();
        assert_eq!(
            (traffic.bytes, traffic.requests, traffic.retries),
            (5, 3, 0)
        );
        assert_eq!(store.storage().meter.held(), 5);
        assert!(matches!(
            store.read(&objects[0], &[0..1, 5..11]),
            Err(StoreError::Changed { .. })
        ));
        assert_eq!(store.read_all("in/deep/a.parquet", 3).unwrap(), "abc");
        let error = store.read_all("b.parquet", 9).unwrap_err().to_string();
        assert!(error.contains("has 10 bytes, and 9 are allowed"), "{error}");
        assert!(matches!(
            store.stat("none"),
            Err(StoreError::NotFound { .. })
        ));
        drop(bytes);
        assert_eq!(store.storage().meter.held(), 0);

        std::fs::write(folder.path().join("b.parquet"), "0123").unwrap();
        let error = store
            .read(&objects[0], &[0..3, 3..4])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("b.parquet has changed") && error.contains("10 bytes and has 4"),
            "{error}"
        );
        std::fs::write(folder.path().join("b.parquet"), "9876543210").unwrap();
        let error = store
            .read(&objects[0], &[0..3, 3..4])
            .unwrap_err()
            .to_string();
        assert!(error.contains("its version was"), "{error}");
    }

    #[test]
    fn a_file_is_a_store_of_itself() {
        let folder = folder();
        let path = folder.path().join("b.parquet");
        let store = Store::open(path.to_str().unwrap(), &StoreOptions::default()).unwrap();
        assert_eq!(store.only(), Some("b.parquet"));
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn media_stays_inside_the_data_set() {
        let folder = folder();
        let root = folder.path().join("in");
        let store = Store::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap();
        assert_eq!(store.media("deep/a.parquet").unwrap(), "abc");
        let outside = format!("file://{}", folder.path().join("b.parquet").display());
        let absolute = folder.path().join("b.parquet").display().to_string();
        for uri in [
            "../b.parquet",
            "deep/../../b.parquet",
            "",
            &outside,
            &absolute,
        ] {
            assert!(
                matches!(store.media(uri), Err(StoreError::Settings { .. })),
                "{uri}"
            );
        }
    }

    #[test]
    fn locations_are_told_apart_and_settings_checked() {
        let options = StoreOptions::default();
        for location in ["ftp://host/x", "s3://", "https:///x"] {
            let error = Store::open(location, &options).unwrap_err().to_string();
            assert!(error.contains("no location of data"), "{location}: {error}");
        }
        let error = Store::open("https://host/x?token=geheim", &options).unwrap_err();
        assert!(!error.to_string().contains("geheim"));
        let store = Store::open("https://host/a%20b/c.parquet", &options).unwrap();
        assert_eq!(store.only(), Some("c.parquet"));
        assert_eq!(store.display("c.parquet"), "https://host/a b/c.parquet");
        assert!(!store.can_list());

        let with = |options: &[(&str, &str)]| StoreOptions {
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..StoreOptions::default()
        };
        let error = Store::open("s3://b/x", &with(&[("reggion", "x")]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("data.store.options.reggion is no setting of s3://"),
            "{error}"
        );
        let open = [("endpoint", "http://localhost:1"), ("region", "r")];
        let error = Store::open("s3://b/x", &with(&open))
            .unwrap_err()
            .to_string();
        assert!(error.contains("allow_http"), "{error}");
        let open = [open[0], open[1], ("allow_http", "true")];
        assert!(Store::open("s3://b/x/", &with(&open)).unwrap().can_list());
        assert!(Store::open("gs://b/x", &with(&[("skip_signature", "true")])).is_ok());
        let azure = [("account_name", "a"), ("skip_signature", "true")];
        assert!(Store::open("az://b/x", &with(&azure)).is_ok());
    }
}
