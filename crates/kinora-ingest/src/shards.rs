//! The Parquet files of a data set, wherever it lies, read straight: for looking and checking, which
//! want to see what is there rather than what training would take.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use kinora_data::{
    DataError, MANIFEST, Manifest, Object, Storage, Store, StoreError, StoreOptions,
    check_page_header,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::IngestError;

/// The files of a data set.
pub(crate) struct Listed {
    pub(crate) store: Arc<Store>,
    pub(crate) manifest: Option<Manifest>,
    /// All Parquet files, by name. Of a server that cannot list, those of the manifest.
    pub(crate) files: Vec<Object>,
}

/// Lists the Parquet files at a location.
pub(crate) fn list(storage: &Arc<Storage>, location: &str) -> Result<Listed, IngestError> {
    let store = Arc::new(storage.open(location).map_err(DataError::from)?);
    let none = || DataError::NoFile {
        paths: vec![location.to_owned()],
    };
    let failed = |error: StoreError| match error {
        StoreError::NotFound { .. } => none(),
        error => error.into(),
    };
    if let Some(name) = store.only() {
        let files = vec![store.stat(name).map_err(failed)?];
        return Ok(Listed {
            store,
            manifest: None,
            files,
        });
    }
    let manifest = match store.read_all(MANIFEST, 256 << 20) {
        Ok(bytes) => Some(Manifest::parse(&bytes, &store.display(MANIFEST))?),
        Err(_) if store.can_list() => None,
        Err(error) => return Err(failed(error).into()),
    };
    let mut files = match &manifest {
        Some(manifest) if !store.can_list() => manifest
            .shards
            .iter()
            .map(|shard| Object {
                name: shard.name.clone(),
                size: shard.bytes,
                etag: None,
            })
            .collect(),
        _ => store.list().map_err(failed)?,
    };
    files.retain(|file| file.name.ends_with(".parquet"));
    if files.is_empty() && manifest.is_none() {
        return Err(none().into());
    }
    Ok(Listed {
        store,
        manifest,
        files,
    })
}

/// A file's bytes, as the Parquet reader asks for them.
#[derive(Clone)]
pub(crate) struct Remote {
    store: Arc<Store>,
    file: Object,
    /// Whether what is read from the file's middle are pages.
    pages: bool,
}

impl Remote {
    pub(crate) fn new(listed: &Listed, file: &Object) -> Self {
        Self {
            store: listed.store.clone(),
            file: file.clone(),
            pages: false,
        }
    }

    /// A file of this machine.
    pub(crate) fn local(path: &Path) -> Result<Self, String> {
        let storage = Storage::new(StoreOptions::default());
        let store = storage
            .open(&path.to_string_lossy())
            .map_err(|error| error.to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = store.stat(&name).map_err(|error| error.to_string())?;
        Ok(Self {
            store: Arc::new(store),
            file,
            pages: false,
        })
    }

    fn fetch(&self, start: u64, length: u64) -> Result<Bytes, StoreError> {
        let end = start.saturating_add(length).min(self.file.size);
        let mut parts = self
            .store
            .read(&self.file, std::slice::from_ref(&(start.min(end)..end)))?;
        Ok(parts.swap_remove(0))
    }
}

impl Length for Remote {
    fn len(&self) -> u64 {
        self.file.size
    }
}

impl ChunkReader for Remote {
    type T = Pieces;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Pieces> {
        let mut left = Bytes::new();
        if self.pages {
            // A size from a damaged header must not decide how much memory is taken.
            left = self
                .fetch(start, PIECE)
                .map_err(|error| ParquetError::External(Box::new(error)))?;
            check_page_header(&left).map_err(ParquetError::General)?;
        }
        Ok(Pieces {
            file: self.clone(),
            at: start + left.len() as u64,
            left,
            piece: PIECE,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self
            .fetch(start, length as u64)
            .map_err(|error| ParquetError::External(Box::new(error)))?;
        if bytes.len() != length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} reach past the end"
            )));
        }
        Ok(bytes)
    }
}

/// The first piece is small, as often only a page's header is wanted.
const PIECE: u64 = 4096;

/// A file's bytes from somewhere on, in growing pieces.
pub(crate) struct Pieces {
    file: Remote,
    at: u64,
    left: Bytes,
    piece: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            self.left = self
                .file
                .fetch(self.at, self.piece)
                .map_err(io::Error::other)?;
            self.at += self.left.len() as u64;
            self.piece = (self.piece * 4).min(4 << 20);
        }
        let length = buffer.len().min(self.left.len());
        self.left.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The reader may panic on a damaged file; then the file is damaged, and no more.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("it is damaged: the reader gave up".into()))
}

/// A file's footer.
pub(crate) fn footer(file: &Remote) -> Result<ArrowReaderMetadata, String> {
    guarded(|| {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        ArrowReaderMetadata::load(file, options).map_err(|error| error.to_string())
    })
}

/// Some rows of some columns of a row group.
pub(crate) fn rows(
    file: &Remote,
    footer: &ArrowReaderMetadata,
    group: usize,
    wanted: impl Fn(&str) -> bool,
    part: Option<(usize, usize)>,
) -> Result<ParquetRecordBatchReader, String> {
    for column in footer.metadata().row_group(group).columns() {
        // A length from a damaged footer must not decide how much memory is taken.
        let (start, length) = column.byte_range();
        if start
            .checked_add(length)
            .is_none_or(|end| end > file.file.size)
        {
            return Err(format!(
                "column {} reaches past the end of the file",
                column.column_path()
            ));
        }
    }
    let fields = footer.schema().fields().iter().enumerate();
    let roots = fields
        .filter(|(_, field)| wanted(field.name()))
        .map(|(index, _)| index);
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let file = Remote {
        pages: true,
        ..file.clone()
    };
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone())
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_batch_size(BATCH);
    if let Some((offset, limit)) = part {
        builder = builder.with_offset(offset).with_limit(limit);
    }
    builder.build().map_err(|error| error.to_string())
}

/// Rows that are held at once.
const BATCH: usize = 8;
