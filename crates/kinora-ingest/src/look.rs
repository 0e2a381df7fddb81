//! What a data set holds, without training on it: any Parquet files with media and captions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use kinora_data::Storage;
use kinora_media::probe;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde::Serialize;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::shards::{self, Listed, Remote};
use crate::source::{Taken, bytes, value};
use crate::{ColumnNames, Histograms, IngestError};

/// What a data set holds.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// Where it lies.
    pub locations: Vec<String>,
    /// Parquet files.
    pub shards: u64,
    /// Their row groups.
    pub row_groups: u64,
    /// Their rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of the column of media, as stored.
    pub media_bytes: u64,
    /// The version of Kinora's schema, if they were written by it.
    pub schema: Option<String>,
    /// Names and types of the first file's columns.
    pub columns: Vec<(String, String)>,
    /// The columns that hold media and captions.
    pub named: Vec<String>,
    /// Rows that are images.
    pub images: u64,
    /// Rows that are videos.
    pub videos: u64,
    /// Seconds of all videos.
    pub seconds: f64,
    /// Rows with sound.
    pub sounds: u64,
    /// Rows without a caption.
    pub uncaptioned: u64,
    /// Whether frames and sizes were read off the media, as there are no columns for them.
    pub measured: bool,
    /// Histograms of all rows.
    pub histograms: Histograms,
    /// Files and rows that cannot be read: how many.
    pub unreadable: u64,
    /// The first of them, with reasons.
    pub examples: Vec<String>,
    /// Rows that were asked for.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

/// A row with its media.
#[derive(Clone, Debug)]
pub struct Sample {
    /// File and row.
    pub place: String,
    /// All its columns but those of bytes.
    pub columns: Map<String, Value>,
    /// Its caption, or the first of them.
    pub caption: String,
    /// The media.
    pub media: Result<Vec<u8>, String>,
    /// The sound file that belongs to it.
    pub audio: Option<Vec<u8>>,
}

/// The rows that are wanted besides the numbers.
#[derive(Clone, Debug, Default)]
pub struct Searched {
    /// This many, drawn by chance.
    pub random: usize,
    /// Another seed draws others.
    pub seed: u64,
    /// The one with this key, or at this `file:row`.
    pub key: Option<String>,
}

const EXAMPLES: usize = 10;

/// Looks through a data set. The caller is told of rows done and rows in all.
///
/// # Errors
/// If there is no Parquet file, or none of them has the columns.
pub fn look(
    locations: &[String],
    storage: &Arc<Storage>,
    names: &ColumnNames,
    searched: &Searched,
    mut progress: impl FnMut(u64, u64),
) -> Result<Look, IngestError> {
    let mut look = Look {
        locations: locations.to_vec(),
        shards: 0,
        row_groups: 0,
        rows: 0,
        bytes: 0,
        media_bytes: 0,
        schema: None,
        columns: Vec::new(),
        named: Vec::new(),
        images: 0,
        videos: 0,
        seconds: 0.0,
        sounds: 0,
        uncaptioned: 0,
        measured: false,
        histograms: Histograms::default(),
        unreadable: 0,
        examples: Vec::new(),
        samples: Vec::new(),
    };
    let mut files = Vec::new();
    for location in locations {
        let listed = Arc::new(shards::list(storage, location)?);
        for object in &listed.files {
            look.shards += 1;
            look.bytes += object.size;
            let file = Remote::new(&listed, object);
            match shards::footer(&file) {
                Ok(footer) => {
                    look.rows += footer.metadata().file_metadata().num_rows().max(0) as u64;
                    files.push(File {
                        listed: listed.clone(),
                        name: object.name.clone(),
                        file,
                        footer,
                    });
                }
                Err(reason) => look.unreadable(&object.name, &reason),
            }
        }
    }
    let total = look.rows;
    let mut done = 0;
    let mut chance = Chance::new(searched);
    for (at, file) in files.iter().enumerate() {
        look.file(file, names);
        file.each(&mut look, names, |look, row, seen| {
            look.row(&seen);
            let place = format!("{}:{row}", file.name);
            let key = seen.key.as_deref().unwrap_or_default();
            chance.offer(done, (at, row), searched.key.as_deref(), key, &place);
            done += 1;
            progress(done, total);
        });
    }
    let Chance { drawn, found, .. } = chance;
    let mut places: Vec<(usize, u64)> = drawn.into_values().collect();
    places.sort_unstable();
    for (at, row) in found.into_iter().chain(places) {
        look.samples.push(files[at].sample(row, names));
    }
    Ok(look)
}

