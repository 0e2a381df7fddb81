//! A shard's footer, checked against the file, and reading some rows by it.
//!
//! The Arrow schema that some writers store beside the Parquet schema is ignored: it only says how
//! the writer held the values in memory (dictionaries, 64-bit offsets), and would multiply the
//! types to handle here. Binary columns are read as views, so that no value is copied.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy, RowSelector,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::DataError;
use crate::shard::Shard;
use crate::source::Source;

// What is read from the end of a file at first: most footers, with the index of pages before them.
const TAIL: u64 = 64 << 10;
const TAIL_WITH_PAGES: u64 = 512 << 10;
// No footer is larger; one that claims to be is damaged.
const LARGEST: u64 = 256 << 20;

/// Reads a shard's footer, and the index of its pages if it has one and it is wanted.
pub(crate) fn footer(shard: &Shard, pages: bool) -> Result<ArrowReaderMetadata, DataError> {
    let size = shard.object().size;
    let tail = if pages { TAIL_WITH_PAGES } else { TAIL };
    // Values of the index of columns are not needed, only where pages lie.
    let index = if pages {
        PageIndexPolicy::Optional
    } else {
        PageIndexPolicy::Skip
    };
    let mut length = tail.min(size);
    let metadata = loop {
        let bytes = shard.tail(length)?;
        let parsed = unwound(|| {
            let mut reader = ParquetMetaDataReader::new()
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(index);
            reader.try_parse_sized(&bytes, size)?;
            reader.finish()
        });
        match parsed {
            Ok(Ok(metadata)) => break metadata,
            Ok(Err(ParquetError::NeedMoreData(needed)))
                if needed as u64 > length && needed as u64 <= size.min(LARGEST) =>
            {
                length = needed as u64;
            }
            Ok(Err(error)) => return Err(DataError::shard(shard.location(), error)),
            Err(panic) => return Err(DataError::shard(shard.location(), panic)),
        }
    };
    check(&metadata, size).map_err(|reason| DataError::shard(shard.location(), reason))?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let made = unwound(|| ArrowReaderMetadata::try_new(Arc::new(metadata), options));
    made.and_then(|made| made.map_err(|error| error.to_string()))
        .map_err(|reason| DataError::shard(shard.location(), reason))
}

/// Checks that all that the footer points to lies within the file.
fn check(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = u32::try_from(group.num_rows());
        rows.map_err(|_| format!("row group {number} claims {} rows", group.num_rows()))?;
        for column in group.columns() {
            let start = column
                .dictionary_page_offset()
                .unwrap_or(column.data_page_offset());
            let length = column.compressed_size();
            let end = u64::try_from(start)
                .ok()
                .zip(u64::try_from(length).ok())
                .and_then(|(start, length)| start.checked_add(length));
            if end.is_none_or(|end| end > size) {
                return Err(format!(
                    "column {} of row group {number} claims {length} bytes at {start} of {size}",
                    column.column_path()
                ));
            }
        }
    }
    Ok(())
}

/// A choice of rows and columns of a row group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) group: usize,
    pub(crate) names: &'a [&'a str],
    /// All, or these, ascending.
    pub(crate) rows: Option<&'a [u32]>,
}

impl<'a> Part<'a> {
    /// All rows.
    pub(crate) fn all(group: usize, names: &'a [&'a str]) -> Self {
        Self {
            group,
            names,
            rows: None,
        }
    }
}

// Few rows at a time, so that pages are used while they are in the processor's cache.
const READ_ROWS: usize = 16;
// Small values take so little that more at once are faster.
const READ_SMALL: usize = 1024;

/// Reads a part of a shard, a few rows at a time.
pub(crate) fn read(
    shard: &Shard,
    footer: &ArrowReaderMetadata,
    part: Part<'_>,
    mut take: impl FnMut(&RecordBatch) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mask = projection(footer, part.names);
    supported(shard, footer, part.group, &mask)?;
    let leaves = footer.parquet_schema().num_columns();
    let mask_is_not_empty = (0..leaves).any(|leaf| mask.leaf_included(leaf));
    let mut checks = Vec::new();
    let source = match shard.file()? {
        Some(file) => {
            let source = Source::local(file);
            // Where the index says which pages there are, the reader goes to them straight.
            if part.rows.is_some() {
                checks = ranges(shard, footer, part, Pages::ThatGrow)?;
            }
            source
        }
        None => {
            let ranges = ranges(shard, footer, part, Pages::All)?;
            checks.clone_from(&ranges);
            let bytes = shard.fetch(&ranges)?;
            Source::fetched(ranges, bytes, shard.object().size)
        }
    };
    let failed = |reason: String| match source.trouble() {
        Some(error) => DataError::Store(error),
        None => DataError::shard(shard.location(), reason),
    };
    for page in &checks {
        source
            .check_page(page.start)
            .map_err(|error| failed(error.to_string()))?;
    }
    let (schema, large) = views(footer.schema(), part.names);
    let reader = unwound(|| {
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        let metadata = ArrowReaderMetadata::try_new(footer.metadata().clone(), options)?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(source.clone(), metadata)
                .with_row_groups(vec![part.group])
                .with_projection(mask)
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
                .with_batch_size(if large { READ_ROWS } else { READ_SMALL });
        if let Some(rows) = part.rows {
            builder = builder.with_row_selection(selection(rows));
        }
        builder.build()
    });
    let mut reader = reader
        .and_then(|reader| reader.map_err(|error| error.to_string()))
        .map_err(failed)?;
    let mut count = 0;
    loop {
        let next = unwound(|| reader.next().transpose());
        let next = next.and_then(|next| next.map_err(|error| error.to_string()));
        match next.map_err(failed)? {
            Some(batch) => {
                count += batch.num_rows();
                take(&batch)?;
            }
            None => break,
        }
    }
    let all = footer.metadata().row_group(part.group).num_rows() as usize;
    let wanted = part.rows.map_or(all, <[u32]>::len);
    // Columns that all are absent have no rows.
    if count != wanted && mask_is_not_empty {
        return Err(failed(format!("{count} rows came of {wanted}")));
    }
    Ok(())
}

