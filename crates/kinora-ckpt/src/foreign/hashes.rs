//! SHA-256 sums that came with weights, and whether the files still have them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::CkptError;

/// The list of sums beside weights, in the format of `sha256sum`.
pub(super) const SUMS: &str = "SHA256SUMS";

/// What a file's hash should be, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) hash: String,
    pub(super) said: PathBuf,
}

/// Looks up the hash of each file: in `SHA256SUMS` beside it, or in the name that a Hugging Face cache
/// keeps it under.
///
/// # Errors
/// [`CkptError::Sums`] and [`CkptError::Io`].
pub(super) fn expected(files: &[PathBuf]) -> Result<Vec<Option<Expected>>, CkptError> {
    let mut lists: HashMap<PathBuf, HashMap<String, String>> = HashMap::new();
    let mut all = vec![];
    for file in files {
        let list = file.with_file_name(SUMS);
        if !lists.contains_key(&list) {
            lists.insert(list.clone(), read_sums(&list)?);
        }
        let name = file.file_name().map(|name| name.to_string_lossy());
        let hash = name.and_then(|name| lists[&list].get(&*name));
        all.push(match hash {
            Some(hash) => Some(Expected {
                hash: hash.clone(),
                said: list,
            }),
            None => of_cache(file),
        });
    }
    Ok(all)
}

/// The sums in a list by file name; none if there is no list.
///
/// # Errors
/// [`CkptError::Sums`] for a line that is not one of `sha256sum`, [`CkptError::Io`].
pub(super) fn read_sums(path: &Path) -> Result<HashMap<String, String>, CkptError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        text => text.map_err(CkptError::io("read", path))?,
    };
    let mut sums = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        // The hash, a space, and a space or a star, as the file was read as text or bytes.
        let parts = line.split_once(' ').filter(|(hash, _)| is_hash(hash));
        let name = parts.and_then(|(_, name)| name.strip_prefix([' ', '*']));
        let Some(((hash, _), name)) = parts.zip(name) else {
            return Err(CkptError::Sums {
                path: path.to_path_buf(),
                line: i + 1,
                text: line.chars().take(100).collect(),
            });
        };
        let name = name.strip_prefix("./").unwrap_or(name);
        sums.insert(name.to_owned(), hash.to_lowercase());
    }
    Ok(sums)
}

/// The hash that a Hugging Face cache calls a file by, to which the given path is a link. Small files
/// are called by a hash of another kind there, of 40 digits.
fn of_cache(file: &Path) -> Option<Expected> {
    let said = file.canonicalize().ok()?;
    let (name, folder) = (said.file_name()?.to_str()?, said.parent()?.file_name()?);
    let hash = (folder == "blobs" && is_hash(name)).then(|| name.to_lowercase())?;
    Some(Expected { hash, said })
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads a file and compares its hash.
///
/// # Errors
/// [`CkptError::Hash`] and [`CkptError::Io`].
pub(super) fn verify(file: &Path, expected: &Expected) -> Result<(), CkptError> {
    let found = sum(file).map_err(CkptError::io("read", file))?;
    if found == expected.hash {
        return Ok(());
    }
    Err(CkptError::Hash {
        path: file.to_path_buf(),
        said: expected.said.clone(),
        expected: expected.hash.clone(),
        found,
    })
}

fn sum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hash)),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A finished hash in hexadecimal.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
