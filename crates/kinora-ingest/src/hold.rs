//! Bytes that are not read yet: where they lie, and how many there are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Some bytes, or where they lie.
#[derive(Clone, Debug)]
pub(crate) enum Hold {
    /// A file of its own.
    File {
        /// Where.
        path: PathBuf,
        /// Its size when it was listed.
        size: u64,
    },
    /// A part of a file.
    Span {
        /// The file.
        path: Arc<Path>,
        /// Where the part begins.
        at: u64,
        /// Its length.
        size: u64,
    },
    /// The bytes themselves.
    Bytes(Vec<u8>),
    /// A URL.
    Remote(String),
    /// Nothing, and why.
    Missing(String),
}

impl Hold {
    /// A file; one that cannot be looked at is missing.
    pub(crate) fn file(path: PathBuf) -> Self {
        match path.metadata() {
            Ok(meta) if meta.is_file() => Self::File {
                size: meta.len(),
                path,
            },
            Ok(_) => Self::Missing(format!("{} is no file", path.display())),
            Err(error) => Self::Missing(format!("{}: {error}", path.display())),
        }
    }

    /// How many bytes there are to read.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Span { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Remote(_) | Self::Missing(_) => 0,
        }
    }

    /// Reads them. A file that has become longer or shorter since it was listed is refused, as it is
    /// being written by someone.
    pub(crate) fn read(self) -> Result<Vec<u8>, String> {
        match self {
            Self::File { path, size } => {
                let named = |error| format!("{}: {error}", path.display());
                let mut bytes = Vec::with_capacity(size as usize);
                let file = File::open(&path).map_err(named)?;
                file.take(size + 1).read_to_end(&mut bytes).map_err(named)?;
                if bytes.len() as u64 != size {
                    return Err(format!(
                        "{} had {size} bytes when it was listed, and has {} now",
                        path.display(),
                        if bytes.len() as u64 > size {
                            "more"
                        } else {
                            "fewer"
                        }
                    ));
                }
                Ok(bytes)
            }
            Self::Span { path, at, size } => {
                let named = |error| format!("{}: {error}", path.display());
                let mut file = File::open(&path).map_err(named)?;
                let whole = file.metadata().map_err(named)?.len();
                if at.checked_add(size).is_none_or(|end| end > whole) {
                    return Err(format!(
                        "{} ends at byte {whole}, inside the member at {at} of {size} bytes",
                        path.display()
                    ));
                }
                file.seek(SeekFrom::Start(at)).map_err(named)?;
                let mut bytes = vec![0; size as usize];
                file.read_exact(&mut bytes).map_err(named)?;
                Ok(bytes)
            }
            Self::Bytes(bytes) => Ok(bytes),
            Self::Remote(url) => Err(format!("{url} is not on this machine")),
            Self::Missing(reason) => Err(reason),
        }
    }

    /// Reads a text of limited size.
    pub(crate) fn text(self, what: &str) -> Result<String, String> {
        if self.size() > LONGEST_TEXT {
            return Err(format!(
                "{what} has {} bytes, more than {LONGEST_TEXT}",
                self.size()
            ));
        }
        String::from_utf8(self.read()?).map_err(|_| format!("{what} is no UTF-8 text"))
    }
}

/// Bytes of the longest caption file, JSON record or line of a table.
pub(crate) const LONGEST_TEXT: u64 = 4 << 20;