/// Draws rows by hash, so that the same seed draws the same rows.
struct Chance {
    seed: u64,
    count: usize,
    drawn: BTreeMap<u64, (usize, u64)>,
    found: Option<(usize, u64)>,
}

impl Chance {
    fn new(searched: &Searched) -> Self {
        Self {
            seed: searched.seed,
            count: searched.random,
            drawn: BTreeMap::new(),
            found: None,
        }
    }

    fn offer(
        &mut self,
        number: u64,
        row: (usize, u64),
        wanted: Option<&str>,
        key: &str,
        place: &str,
    ) {
        if wanted.is_some_and(|wanted| wanted == key || wanted == place) {
            self.found.get_or_insert(row);
        }
        if self.count > 0 {
            self.drawn
                .insert(xxh3_64_with_seed(&number.to_le_bytes(), self.seed), row);
            if self.drawn.len() > self.count {
                self.drawn.pop_last();
            }
        }
    }
}

struct File {
    listed: Arc<Listed>,
    name: String,
    file: Remote,
    footer: ArrowReaderMetadata,
}

/// What is counted of a row.
#[derive(Default)]
struct Row {
    key: Option<String>,
    captions: Vec<usize>,
    /// Frames, height, width; none if that is not known.
    sizes: Option<[usize; 3]>,
    fps: f64,
    seconds: f64,
    sound: bool,
}

