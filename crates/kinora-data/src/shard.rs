//! One Parquet file: finding it, checking its columns, and reading some rows of it.
//!
//! The Arrow schema that some writers store beside the Parquet schema is ignored: it only says how
//! the writer held the values in memory (dictionaries, 64-bit offsets), and would multiply the
//! types to handle here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, BinaryArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;

use crate::DataError;
use crate::config::Columns;

/// A shard: its file and the name that its samples go by.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) name: Arc<str>,
}

/// The shards at some paths, ordered by name, so that the order does not depend on where they lie.
pub(crate) fn find(paths: &[String]) -> Result<Vec<Shard>, DataError> {
    let mut shards = Vec::new();
    for path in paths.iter().map(Path::new) {
        if path.is_dir() {
            walk(path, path, &mut shards)?;
        } else if path.exists() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            shards.push(Shard {
                path: path.to_owned(),
                name: name.into(),
            });
        } else {
            return Err(DataError::NoFile {
                paths: vec![path.display().to_string()],
            });
        }
    }
    if shards.is_empty() {
        return Err(DataError::NoFile {
            paths: paths.to_vec(),
        });
    }
    shards.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    shards.dedup_by(|a, b| a.path == b.path);
    Ok(shards)
}

fn walk(root: &Path, folder: &Path, shards: &mut Vec<Shard>) -> Result<(), DataError> {
    let failed = |source| DataError::Io {
        path: folder.to_path_buf(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Names with a dot are unfinished files, ours among them.
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, shards)?;
        } else if name.ends_with(".parquet") {
            let inside = path.strip_prefix(root).unwrap_or(&path);
            let name = inside.to_string_lossy().replace('\\', "/");
            shards.push(Shard {
                name: name.into(),
                path,
            });
        }
    }
    Ok(())
}

/// Reads a shard's footer, and the index of its pages if it has one and it is wanted.
pub(crate) fn footer(path: &Path, pages: bool) -> Result<ArrowReaderMetadata, DataError> {
    let file = File::open(path).map_err(|source| DataError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let policy = if pages {
        PageIndexPolicy::Optional
    } else {
        PageIndexPolicy::Skip
    };
    let options = ArrowReaderOptions::new()
        .with_skip_arrow_metadata(true)
        .with_page_index_policy(policy);
    ArrowReaderMetadata::load(&file, options).map_err(|error| DataError::shard(path, error))
}

/// Checks that media and caption are there and of the right type; returns whether all of frames,
/// height and width are there, and fps and duration if these are needed too.
pub(crate) fn check(
    path: &Path,
    schema: &Schema,
    columns: &Columns,
    timed: bool,
) -> Result<bool, DataError> {
    let wrong = |column: &str, found: &DataType, wanted| DataError::ColumnType {
        path: path.to_path_buf(),
        column: column.to_owned(),
        found: found.to_string(),
        wanted,
    };
    let media = data_type(path, schema, &columns.media)?;
    let holds_bytes = match media {
        DataType::Binary => true,
        DataType::Struct(fields) => fields
            .iter()
            .any(|f| f.name() == "bytes" && f.data_type() == &DataType::Binary),
        _ => false,
    };
    if !holds_bytes {
        return Err(wrong(&columns.media, media, "binary"));
    }
    let caption = data_type(path, schema, &columns.caption)?;
    if !matches!(caption, DataType::Utf8 | DataType::Binary) {
        return Err(wrong(&columns.caption, caption, "string"));
    }
    let mut sized = true;
    for name in [&columns.frames, &columns.height, &columns.width] {
        match schema.field_with_name(name) {
            Ok(field) if !field.data_type().is_integer() => {
                return Err(wrong(name, field.data_type(), "integer"));
            }
            Ok(_) => {}
            Err(_) => sized = false,
        }
    }
    if timed {
        for name in [&columns.fps, &columns.duration] {
            match schema.field_with_name(name) {
                Ok(field) if !field.data_type().is_numeric() => {
                    return Err(wrong(name, field.data_type(), "a number"));
                }
                Ok(_) => {}
                Err(_) => sized = false,
            }
        }
    }
    Ok(sized)
}

fn data_type<'a>(path: &Path, schema: &'a Schema, name: &str) -> Result<&'a DataType, DataError> {
    schema
        .field_with_name(name)
        .map(|field| field.data_type())
        .map_err(|_| DataError::MissingColumn {
            path: path.to_path_buf(),
            column: name.to_owned(),
            have: schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
        })
}

