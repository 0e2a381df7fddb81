//! What a source is, by its name and by what its folder holds.

use std::fs;
use std::path::Path;

use super::member::{Role, role, split};
use crate::{IngestError, SourceKind};

/// What lies at a path.
pub(super) fn kind(path: &Path) -> Result<SourceKind, IngestError> {
    let meta = fs::metadata(path).map_err(IngestError::io(path))?;
    if meta.is_dir() {
        return folder(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match split(&name).1.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" | "csv" | "tsv" => Ok(SourceKind::Table),
        "tar" => Ok(SourceKind::Tar),
        "parquet" => Ok(SourceKind::Parquet),
        "gz" | "tgz" | "zst" | "bz2" | "xz" | "zip" => Err(IngestError::config(
            format!("{} is compressed", path.display()),
            "media hardly shrink: unpack it to a .tar or a folder",
        )),
        _ => Err(IngestError::config(
            format!("{} is of no known kind", path.display()),
            "give a folder, or a file named .jsonl, .csv, .tsv, .tar or .parquet, or say what it is with --kind",
        )),
    }
}

/// A folder whose upper level holds nothing but tars or Parquet files is a source of these.
fn folder(path: &Path) -> Result<SourceKind, IngestError> {
    let mut kind = SourceKind::Folder;
    for entry in fs::read_dir(path).map_err(IngestError::io(path))? {
        let entry = entry.map_err(IngestError::io(path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let extension = split(&name).1.to_ascii_lowercase();
        match extension.as_str() {
            "tar" => kind = SourceKind::Tar,
            "parquet" => kind = SourceKind::Parquet,
            extension if role(extension) == Role::Media => return Ok(SourceKind::Folder),
            _ => {}
        }
    }
    Ok(kind)
}

/// The files of an extension at a path: itself, or what a folder holds directly, by name.
pub(super) fn files(path: &Path, extension: &str) -> Result<Vec<std::path::PathBuf>, IngestError> {
    if !path.is_dir() {
        fs::metadata(path).map_err(IngestError::io(path))?;
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(IngestError::io(path))? {
        let entry = entry.map_err(IngestError::io(path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && split(&name).1.eq_ignore_ascii_case(extension) {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        return Err(IngestError::config(
            format!("{} holds no .{extension} file", path.display()),
            "name the right folder, or another --kind",
        ));
    }
    files.sort();
    Ok(files)
}