impl File {
    fn taken<'a>(&self, names: &'a ColumnNames) -> Taken<'a> {
        Taken::of(names, |name| self.has(name))
    }

    fn has(&self, name: &str) -> bool {
        self.footer.schema().field_with_name(name).is_ok()
    }

    /// Hands each row to `take`; rows that cannot be read are counted.
    fn each(
        &self,
        look: &mut Look,
        names: &ColumnNames,
        mut take: impl FnMut(&mut Look, u64, Row),
    ) {
        let taken = self.taken(names);
        let sized = ["frames", "height", "width"]
            .iter()
            .all(|name| self.has(name));
        let schema = self.footer.schema();
        let small = |name: &str| {
            schema
                .field_with_name(name)
                .is_ok_and(|field| !is_bytes(field.data_type()))
        };
        let useful = ["frames", "height", "width", "fps", "duration", "audio_rate"];
        let wanted = |name: &str| {
            let is = |column: Option<&str>| column == Some(name);
            let text =
                is(taken.caption) || is(taken.captions) || is(taken.key) || useful.contains(&name);
            text && small(name) || !sized && is(taken.media)
        };
        let mut row = 0;
        for group in 0..self.footer.metadata().num_row_groups() {
            let end = row + self.footer.metadata().row_group(group).num_rows().max(0) as u64;
            let opened =
                shards::guarded(|| shards::rows(&self.file, &self.footer, group, wanted, None));
            let read = opened.and_then(|mut reader| {
                loop {
                    let batch = shards::guarded(|| {
                        reader.next().transpose().map_err(|error| error.to_string())
                    })?;
                    let Some(batch) = batch else { return Ok(()) };
                    for index in 0..batch.num_rows() {
                        match self.row(&batch, index, &taken, sized) {
                            Ok(seen) => take(look, row, seen),
                            Err(reason) => {
                                look.unreadable(&format!("{} row {row}", self.name), &reason);
                                take(look, row, Row::default());
                            }
                        }
                        row += 1;
                    }
                }
            });
            if let Err(reason) = read {
                look.unreadable(&format!("{} row {row} and on", self.name), &reason);
            }
            row = end;
        }
    }

    fn row(
        &self,
        batch: &RecordBatch,
        index: usize,
        taken: &Taken<'_>,
        sized: bool,
    ) -> Result<Row, String> {
        let of = |name: Option<&str>| value(batch.column_by_name(name?)?, index);
        let number = |name: &str| of(Some(name)).and_then(|value| value.as_f64());
        let mut row = Row {
            key: of(taken.key).map(|key| key.as_str().map_or(key.to_string(), str::to_owned)),
            captions: lengths(of(taken.caption), of(taken.captions)),
            fps: number("fps").unwrap_or(0.0),
            seconds: number("duration").unwrap_or(0.0),
            sound: of(Some("audio_rate")).is_some(),
            sizes: None,
        };
        if sized {
            let sizes =
                ["frames", "height", "width"].map(|name| number(name).unwrap_or(0.0) as usize);
            row.sizes = Some(sizes).filter(|sizes| !sizes.contains(&0));
            if row.seconds == 0.0 && row.fps > 0.0 {
                row.seconds = sizes[0] as f64 / row.fps;
            }
            return Ok(row);
        }
        let media = self.media(batch, index, taken)?;
        let info = shards::guarded(|| probe(&media).map_err(|error| error.to_string()))?;
        row.sizes = Some([info.frames, info.height, info.width]);
        (row.fps, row.seconds) = (info.fps, info.duration);
        row.sound |= info.audio.is_some();
        Ok(row)
    }

    /// The media of a row, fetched if the row only names them.
    fn media(
        &self,
        batch: &RecordBatch,
        index: usize,
        taken: &Taken<'_>,
    ) -> Result<Vec<u8>, String> {
        let column = |name: &str| batch.column_by_name(name);
        if let Some(media) = taken.media.and_then(column) {
            let inner = media.as_any().downcast_ref::<arrow_array::StructArray>();
            let inner = inner.and_then(|fields| fields.column_by_name("bytes"));
            let media = inner.unwrap_or(media);
            if !arrow_array::Array::is_null(media, index)
                && let Some(bytes) = bytes(media, index)
            {
                return Ok(bytes);
            }
        }
        let uri = ["uri", taken.media.unwrap_or("uri")]
            .into_iter()
            .find_map(|name| match value(column(name)?, index)? {
                Value::String(uri) => Some(uri),
                _ => None,
            });
        let uri = uri.ok_or("it has no media")?;
        let media = self
            .listed
            .store
            .media(&uri)
            .map_err(|error| error.to_string())?;
        Ok(media.to_vec())
    }

    /// A row with everything.
    fn sample(&self, row: u64, names: &ColumnNames) -> Sample {
        let mut sample = Sample {
            place: format!("{}:{row}", self.name),
            columns: Map::new(),
            caption: String::new(),
            media: Err("the row cannot be read".into()),
            audio: None,
        };
        let read = shards::guarded(|| {
            let mut before = 0;
            for group in 0..self.footer.metadata().num_row_groups() {
                let end = before + self.footer.metadata().row_group(group).num_rows().max(0) as u64;
                if row < end {
                    let part = Some(((row - before) as usize, 1));
                    let wanted =
                        |name: &str| !name.starts_with("latents") && !name.starts_with("text_");
                    let mut rows = shards::rows(&self.file, &self.footer, group, wanted, part)?;
                    return rows.next().transpose().map_err(|error| error.to_string());
                }
                before = end;
            }
            Ok(None)
        });
        let batch = match read {
            Ok(Some(batch)) if batch.num_rows() > 0 => batch,
            Ok(_) => return sample,
            Err(reason) => {
                sample.media = Err(reason);
                return sample;
            }
        };
        let taken = self.taken(names);
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if let Some(value) = value(column, 0) {
                sample.columns.insert(field.name().clone(), value);
            }
        }
        let of = |name: Option<&str>| sample.columns.get(name?);
        let first = of(taken.captions).and_then(|list| list.get(0));
        let first = first.and_then(|first| first.as_str().or(first.get("text")?.as_str()));
        let one = of(taken.caption).and_then(Value::as_str);
        sample.caption = one.or(first).unwrap_or_default().to_owned();
        sample.media = self.media(&batch, 0, &taken);
        let audio = batch.column_by_name("audio");
        let audio = audio.filter(|column| arrow_array::Array::is_valid(column, 0));
        sample.audio = audio.and_then(|column| bytes(column, 0));
        sample
    }
}

