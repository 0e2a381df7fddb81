//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file under a hidden name beside its own, and renames it once the disk has it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let named = written.and_then(|()| fs::rename(&partial, path));
    if named.is_err() {
        // What is left of it helps nobody.
        let _ = fs::remove_file(&partial);
    }
    named.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
