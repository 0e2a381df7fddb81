//! Tables: JSON Lines, CSV and TSV, whose records name media files and hold captions.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use super::captions::take;
use super::member::{is_url, split};
use super::records::{Record, Records};
use super::{Fingerprint, Item, Items, Source, Taken, Words};
use crate::config::ColumnNames;
use crate::hold::Hold;
use crate::{IngestError, SourceKind};

/// A table, with the place of each record.
pub(crate) struct Table {
    path: PathBuf,
    print: Fingerprint,
    names: ColumnNames,
    format: Format,
    starts: Vec<u64>,
}

enum Format {
    Json,
    /// Fields between delimiters, under these headings.
    Fields(u8, Vec<String>),
}

impl Format {
    fn delimiter(&self) -> Option<u8> {
        match self {
            Self::Json => None,
            Self::Fields(delimiter, _) => Some(*delimiter),
        }
    }
}

impl Table {
    /// Reads through a table once, to count its records.
    ///
    /// # Errors
    /// If it cannot be read, or lacks a column for the media.
    pub(crate) fn open(path: &Path, names: &ColumnNames) -> Result<Self, IngestError> {
        let failed = |error| IngestError::io(path)(error);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut format = match split(&name).1.to_ascii_lowercase().as_str() {
            "csv" => Format::Fields(b',', Vec::new()),
            "tsv" => Format::Fields(b'\t', Vec::new()),
            _ => Format::Json,
        };
        let mut hash = Xxh3::new();
        let mut records = Records::open(path, format.delimiter(), 0).map_err(failed)?;
        if let Format::Fields(delimiter, headings) = &mut format {
            let first = records.next(|read| hash.update(read)).map_err(failed)?;
            if let Some(Record::Line(line)) = first {
                *headings = fields(&line, *delimiter).unwrap_or_default();
            }
            let taken = Taken::of(names, |name| headings.iter().any(|heading| heading == name));
            if !taken
                .media
                .is_some_and(|name| headings.iter().any(|heading| heading == name))
            {
                return Err(IngestError::config(
                    format!(
                        "{} has no column {}; it has {}",
                        path.display(),
                        taken.media.unwrap_or("for the media"),
                        headings.join(", ")
                    ),
                    "name it: --media-column, or ingest.columns.media",
                ));
            }
        }
        let mut starts = Vec::new();
        let mut at = records.at();
        while let Some(record) = records.next(|read| hash.update(read)).map_err(failed)? {
            let blank = matches!(&record, Record::Line(line) if line.trim_ascii().is_empty());
            if !blank {
                starts.push(at);
            }
            at = records.at();
        }
        let print = Fingerprint {
            path: path.display().to_string(),
            kind: SourceKind::Table,
            items: starts.len() as u64,
            bytes: at,
            hash: format!("{:016x}", hash.digest()),
            newest: path.display().to_string(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            print,
            names: names.clone(),
            format,
            starts,
        })
    }

    /// The record at a position as an object.
    fn record(&self, line: &[u8]) -> Result<Map<String, Value>, String> {
        match &self.format {
            Format::Json => {
                let line = line.strip_prefix(BOM).unwrap_or(line);
                match serde_json::from_slice(line).map_err(|error| error.to_string())? {
                    Value::Object(object) => Ok(object),
                    other => Err(format!("a line is {other:.60}, which is no object")),
                }
            }
            Format::Fields(delimiter, headings) => {
                let fields = fields(line, *delimiter)?;
                if fields.len() != headings.len() {
                    return Err(format!(
                        "a row has {} fields under {} headings",
                        fields.len(),
                        headings.len()
                    ));
                }
                let filled = headings
                    .iter()
                    .zip(fields)
                    .filter(|(_, field)| !field.is_empty());
                Ok(filled
                    .map(|(name, field)| (name.clone(), Value::String(field)))
                    .collect())
            }
        }
    }

    fn item(&self, position: u64, read: Result<Record, String>) -> Item {
        // Counted from 1, as editors do, but over records.
        let number = format!("{:06}", position + 1);
        let made = read.and_then(|record| match record {
            Record::Line(line) => self.made(&number, &line),
            Record::TooLong => Err("a record is longer than 4 MB".into()),
        });
        made.unwrap_or_else(|reason| {
            let reason = format!("{} record {}: {reason}", self.path.display(), position + 1);
            Item::broken(number, reason)
        })
    }

    fn made(&self, number: &str, line: &[u8]) -> Result<Item, String> {
        let mut record = self.record(line)?;
        let taken = Taken::of(&self.names, |name| record.contains_key(name));
        let place = match taken.media.map(|name| (name, record.remove(name))) {
            Some((_, Some(Value::String(place)))) if !place.is_empty() => place,
            Some((name, Some(other))) => {
                return Err(format!("{name} is {other}, which is no path"));
            }
            Some((name, None)) => return Err(format!("it has no {name}")),
            None => return Err("it has no field for the media".into()),
        };
        let (key, audio) = (taken.key, taken.audio);
        let captions = take(&mut record, taken.caption, taken.captions)?;
        let key = match key.and_then(|name| record.remove(name)) {
            Some(Value::String(key)) if !key.is_empty() => key,
            Some(Value::Number(key)) => key.to_string(),
            _ => format!("{number}-{}", place.rsplit('/').next().unwrap_or_default()),
        };
        let audio = match audio.map(|name| (name, record.remove(name))) {
            Some((_, Some(Value::String(place)))) if !place.is_empty() => Some(self.hold(&place)),
            Some((name, Some(Value::Object(_) | Value::Array(_)))) => {
                return Err(format!("{name} is no path"));
            }
            _ => None,
        };
        Ok(Item {
            key,
            media: self.hold(&place),
            place: Some(match is_url(&place) {
                true => place,
                false => self.beside(&place).to_string_lossy().into_owned(),
            }),
            words: Words {
                ready: captions,
                meta: record,
                ..Words::default()
            },
            audio,
        })
    }

    fn beside(&self, place: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(place)
    }

    fn hold(&self, place: &str) -> Hold {
        if is_url(place) {
            return Hold::Remote(place.to_owned());
        }
        Hold::file(self.beside(place))
    }
}

impl Source for Table {
    fn print(&self) -> &Fingerprint {
        &self.print
    }

    fn from(&self, position: u64) -> Result<Items<'_>, IngestError> {
        let Some(&start) = self.starts.get(position as usize) else {
            return Ok(Box::new(std::iter::empty()));
        };
        let mut records = Records::open(&self.path, self.format.delimiter(), start)
            .map_err(IngestError::io(&self.path))?;
        let mut at = position;
        let rest = std::iter::from_fn(move || {
            self.starts.get(at as usize)?;
            loop {
                let read = match records.next(|_| {}) {
                    Ok(Some(Record::Line(line))) if line.trim_ascii().is_empty() => continue,
                    Ok(Some(record)) => Ok(record),
                    Ok(None) => Err("the table has become shorter".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                at += 1;
                return Some(self.item(at - 1, read));
            }
        });
        Ok(Box::new(rest))
    }
}

/// The fields of a row.
fn fields(line: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter)
        .from_reader(line);
    match reader.records().next() {
        Some(Ok(record)) => Ok(record.iter().map(str::to_owned).collect()),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(Vec::new()),
    }
}

const BOM: &[u8] = "\u{feff}".as_bytes();
