//! Local files, read straight: an object store's layers would cost more than the reading.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Object, Storage, StoreError};

/// The files below a folder, named by their path from it.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) root: PathBuf,
}

impl Local {
    pub(crate) fn list(&self) -> Result<Vec<Object>, StoreError> {
        let mut objects = Vec::new();
        self.walk(&self.root, &mut HashSet::new(), &mut objects)?;
        Ok(objects)
    }

    /// `entered` holds the real paths of folders, each of which is listed once: links may lead in
    /// circles.
    fn walk(
        &self,
        folder: &Path,
        entered: &mut HashSet<PathBuf>,
        objects: &mut Vec<Object>,
    ) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| system(folder, &error);
        if !entered.insert(folder.canonicalize().map_err(failed)?) {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Names with a dot are unfinished files, ours among them.
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                self.walk(&path, entered, objects)?;
            } else {
                let inside = path.strip_prefix(&self.root).unwrap_or(&path);
                objects.push(self.stat(&inside.to_string_lossy().replace('\\', "/"))?);
            }
        }
        Ok(())
    }

    pub(crate) fn stat(&self, name: &str) -> Result<Object, StoreError> {
        let path = self.root.join(name);
        let meta = fs::metadata(&path).map_err(|error| system(&path, &error))?;
        Ok(object(name, &meta))
    }

    /// Opens an object, and compares it with what it was.
    pub(crate) fn open(&self, object: &Object) -> Result<File, StoreError> {
        let path = self.root.join(&object.name);
        let failed = |error: std::io::Error| system(&path, &error);
        let file = File::open(&path).map_err(failed)?;
        let now = self::object(&object.name, &file.metadata().map_err(failed)?);
        object.same_as(&now, &path.display().to_string())?;
        Ok(file)
    }

    pub(crate) fn read(
        &self,
        storage: &Storage,
        object: &Object,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, StoreError> {
        let file = self.open(object)?;
        ranges
            .iter()
            .map(|range| self.range(storage, &file, object, range.clone()))
            .collect()
    }

    /// Some bytes of an open file; the range lies within the object.
    pub(crate) fn range(
        &self,
        storage: &Storage,
        file: &File,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let length = (range.end - range.start) as usize;
        storage.counters.request();
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, range.start)
            .map_err(|error| {
                let path = self.root.join(&object.name);
                match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => StoreError::Changed {
                        object: path.display().to_string(),
                        what: format!("it ends before byte {}", range.end),
                    },
                    _ => system(&path, &error),
                }
            })?;
        storage.counters.received(length as u64);
        Ok(storage.meter.wrap(buffer))
    }

    pub(crate) fn read_all(
        &self,
        storage: &Storage,
        name: &str,
        limit: u64,
    ) -> Result<Bytes, StoreError> {
        let path = self.root.join(name);
        let failed = |error: std::io::Error| system(&path, &error);
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let object = || path.display().to_string();
        if size > limit {
            return Err(StoreError::TooLarge {
                object: object(),
                size,
                limit,
            });
        }
        storage.counters.request();
        let mut buffer = Vec::with_capacity(size as usize);
        (&file)
            .take(limit + 1)
            .read_to_end(&mut buffer)
            .map_err(failed)?;
        if buffer.len() as u64 != size {
            return Err(StoreError::Changed {
                object: object(),
                what: format!("{} bytes came of {size}", buffer.len()),
            });
        }
        storage.counters.received(size);
        Ok(storage.meter.wrap(buffer))
    }
}

fn object(name: &str, meta: &fs::Metadata) -> Object {
    Object {
        name: name.to_owned(),
        size: meta.len(),
        etag: Some(format!(
            "{}-{}-{}",
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec()
        )),
    }
}

fn system(path: &Path, error: &std::io::Error) -> StoreError {
    let object = path.display().to_string();
    let reason = error.to_string();
    match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::NotFound { object, reason },
        _ => StoreError::System { object, reason },
    }
}