/// Reads columns of a row group, all rows or those given (ascending), a few rows at a time.
pub(crate) fn read(
    path: &Path,
    footer: &ArrowReaderMetadata,
    group: usize,
    names: &[&str],
    rows: Option<&[u32]>,
    mut take: impl FnMut(&RecordBatch) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let file = File::open(path).map_err(|source| DataError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let failed = |error: &dyn std::fmt::Display| DataError::shard(path, error);
    let roots: Vec<usize> = names
        .iter()
        .filter_map(|name| footer.schema().index_of(name).ok())
        .collect();
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone())
        .with_row_groups(vec![group])
        .with_projection(mask)
        .with_batch_size(READ_ROWS);
    if let Some(rows) = rows {
        builder = builder.with_row_selection(selection(rows));
    }
    for batch in builder.build().map_err(|error| failed(&error))? {
        take(&batch.map_err(|error| failed(&error))?)?;
    }
    Ok(())
}

// Arrow's offsets of 32 bits hold 2 GiB of media a batch: 128 MiB a row.
const READ_ROWS: usize = 16;

/// The ranges to read and to skip so that only `rows` (ascending) are read.
fn selection(rows: &[u32]) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut at = 0;
    for &row in rows {
        let row = row as usize;
        match selectors.last_mut() {
            Some(last) if row == at => last.row_count += 1,
            _ => {
                if row > at {
                    selectors.push(RowSelector::skip(row - at));
                }
                selectors.push(RowSelector::select(1));
            }
        }
        at = row + 1;
    }
    RowSelection::from(selectors)
}

/// The media column of a batch.
pub(crate) fn media<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a BinaryArray> {
    let column = batch.column_by_name(name)?;
    match column.as_struct_opt() {
        Some(fields) => fields.column_by_name("bytes")?.as_binary_opt(),
        None => column.as_binary_opt(),
    }
}

/// The caption of a row; a missing one is empty.
pub(crate) fn caption(batch: &RecordBatch, name: &str, row: usize) -> String {
    let Some(column) = batch
        .column_by_name(name)
        .filter(|column| column.is_valid(row))
    else {
        return String::new();
    };
    match (column.as_string_opt::<i32>(), column.as_binary_opt::<i32>()) {
        (Some(text), _) => text.value(row).to_owned(),
        (_, Some(bytes)) => String::from_utf8_lossy(bytes.value(row)).into_owned(),
        _ => String::new(),
    }
}

/// A column of integers; what is null or negative is 0, which no size is.
pub(crate) fn sizes(batch: &RecordBatch, name: &str) -> Vec<usize> {
    let Some(column) = batch.column_by_name(name) else {
        return vec![0; batch.num_rows()];
    };
    macro_rules! first_of {
        ($($kind:ty),*) => {$(
            if let Some(values) = column.as_primitive_opt::<$kind>() {
                return values
                    .iter()
                    .map(|value| value.and_then(|value| usize::try_from(value).ok()).unwrap_or(0))
                    .collect();
            }
        )*};
    }
    first_of!(
        Int32Type, Int64Type, Int16Type, Int8Type, UInt32Type, UInt64Type, UInt16Type, UInt8Type
    );
    vec![0; batch.num_rows()]
}

/// A column of numbers; what is null, absent or no number is 0.
pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Vec<f64> {
    let column = batch.column_by_name(name);
    if let Some(values) = column.and_then(|column| column.as_primitive_opt::<Float64Type>()) {
        return values.iter().map(|value| value.unwrap_or(0.0)).collect();
    }
    if let Some(values) = column.and_then(|column| column.as_primitive_opt::<Float32Type>()) {
        return values
            .iter()
            .map(|value| f64::from(value.unwrap_or(0.0)))
            .collect();
    }
    sizes(batch, name)
        .into_iter()
        .map(|size| size as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_holds_its_rows_and_no_others() {
        for rows in [
            vec![0],
            vec![0, 1, 2],
            vec![3, 4, 9],
            vec![0, 2, 4, 5, 6, 20],
        ] {
            let mut at = 0;
            let mut chosen = Vec::new();
            for selector in selection(&rows).iter() {
                if !selector.skip {
                    chosen.extend(at..at + selector.row_count as u32);
                }
                at += selector.row_count as u32;
            }
            assert_eq!(chosen, rows);
        }
    }
}
