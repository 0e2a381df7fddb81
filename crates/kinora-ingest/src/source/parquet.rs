//! Parquet files of other schemas, e.g. those of Hugging Face, whose media are structs of bytes and
//! path.

use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader};
use serde_json::{Map, Value};

use super::captions::take;
use super::member::is_url;
use super::recognise;
use super::{Files, Fingerprint, Item, Items, Source, Taken, Words};
use crate::config::ColumnNames;
use crate::hold::Hold;
use crate::shards::{self, Remote, guarded};
use crate::{IngestError, SourceKind};

/// Parquet files, one after the other.
pub(crate) struct Parquets {
    print: Fingerprint,
    files: Vec<Shard>,
    names: ColumnNames,
}

struct Shard {
    path: PathBuf,
    name: String,
    /// The file and its footer, or why it cannot be read.
    opened: Result<(Remote, ArrowReaderMetadata), String>,
    rows: u64,
}

impl Parquets {
    /// Reads all footers.
    ///
    /// # Errors
    /// If there is no Parquet file, or a readable one has no column for the media.
    pub(crate) fn open(path: &Path, names: &ColumnNames) -> Result<Self, IngestError> {
        let mut files = Vec::new();
        let mut seen = Files::default();
        for path in recognise::files(path, "parquet")? {
            let meta = path.metadata().map_err(IngestError::io(&path))?;
            seen.add(&path, &meta);
            files.push(Shard::open(path, names)?);
        }
        let items = files.iter().map(|file| file.rows).sum();
        let print = seen.fingerprint(path, SourceKind::Parquet, items);
        Ok(Self {
            print,
            files,
            names: names.clone(),
        })
    }
}

impl Source for Parquets {
    fn print(&self) -> &Fingerprint {
        &self.print
    }

    fn from(&self, position: u64) -> Result<Items<'_>, IngestError> {
        let mut skip = position;
        let mut parts: Vec<Items<'_>> = Vec::new();
        for file in &self.files {
            if skip >= file.rows {
                skip -= file.rows;
                continue;
            }
            let from = std::mem::take(&mut skip);
            // Opened when it is reached, so that the files of a large set are not open at once.
            let rows = std::iter::once(()).flat_map(move |()| Rows::open(file, &self.names, from));
            parts.push(Box::new(rows));
        }
        Ok(Box::new(parts.into_iter().flatten()))
    }
}

impl Shard {
    fn open(path: PathBuf, names: &ColumnNames) -> Result<Self, IngestError> {
        let opened = Remote::local(&path).and_then(|file| {
            let footer = shards::footer(&file)?;
            let groups = footer.metadata().row_groups();
            match groups.iter().any(|group| group.num_rows() < 0) {
                true => Err("a row group has less than no rows".to_owned()),
                false => Ok((file, footer)),
            }
        });
        if let Ok((_, footer)) = &opened {
            let schema = footer.schema();
            let there = |name: &str| schema.field_with_name(name).is_ok();
            let taken = Taken::of(names, there);
            if !taken.media.is_some_and(there) {
                let have: Vec<&str> = schema
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                return Err(IngestError::config(
                    format!(
                        "{} has no column {}; it has {}",
                        path.display(),
                        taken.media.unwrap_or("for the media"),
                        have.join(", ")
                    ),
                    "name it: --media-column, or ingest.columns.media",
                ));
            }
        }
        let rows = match &opened {
            Ok((_, footer)) => footer
                .metadata()
                .row_groups()
                .iter()
                .map(|group| group.num_rows() as u64)
                .sum(),
            Err(_) => 1,
        };
        Ok(Self {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            path,
            opened,
            rows,
        })
    }
}

/// The rows of a file. A row group that cannot be read is as many broken items as it has rows left.
struct Rows<'a> {
    file: &'a Shard,
    names: &'a ColumnNames,
    /// Rows given out.
    at: u64,
    /// The row group that is read, where it ends, and its reader.
    group: usize,
    end: u64,
    reader: Option<ParquetRecordBatchReader>,
    batch: std::vec::IntoIter<Item>,
    failed: Option<String>,
}