fn is_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| is_bytes(field.data_type())),
        _ => false,
    }
}

/// Characters of the captions: of all there are, or of the one.
fn lengths(one: Option<Value>, several: Option<Value>) -> Vec<usize> {
    let count = |value: &Value| {
        let text = value.as_str().or_else(|| value.get("text")?.as_str());
        text.map_or(0, |text| text.chars().count())
    };
    match several {
        Some(Value::Array(entries)) if !entries.is_empty() => entries.iter().map(count).collect(),
        _ => vec![one.as_ref().map_or(0, count)],
    }
}

impl Look {
    fn unreadable(&mut self, place: &str, reason: &str) {
        self.unreadable += 1;
        if self.examples.len() < EXAMPLES {
            let line = reason.lines().next().unwrap_or_default();
            self.examples.push(format!("{place}: {line}"));
        }
    }

    fn file(&mut self, file: &File, names: &ColumnNames) {
        let metadata = file.footer.metadata();
        let taken = file.taken(names);
        self.row_groups += metadata.num_row_groups() as u64;
        for column in metadata
            .row_groups()
            .iter()
            .flat_map(|group| group.columns())
        {
            let root = column.column_path().parts().first();
            if root.map(String::as_str) == taken.media {
                self.media_bytes += column.compressed_size().max(0) as u64;
            }
        }
        if !["frames", "height", "width"]
            .iter()
            .all(|name| file.has(name))
        {
            self.measured = true;
        }
        if !self.columns.is_empty() {
            return;
        }
        let fields = file.footer.schema().fields().iter();
        self.columns = fields
            .map(|field| (field.name().clone(), field.data_type().to_string()))
            .collect();
        self.named = [taken.media, taken.caption]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect();
        let notes = metadata.file_metadata().key_value_metadata();
        let version = notes
            .into_iter()
            .flatten()
            .find(|note| note.key == kinora_data::VERSION_KEY);
        self.schema = version.and_then(|note| note.value.clone());
    }

    fn row(&mut self, row: &Row) {
        for &length in &row.captions {
            self.histograms.caption.add(length as f64);
        }
        self.uncaptioned += u64::from(row.captions.iter().all(|&length| length == 0));
        self.sounds += u64::from(row.sound);
        let Some([frames, height, width]) = row.sizes else {
            return;
        };
        let video = frames > 1;
        self.images += u64::from(!video);
        self.videos += u64::from(video);
        self.seconds += if video { row.seconds } else { 0.0 };
        self.histograms
            .picture([height, width], video.then_some([row.fps, row.seconds]));
    }

    /// The numbers for people.
    pub fn lines(&self) -> Vec<String> {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let mut lines = vec![format!(
            "{} rows in {} row groups of {} shards, {:.1} MB, of which {:.1} MB of media",
            self.rows,
            self.row_groups,
            self.shards,
            mb(self.bytes),
            mb(self.media_bytes)
        )];
        match &self.schema {
            Some(version) => lines.push(format!("kinora's schema, version {version}")),
            None => lines.push("not written by kinora".into()),
        }
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, kind)| format!("{name} ({kind})"))
            .collect();
        lines.push(format!("columns: {}", columns.join(", ")));
        if let None | Some("media") = self.named.first().map(String::as_str) {
        } else {
            lines.push(format!(
                "media and captions are taken from: {}",
                self.named.join(", ")
            ));
        }
        if self.measured {
            lines.push(
                "frames and sizes were read off the media, as there are no columns for them".into(),
            );
        }
        lines.push(format!(
            "{} images, {} videos of {:.1} s; {} with sound, {} without a caption",
            self.images, self.videos, self.seconds, self.sounds, self.uncaptioned
        ));
        lines.extend(self.histograms.lines());
        if self.unreadable > 0 {
            lines.push(format!("unreadable: {}", self.unreadable));
            lines.extend(self.examples.iter().map(|example| format!("  {example}")));
        }
        lines
    }
}