/// Which of the pages are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    All,
    /// Those that take more memory than their bytes: dictionaries, and what is compressed.
    ThatGrow,
}

/// The bytes that hold a part of a shard: pages if it has an index of them, else all of the columns.
pub(crate) fn ranges(
    shard: &Shard,
    footer: &ArrowReaderMetadata,
    part: Part<'_>,
    pages: Pages,
) -> Result<Vec<Range<u64>>, DataError> {
    let metadata = footer.metadata();
    let mask = projection(footer, part.names);
    let chosen = part.rows.map(selection);
    let mut ranges = Vec::new();
    let columns = metadata.row_group(part.group).columns();
    for (number, column) in columns.iter().enumerate() {
        if !mask.leaf_included(number) {
            continue;
        }
        let (start, length) = column.byte_range();
        let end = start + length;
        let index = metadata
            .page_index()
            .and_then(|index| index.offset_index(part.group, number));
        let (Some(chosen), Some(index)) = (&chosen, index) else {
            ranges.push(start..end);
            continue;
        };
        let locations = index.page_locations();
        let before = ranges.len();
        // What lies before the first page is the dictionary.
        if let Some(first) = locations.first()
            && first.offset as u64 != start
        {
            ranges.push(start..first.offset as u64);
        }
        let stored = matches!(column.compression(), Compression::UNCOMPRESSED);
        if pages == Pages::All || !stored {
            ranges.extend(chosen.scan_ranges(locations));
        }
        let inside = |range: &Range<u64>| {
            start <= range.start && range.start <= range.end && range.end <= end
        };
        if !ranges[before..].iter().all(inside) {
            return Err(DataError::shard(
                shard.location(),
                format!(
                    "the index of column {} points elsewhere",
                    column.column_path()
                ),
            ));
        }
    }
    Ok(ranges)
}

fn projection(footer: &ArrowReaderMetadata, names: &[&str]) -> ProjectionMask {
    let roots = names
        .iter()
        .filter_map(|name| footer.schema().index_of(name).ok());
    ProjectionMask::roots(footer.parquet_schema(), roots)
}

fn supported(
    shard: &Shard,
    footer: &ArrowReaderMetadata,
    group: usize,
    mask: &ProjectionMask,
) -> Result<(), DataError> {
    let columns = footer.metadata().row_group(group).columns();
    let unknown = columns.iter().enumerate().find(|(number, column)| {
        let known = !matches!(
            column.compression(),
            Compression::BROTLI(_) | Compression::LZO
        );
        mask.leaf_included(*number) && !known
    });
    match unknown {
        Some((_, column)) => Err(DataError::Unsupported {
            path: shard.location(),
            what: format!(
                "the column {} is compressed by {}",
                column.column_path().string(),
                // Without the level.
                column
                    .compression()
                    .to_string()
                    .split('(')
                    .next()
                    .unwrap_or_default()
            ),
            help: "write it again with zstd, snappy, lz4 or gzip, or uncompressed".into(),
        }),
        None => Ok(()),
    }
}

/// The schema with binary columns as views, and whether any of the named ones is binary.
fn views(schema: &Schema, names: &[&str]) -> (Schema, bool) {
    let mut large = false;
    let fields = schema.fields().iter().map(|field| {
        let field = view(field);
        large |= names.contains(&field.name().as_str()) && holds_views(field.data_type());
        field
    });
    (Schema::new(fields.collect::<Fields>()), large)
}

fn view(field: &Arc<Field>) -> Arc<Field> {
    let viewed = match field.data_type() {
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(view).collect()),
        _ => return field.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(viewed))
}

fn holds_views(kind: &DataType) -> bool {
    match kind {
        DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| holds_views(field.data_type())),
        _ => false,
    }
}

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

/// Calls the Parquet reader, which panics at some damage; that is a text then.
fn unwound<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves half done is dropped by the caller.
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the Parquet reader gave up: {}", text.unwrap_or_default())
}

/// Footers that were read lately, with their index of pages.
#[derive(Default)]
pub(crate) struct Footers {
    /// The latest last.
    kept: Mutex<Vec<(usize, Arc<ArrowReaderMetadata>)>>,
}

// Bytes of footers that are kept, so that windows over many shards do not read them again and again.
const KEPT: usize = 64 << 20;

impl Footers {
    /// The footer of the shard of this number.
    pub(crate) fn get(
        &self,
        number: usize,
        shard: &Shard,
    ) -> Result<Arc<ArrowReaderMetadata>, DataError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(other, _)| *other == number) {
                let found = kept.remove(at);
                let footer = found.1.clone();
                kept.push(found);
                return Ok(footer);
            }
        }
        let footer = Arc::new(footer(shard, true)?);
        let mut kept = lock();
        kept.retain(|(other, _)| *other != number);
        kept.push((number, footer.clone()));
        let bytes = |kept: &[(usize, Arc<ArrowReaderMetadata>)]| -> usize {
            kept.iter().map(|(_, of)| of.metadata().memory_size()).sum()
        };
        while kept.len() > 1 && bytes(&kept) > KEPT {
            kept.remove(0);
        }
        Ok(footer)
    }
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