impl<'a> Rows<'a> {
    fn open(file: &'a Shard, names: &'a ColumnNames, from: u64) -> Self {
        let mut rows = Self {
            file,
            names,
            at: from,
            group: 0,
            end: 0,
            reader: None,
            batch: Vec::new().into_iter(),
            failed: None,
        };
        match &file.opened {
            Ok(_) => rows.seek(),
            Err(reason) => {
                rows.failed = Some(reason.clone());
                rows.end = 1;
            }
        }
        rows
    }

    /// Opens the row group that holds the next row.
    fn seek(&mut self) {
        let Ok((source, footer)) = &self.file.opened else {
            return;
        };
        let groups = footer.metadata().row_groups();
        let mut before = 0;
        for (index, group) in groups.iter().enumerate() {
            let end = before + group.num_rows() as u64;
            if self.at < end {
                (self.group, self.end, self.failed) = (index, end, None);
                let opened = guarded(|| open_group(source, footer, index, self.at - before));
                match opened {
                    Ok(reader) => self.reader = Some(reader),
                    Err(reason) => (self.reader, self.failed) = (None, Some(reason)),
                }
                return;
            }
            before = end;
        }
    }

    fn key(&self, row: u64) -> String {
        format!("{}:{row}", self.file.name)
    }

    fn broken(&self, reason: &str) -> Item {
        let reason = format!("{} row {}: {reason}", self.file.path.display(), self.at);
        Item::broken(self.key(self.at), reason)
    }
}

impl Iterator for Rows<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            if self.at >= self.file.rows {
                return None;
            }
            if self.at >= self.end {
                self.seek();
            }
            if let Some(reason) = &self.failed {
                let item = self.broken(reason);
                self.at += 1;
                return Some(item);
            }
            if let Some(item) = self.batch.next() {
                self.at += 1;
                return Some(item);
            }
            let mut reader = self.reader.take();
            let next = guarded(|| match reader.as_mut().and_then(Iterator::next) {
                Some(Ok(batch)) if batch.num_rows() > 0 => {
                    let rows = self.at..self.end.min(self.at + batch.num_rows() as u64);
                    let items = rows
                        .zip(0..)
                        .map(|(row, index)| self.item(&batch, index, row));
                    Ok(items.collect::<Vec<_>>())
                }
                Some(Ok(_)) | None => Err("the row group ends before its last row".into()),
                Some(Err(error)) => Err(error.to_string()),
            });
            match next {
                Ok(items) => (self.batch, self.reader) = (items.into_iter(), reader),
                Err(reason) => self.failed = Some(reason),
            }
        }
    }
}

/// The rows of a row group from one on.
fn open_group(
    file: &Remote,
    footer: &ArrowReaderMetadata,
    group: usize,
    skip: u64,
) -> Result<ParquetRecordBatchReader, String> {
    // Lists of numbers, embeddings and the like, would be read for nothing.
    let schema = footer.schema();
    let wanted = |name: &str| {
        let field = schema.field_with_name(name);
        !field.is_ok_and(|field| matches!(field.data_type(), DataType::List(item) if item.data_type().is_numeric()))
    };
    let rows = footer.metadata().row_group(group).num_rows() as usize;
    shards::rows(file, footer, group, wanted, Some((skip as usize, rows)))
}

