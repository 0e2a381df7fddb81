//! One rank's part of a checkpoint: a safetensors file, and a table of the boxes in it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::manifest::FileEntry;
use crate::region::{Region, volume};
use crate::{CkptError, Dtype};

/// A box of a tensor with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tensor's name: the parameter's path.
    pub name: String,
    /// The shape of the whole tensor, the same on every rank.
    pub shape: Vec<usize>,
    /// Where the box begins in the whole tensor, per dimension.
    pub offset: Vec<usize>,
    /// How long the box is, per dimension. May be 0, when a cut leaves nothing for this rank.
    pub extent: Vec<usize>,
    /// The kind of number.
    pub dtype: Dtype,
    /// The box's elements, row-major, little endian.
    pub bytes: Vec<u8>,
}

/// The table beside a part's safetensors file; `commit` joins all of them into the manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartTable {
    pub(crate) rank: usize,
    pub(crate) file: FileEntry,
    pub(crate) boxes: Vec<PartBox>,
}

/// A box of this part; `begin` counts bytes from the start of the file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartBox {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) begin: u64,
    #[serde(flatten)]
    pub(crate) region: Region,
}

/// The name of a rank's safetensors file.
pub(crate) fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// The name of a rank's table.
pub(crate) fn table_name(rank: usize) -> String {
    format!("rank-{rank:05}.json")
}

/// Writes both files of a part into `folder` and waits until the disk has them.
pub(crate) fn write(folder: &Path, rank: usize, pieces: &[Piece]) -> Result<(), CkptError> {
    for piece in pieces {
        check(piece)?;
    }
    // Wide numbers first, so that every tensor of the file begins at a multiple of its own size.
    let mut order: Vec<&Piece> = pieces.iter().collect();
    order.sort_by_key(|piece| std::cmp::Reverse(piece.dtype.size()));

    let header = header(rank, &order)?;
    let mut begin = header.len() as u64;
    let mut boxes = Vec::with_capacity(order.len());
    for piece in &order {
        boxes.push(PartBox {
            name: piece.name.clone(),
            shape: piece.shape.clone(),
            dtype: piece.dtype,
            begin,
            region: Region::new(&piece.offset, &piece.extent),
        });
        begin += piece.bytes.len() as u64;
    }

    let name = file_name(rank);
    let path = folder.join(&name);
    let file = File::create(&path).map_err(CkptError::io("create", &path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut crc = crc32fast::Hasher::new();
    for bytes in std::iter::once(&header).chain(order.iter().map(|piece| &piece.bytes)) {
        crc.update(bytes);
        out.write_all(bytes)
            .map_err(CkptError::io("write", &path))?;
    }
    out.flush().map_err(CkptError::io("write", &path))?;
    out.get_ref()
        .sync_all()
        .map_err(CkptError::io("sync", &path))?;

    let file = FileEntry {
        name,
        bytes: begin,
        crc32: crc.finalize(),
    };
    let table = PartTable { rank, file, boxes };
    let text = serde_json::to_vec(&table).expect("a table of strings and numbers is JSON");
    write_synced(&folder.join(table_name(rank)), &text)
}

/// Writes a small file and waits until the disk has it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CkptError> {
    let mut file = File::create(path).map_err(CkptError::io("create", path))?;
    file.write_all(bytes)
        .map_err(CkptError::io("write", path))?;
    file.sync_all().map_err(CkptError::io("sync", path))
}

/// Reads the tables of all parts in a folder, by rank.
pub(crate) fn read_tables(folder: &Path) -> Result<Vec<PartTable>, CkptError> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(folder).map_err(CkptError::io("list", folder))? {
        let path = entry.map_err(CkptError::io("list", folder))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read(&path).map_err(CkptError::io("read", &path))?;
        let table: PartTable = serde_json::from_slice(&text).map_err(|error| CkptError::Torn {
            path: path.clone(),
            what: format!("the table of this part cannot be read ({error})"),
            help: "let the ranks wait for each other between write_part and commit".to_owned(),
        })?;
        tables.push(table);
    }
    tables.sort_by_key(|table| table.rank);
    Ok(tables)
}

fn check(piece: &Piece) -> Result<(), CkptError> {
    let region = Region::new(&piece.offset, &piece.extent);
    if !region.fits(&piece.shape) {
        return Err(CkptError::Outside {
            name: piece.name.clone(),
            region: region.to_string(),
            shape: piece.shape.clone(),
        });
    }
    let expected = volume(&piece.extent) * piece.dtype.size();
    if piece.bytes.len() != expected {
        return Err(CkptError::PieceBytes {
            name: piece.name.clone(),
            region: region.to_string(),
            dtype: piece.dtype,
            expected,
            found: piece.bytes.len(),
        });
    }
    Ok(())
}

