//! Sources: ordered lists of items, each a picture or clip with its captions, that can be opened at
//! any position.

mod captions;
mod fingerprint;
mod folder;
mod member;
mod parquet;
mod recognise;
mod records;
mod table;
mod tar;

use std::path::{Path, PathBuf};

use kinora_data::Caption;
use serde_json::{Map, Value};

use crate::config::{ColumnNames, IngestConfig, SourceKind};
use crate::hold::Hold;
use crate::{IngestError, MediaPlace};

pub(crate) use captions::words;
use fingerprint::Files;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use member::is_url;
pub(crate) use parquet::{bytes, value};

/// An ordered list of items. The same files give the same list.
pub(crate) trait Source: Send + Sync {
    /// What it is, and what tells whether it has changed.
    fn print(&self) -> &Fingerprint;

    /// The items from a position on.
    ///
    /// # Errors
    /// If the source cannot be opened. A broken item is an item.
    fn from(&self, position: u64) -> Result<Items<'_>, IngestError>;

    /// What lies about that belongs to no item, in words.
    fn ignored(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Items in order.
pub(crate) type Items<'a> = Box<dyn Iterator<Item = Item> + Send + 'a>;

/// A picture or clip with what belongs to it.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its name within its source.
    pub(crate) key: String,
    /// Its media.
    pub(crate) media: Hold,
    /// Where the media can be found later, if it is a file or URL of its own.
    pub(crate) place: Option<String>,
    /// Its captions.
    pub(crate) words: Words,
    /// A sound file beside it.
    pub(crate) audio: Option<Hold>,
}

impl Item {
    /// An item that cannot be read.
    pub(crate) fn broken(key: String, reason: String) -> Self {
        Self {
            key,
            media: Hold::Missing(reason),
            place: None,
            words: Words::default(),
            audio: None,
        }
    }

    /// The bytes that it takes to hold it.
    pub(crate) fn size(&self) -> u64 {
        self.media.size() + self.audio.as_ref().map_or(0, Hold::size) + self.words.size()
    }
}

/// Where an item's captions lie.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// Those that came with it.
    pub(crate) ready: Vec<Caption>,
    /// A text that is one caption.
    pub(crate) text: Option<Hold>,
    /// A JSON object with captions, and whatever else.
    pub(crate) json: Option<Hold>,
    /// What else came with it.
    pub(crate) meta: Map<String, Value>,
}

impl Words {
    fn size(&self) -> u64 {
        let size = |hold: &Option<Hold>| hold.as_ref().map_or(0, Hold::size);
        let ready: usize = self.ready.iter().map(|caption| caption.text.len()).sum();
        ready as u64 + size(&self.text) + size(&self.json)
    }
}

/// Opens the sources, recognising what they are.
///
/// # Errors
/// If there is none, one is not there, or is of no known kind.
pub(crate) fn open(
    paths: &[PathBuf],
    config: &IngestConfig,
    out: &Path,
) -> Result<Vec<Box<dyn Source>>, IngestError> {
    if paths.is_empty() {
        return Err(IngestError::config(
            "no source is given",
            "name a folder of media, a table, tar files or Parquet files",
        ));
    }
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for path in paths {
        let kind = match config.kind {
            Some(kind) => kind,
            None => recognise::kind(path)?,
        };
        let inside = matches!(kind, SourceKind::Tar | SourceKind::Parquet);
        let outside = |path: &Path| match (path.canonicalize(), out.canonicalize()) {
            (Ok(path), Ok(out)) => !path.starts_with(out),
            _ => true,
        };
        if config.media == MediaPlace::Uri && kind == SourceKind::Folder && outside(path) {
            return Err(IngestError::config(
                format!(
                    "media = \"uri\" names media by their path from the data set's folder, and {} does not lie in {}",
                    path.display(),
                    out.display()
                ),
                format!(
                    "write the data set into the folder of the media: --out {}",
                    path.display()
                ),
            ));
        }
        if inside && config.media == MediaPlace::Uri {
            return Err(IngestError::config(
                format!(
                    "media = \"uri\", but the media of {} lie inside of {} files",
                    path.display(),
                    kind.name()
                ),
                "use media = \"inline\"",
            ));
        }
        let source: Box<dyn Source> = match kind {
            SourceKind::Folder => Box::new(folder::Folder::open(path, out)?),
            SourceKind::Table => Box::new(table::Table::open(path, &config.columns)?),
            SourceKind::Tar => Box::new(tar::Tars::open(path)?),
            SourceKind::Parquet => Box::new(parquet::Parquets::open(path, &config.columns)?),
        };
        sources.push(source);
    }
    Ok(sources)
}

/// The first of some names that is there, or the one that the user gave.
pub(crate) fn chosen<'a>(
    given: Option<&'a String>,
    usual: &[&'a str],
    there: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    match given {
        Some(name) => Some(name.as_str()),
        None => usual.iter().copied().find(|name| there(name)),
    }
}

/// The usual names of the media's column.
const MEDIA_NAMES: [&str; 14] = [
    "media",
    "image",
    "video",
    "mp4",
    "png",
    "jpg",
    "jpeg",
    "webp",
    "path",
    "file",
    "file_name",
    "filename",
    "uri",
    "url",
];
/// The usual names of the caption's column.
const CAPTION_NAMES: [&str; 6] = ["caption", "text", "prompt", "description", "title", "txt"];
/// The usual names of the column of several captions.
const CAPTIONS_NAMES: [&str; 2] = ["captions", "texts"];
/// The usual names of the sample's name.
const KEY_NAMES: [&str; 3] = ["key", "id", "__key__"];
/// The usual name of the sound's path.
const AUDIO_NAMES: [&str; 1] = ["audio"];

/// The names by which one record's fields are taken.
pub(crate) struct Taken<'a> {
    pub(crate) media: Option<&'a str>,
    pub(crate) caption: Option<&'a str>,
    pub(crate) captions: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) audio: Option<&'a str>,
}

impl<'a> Taken<'a> {
    pub(crate) fn of(names: &'a ColumnNames, there: impl Fn(&str) -> bool) -> Self {
        Self {
            media: chosen(names.media.as_ref(), &MEDIA_NAMES, &there),
            caption: chosen(names.caption.as_ref(), &CAPTION_NAMES, &there),
            captions: chosen(names.captions.as_ref(), &CAPTIONS_NAMES, &there),
            key: chosen(names.key.as_ref(), &KEY_NAMES, &there),
            audio: chosen(names.audio.as_ref(), &AUDIO_NAMES, &there),
        }
    }
}