impl Rows<'_> {
    fn item(&self, batch: &RecordBatch, index: usize, row: u64) -> Item {
        self.made(batch, index, row).unwrap_or_else(|reason| {
            Item::broken(
                self.key(row),
                format!("{} row {row}: {reason}", self.file.path.display()),
            )
        })
    }

    fn made(&self, batch: &RecordBatch, index: usize, row: u64) -> Result<Item, String> {
        let schema = batch.schema();
        let taken = Taken::of(self.names, |name| schema.field_with_name(name).is_ok());
        let column = |name: Option<&str>| name.and_then(|name| batch.column_by_name(name));
        let (media, place) = self.media(column(taken.media), index)?;
        let mut record = Map::new();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            let is = |name: Option<&str>| name == Some(field.name());
            if is(taken.media) || is(taken.audio) {
                continue;
            }
            if let Some(value) = value(column, index) {
                record.insert(field.name().clone(), value);
            }
        }
        let captions = take(&mut record, taken.caption, taken.captions)?;
        let key = match taken.key.and_then(|name| record.remove(name)) {
            Some(Value::String(key)) if !key.is_empty() => key,
            Some(Value::Number(key)) => key.to_string(),
            _ => self.key(row),
        };
        let audio = match column(taken.audio) {
            Some(column) if column.is_valid(index) => Some(self.media(Some(column), index)?.0),
            _ => None,
        };
        Ok(Item {
            key,
            media,
            place,
            words: Words {
                ready: captions,
                meta: record,
                ..Words::default()
            },
            audio,
        })
    }

    /// Bytes, or a struct of bytes and path, or a path.
    fn media(
        &self,
        column: Option<&ArrayRef>,
        index: usize,
    ) -> Result<(Hold, Option<String>), String> {
        let column = column.ok_or("it has no column for the media")?;
        if column.is_null(index) {
            return Err("its media are null".into());
        }
        if let Some(bytes) = bytes(column, index) {
            return Ok((Hold::Bytes(bytes), None));
        }
        if let Some(fields) = column.as_struct_opt() {
            let inner = |name: &str| {
                fields
                    .column_by_name(name)
                    .filter(|column| column.is_valid(index))
            };
            if let Some(bytes) = inner("bytes").and_then(|column| bytes(column, index)) {
                return Ok((Hold::Bytes(bytes), None));
            }
            if let Some(Value::String(place)) =
                inner("path").and_then(|column| value(column, index))
            {
                return Ok(self.place(&place));
            }
        }
        match value(column, index) {
            Some(Value::String(place)) => Ok(self.place(&place)),
            _ => Err(format!(
                "its media are {}, which is neither bytes nor a path",
                column.data_type()
            )),
        }
    }

    fn place(&self, place: &str) -> (Hold, Option<String>) {
        if is_url(place) {
            return (Hold::Remote(place.to_owned()), Some(place.to_owned()));
        }
        let path = self.file.path.parent().unwrap_or(Path::new("")).join(place);
        (Hold::file(path), None)
    }
}

/// A value of bytes, in any of their types.
pub(crate) fn bytes(column: &ArrayRef, index: usize) -> Option<Vec<u8>> {
    match column.data_type() {
        DataType::Binary => Some(column.as_binary::<i32>().value(index).to_vec()),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(index).to_vec()),
        DataType::BinaryView => Some(column.as_binary_view().value(index).to_vec()),
        _ => None,
    }
}

/// A value as JSON; none if it is null, bytes, or of a type that no caption and no note has.
pub(crate) fn value(column: &ArrayRef, index: usize) -> Option<Value> {
    if column.is_null(index) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(index).into(),
        DataType::Utf8View => column.as_string_view().value(index).into(),
        DataType::Boolean => column.as_boolean().value(index).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).into(),
        DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(index)).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(index).into(),
        DataType::List(_) => list(&column.as_list::<i32>().value(index)),
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(index)),
        DataType::Struct(_) => object(column.as_struct(), index),
        _ => return None,
    })
}

fn list(entries: &ArrayRef) -> Value {
    (0..entries.len())
        .map(|index| value(entries, index).unwrap_or(Value::Null))
        .collect()
}

fn object(fields: &StructArray, index: usize) -> Value {
    let names = fields.column_names().into_iter();
    let filled = names
        .zip(fields.columns())
        .filter_map(|(name, column)| Some((name.to_owned(), value(column, index)?)));
    Value::Object(filled.collect())
}
