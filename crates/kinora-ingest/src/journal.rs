//! The journal: how far an ingest has come, so that it can go on after any end.
//!
//! It is replaced after every complete shard. What it does not name was not done: shards and lines
//! beyond it are removed before going on.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kinora_data::{MANIFEST, ShardEntry};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::source::Fingerprint;
use crate::{IngestConfig, IngestError, Report};

/// The hidden folder in the output.
const FOLDER: &str = ".ingest";
const STATE: &str = "state.json";

/// The list of what was left out, in the output folder.
pub(crate) const DROPPED: &str = "dropped.jsonl";
/// The report, in the output folder.
pub(crate) const REPORT: &str = "report.json";

/// Whether a file of the output folder is written by an ingest.
pub(crate) fn is_output(name: &str) -> bool {
    name == MANIFEST || name == REPORT || name == DROPPED || is_shard(name)
}

/// Whether a file of the output folder is a shard, or an unfinished one.
pub(crate) fn is_shard(name: &str) -> bool {
    let whole = name.starts_with("shard-") && name.ends_with(".parquet");
    whole || name.starts_with(".shard-") && name.contains(".parquet.partial")
}

/// What was asked for, and how far it is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    program: String,
    settings: Value,
    sources: Vec<Fingerprint>,
    pub(crate) state: State,
}

/// How far it is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whether all is done.
    pub(crate) done: bool,
    /// Items that are done.
    pub(crate) items: u64,
    /// Scenes of the next item that are done.
    pub(crate) parts: u64,
    /// Complete shards.
    pub(crate) shards: Vec<ShardEntry>,
    /// Their seconds, bit by bit: a number that is written as text may come back as its neighbour.
    seconds: Vec<u64>,
    /// Bytes of the list of what was dropped.
    pub(crate) dropped: u64,
    /// Bytes of the log of what was seen.
    pub(crate) seen: u64,
    /// The counts.
    pub(crate) report: Report,
}

/// An output folder that no other process writes to.
pub(crate) struct Held {
    folder: PathBuf,
    _lock: File,
}

impl Held {
    /// Makes the folder and holds it. `shared` says that it may hold other files.
    ///
    /// # Errors
    /// If another process holds it, or it is in use for something else.
    pub(crate) fn open(out: &Path, shared: bool) -> Result<Self, IngestError> {
        let folder = out.join(FOLDER);
        if !folder.is_dir() && out.exists() {
            for entry in fs::read_dir(out).map_err(IngestError::io(out))? {
                let name = entry.map_err(IngestError::io(out))?.file_name();
                let name = name.to_string_lossy();
                if !shared || is_output(&name) {
                    return Err(IngestError::config(
                        format!(
                            "{} is in use: it holds {name}, and no ingest",
                            out.display()
                        ),
                        "write to a new folder",
                    ));
                }
            }
        }
        fs::create_dir_all(&folder).map_err(IngestError::io(&folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(IngestError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IngestError::Busy(out.to_path_buf())),
            Err(TryLockError::Error(error)) => return Err(IngestError::io(&path)(error)),
        }
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// Where the log of what was seen lies.
    pub(crate) fn seen(&self) -> PathBuf {
        self.folder.join("seen")
    }

    /// The journal, if there is one.
    pub(crate) fn journal(&self) -> Result<Option<Journal>, IngestError> {
        let path = self.folder.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IngestError::io(&path)(error)),
        };
        let mut journal: Journal = serde_json::from_slice(&bytes).map_err(|error| {
            IngestError::config(
                format!("{} is no journal of this program: {error}", path.display()),
                "remove the whole folder and begin again",
            )
        })?;
        let State {
            shards, seconds, ..
        } = &mut journal.state;
        for (shard, bits) in shards.iter_mut().zip(seconds) {
            shard.seconds = f64::from_bits(*bits);
        }
        Ok(Some(journal))
    }

    /// Replaces the journal, whole or not at all.
    pub(crate) fn save(&self, journal: &mut Journal) -> Result<(), IngestError> {
        let state = &mut journal.state;
        state.seconds = state
            .shards
            .iter()
            .map(|shard| shard.seconds.to_bits())
            .collect();
        let text = serde_json::to_string(journal).expect("strings and numbers");
        let path = self.folder.join(STATE);
        let partial = self.folder.join(format!("{STATE}.partial"));
        fs::write(&partial, text)
            .and_then(|()| File::open(&partial)?.sync_all())
            .and_then(|()| fs::rename(&partial, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(IngestError::io(&path))
    }
}

impl Journal {
    /// The journal of an ingest that begins.
    pub(crate) fn new(config: &IngestConfig, sources: Vec<Fingerprint>, report: Report) -> Self {
        Self {
            program: PROGRAM.into(),
            settings: settings(config),
            sources,
            state: State {
                done: false,
                items: 0,
                parts: 0,
                shards: Vec::new(),
                seconds: Vec::new(),
                dropped: 0,
                seen: 0,
                report,
            },
        }
    }

    /// What is different in what is asked for now, in words.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.program != now.program {
            lines.push(format!(
                "it was begun by {}, and this is {}",
                self.program, now.program
            ));
        }
        compare("ingest", &self.settings, &now.settings, &mut lines);
        if self.sources.len() != now.sources.len() {
            lines.push(format!(
                "{} sources, now {}",
                self.sources.len(),
                now.sources.len()
            ));
        }
        for (was, is) in self.sources.iter().zip(&now.sources) {
            if was.path != is.path {
                lines.push(format!(
                    "the source was {}, now it is {}",
                    was.path, is.path
                ));
            } else {
                lines.extend(was.difference(is));
            }
        }
        lines
    }
}

const PROGRAM: &str = concat!("kinora ", env!("CARGO_PKG_VERSION"));

/// The settings that decide the output.
fn settings(config: &IngestConfig) -> Value {
    let mut value = serde_json::to_value(config).expect("a configuration is plain data");
    if let Some(settings) = value.as_object_mut() {
        // May be raised to go on.
        settings.remove("max_bad");
    }
    value
}

/// Adds a line for each key that differs.
fn compare(key: &str, was: &Value, is: &Value, lines: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            let mut keys: Vec<&String> = was.keys().chain(is.keys()).collect();
            keys.sort();
            keys.dedup();
            for name in keys {
                let of = |table: &serde_json::Map<String, Value>| {
                    table.get(name).cloned().unwrap_or_default()
                };
                compare(&format!("{key}.{name}"), &of(was), &of(is), lines);
            }
        }
        _ if was == is => {}
        _ => lines.push(format!("{key} was {}, and is {}", shown(was), shown(is))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        other => other.to_string(),
    }
}