/// The length prefix and the JSON that a safetensors file begins with.
///
/// It is written here, not by the safetensors crate, so that the pieces go to the disk from where
/// they are, and their places in the file are known.
fn header(rank: usize, pieces: &[&Piece]) -> Result<Vec<u8>, CkptError> {
    const METADATA: &str = "__metadata__";
    let mut keys = HashSet::from([METADATA.to_owned()]);
    let mut entries = Map::new();
    let about = "one rank's part of a checkpoint; manifest.json says which boxes these are";
    entries.insert(METADATA.to_owned(), json!({ "kinora": about }));
    let mut begin = 0;
    for piece in pieces {
        let region = Region::new(&piece.offset, &piece.extent);
        let key = if region == Region::whole(&piece.shape) {
            piece.name.clone()
        } else {
            format!("{}{region}", piece.name)
        };
        if !keys.insert(key.clone()) {
            return Err(CkptError::Twice { rank, key });
        }
        let end = begin + piece.bytes.len();
        entries.insert(
            key,
            json!({ "dtype": piece.dtype, "shape": piece.extent, "data_offsets": [begin, end] }),
        );
        begin = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // Spaces up to a multiple of eight keep the numbers behind the header aligned.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        offset: &[usize],
        extent: &[usize],
    ) -> Piece {
        let n = volume(extent) * dtype.size();
        Piece {
            name: name.to_owned(),
            shape: shape.to_vec(),
            offset: offset.to_vec(),
            extent: extent.to_vec(),
            dtype,
            bytes: (0..n).map(|i| i as u8).collect(),
        }
    }

    #[test]
    fn a_part_is_a_file_that_the_safetensors_crate_reads() {
        let folder = tempfile::tempdir().unwrap();
        let pieces = [
            piece("bytes", Dtype::U8, &[3], &[0], &[3]),
            piece("w", Dtype::F32, &[4, 6], &[0, 3], &[4, 3]),
            piece("scalar", Dtype::F64, &[], &[], &[]),
            piece("nothing", Dtype::BF16, &[2], &[2], &[0]),
        ];
        write(folder.path(), 7, &pieces).unwrap();

        let bytes = fs::read(folder.path().join("rank-00007.safetensors")).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), 4);
        assert_eq!(read.tensor("bytes").unwrap().data(), pieces[0].bytes);
        let w = read.tensor("w[0..4, 3..6]").unwrap();
        assert_eq!((w.shape(), w.data()), (&[4, 3][..], &pieces[1].bytes[..]));
        assert_eq!(read.tensor("scalar").unwrap().data(), pieces[2].bytes);
        assert_eq!(read.tensor("nothing[2..2]").unwrap().shape(), [0]);

        let tables = read_tables(folder.path()).unwrap();
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].file.bytes, bytes.len() as u64);
        assert_eq!(tables[0].file.crc32, crc32fast::hash(&bytes));
        for stored in &tables[0].boxes {
            let given = pieces
                .iter()
                .find(|piece| piece.name == stored.name)
                .unwrap();
            let begin = stored.begin as usize;
            assert_eq!(
                begin % stored.dtype.size(),
                0,
                "{} is not aligned",
                stored.name
            );
            assert_eq!(bytes[begin..begin + given.bytes.len()], given.bytes);
        }
    }

    #[test]
    fn pieces_that_cannot_be_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut short = piece("w", Dtype::F32, &[4], &[0], &[4]);
        short.bytes.pop();
        let error = write(folder.path(), 0, &[short]).unwrap_err();
        assert!(
            matches!(
                error,
                CkptError::PieceBytes {
                    expected: 16,
                    found: 15,
                    ..
                }
            ),
            "{error}"
        );
        let outside = piece("w", Dtype::F32, &[4], &[2], &[3]);
        let error = write(folder.path(), 0, &[outside]).unwrap_err();
        assert!(matches!(error, CkptError::Outside { .. }), "{error}");
        let same = piece("w", Dtype::F32, &[4], &[0], &[2]);
        let error = write(folder.path(), 3, &[same.clone(), same]).unwrap_err();
        assert!(matches!(error, CkptError::Twice { rank: 3, .. }), "{error}");
        let reserved = piece("__metadata__", Dtype::U8, &[1], &[0], &[1]);
        let error = write(folder.path(), 0, &[reserved]).unwrap_err();
        assert!(matches!(error, CkptError::Twice { .. }), "{error}");
    }
}
