//! What the user says of an ingest: the `[ingest]` table.

use std::path::Path;

use kinora_data::ShardOptions;
use serde::{Deserialize, Serialize};

use crate::IngestError;

/// How media and captions become rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// What the sources are; recognised if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<SourceKind>,
    /// The names of columns, keys and JSON fields.
    pub columns: ColumnNames,
    /// How clips are cut into scenes.
    pub scenes: Scenes,
    /// Which pictures and scenes are kept.
    pub filters: Filters,
    /// Which of several that are alike are kept.
    pub duplicates: Duplicates,
    /// Which captions are taken.
    pub captions: CaptionRules,
    /// Where the media lie in the end.
    pub media: MediaPlace,
    /// The most megabytes of a row's media. A row group is read as a whole, so that a huge row is
    /// expensive.
    pub max_mb: f64,
    /// The most megabytes of a source's file, which is held in memory while it is cut.
    pub max_source_mb: f64,
    /// Whether sound is noted, and sound files beside the media are taken. A track inside the media
    /// stays where it is in any case.
    pub audio: bool,
    /// How shards are cut.
    pub shards: Shards,
    /// The share of items that may be broken before the run stops. Checked from the 20th item on; up
    /// to four never stop it.
    pub max_bad: f64,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            kind: None,
            columns: ColumnNames::default(),
            scenes: Scenes::default(),
            filters: Filters::default(),
            duplicates: Duplicates::default(),
            captions: CaptionRules::default(),
            media: MediaPlace::Inline,
            max_mb: 128.0,
            max_source_mb: 2048.0,
            audio: true,
            shards: Shards::default(),
            max_bad: 0.1,
        }
    }
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A folder of media at any depth, with captions beside them.
    Folder,
    /// JSON Lines, CSV or TSV, which name media files.
    Table,
    /// Tar files as WebDataset has them, or a folder of such.
    Tar,
    /// Parquet files of any schema, or a folder of such.
    Parquet,
}

impl SourceKind {
    /// All kinds, by the names that users type.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("folder", Self::Folder),
        ("table", Self::Table),
        ("tar", Self::Tar),
        ("parquet", Self::Parquet),
    ];

    /// The name that users type.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        named.expect("all kinds are listed").0
    }
}

/// The names of columns in tables and Parquet files, and of fields in JSON captions. What is left
/// out is looked for under the usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnNames {
    /// The media: bytes (Parquet), or a path from the table's folder, or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    /// The caption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Several captions, with or without weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captions: Option<String>,
    /// The sample's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A sound file that belongs to the media, as a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
}

/// How clips are cut into scenes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenes {
    /// Whether clips are cut where the scene changes; otherwise each stays whole.
    pub cut: bool,
    /// How much of the picture must change for a cut, beyond what moved, 0 to 1; 0.04 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Shorter scenes are left out.
    pub min_seconds: f64,
    /// Longer scenes are split evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
    /// The beginning of each clip that is left out, e.g. for titles.
    pub skip_start_seconds: f64,
}

impl Default for Scenes {
    fn default() -> Self {
        Self {
            cut: true,
            threshold: None,
            min_seconds: 0.5,
            max_seconds: None,
            skip_start_seconds: 0.0,
        }
    }
}

/// Which pictures and scenes are kept. Times and movement count for videos only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    /// The least pixels of the shorter side.
    pub min_side: usize,
    /// The most pixels of the longer side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_side: Option<usize>,
    /// The least seconds of a video's part.
    pub min_seconds: f64,
    /// The most seconds of a video's part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
    /// The least frames per second.
    pub min_fps: f64,
    /// The least and the most of width over height.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aspect: Option<[f64; 2]>,
    /// The least and the most movement: the mean change of brightness between frames, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub motion: Option<[f64; 2]>,
    /// The least mean brightness, 0 to 1.
    pub min_brightness: f64,
    /// The least contrast: the standard deviation of brightness, 0 to 0.5.
    pub min_contrast: f64,
}

/// Which of several that are alike are kept: the first one, in the order of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Duplicates {
    /// Whether a file with the same bytes as an earlier one is left out.
    pub exact: bool,
    /// Leaves out what differs from an earlier one in at most so many of the 64 bits of its
    /// perceptual hash. Scenes of one clip are not compared with each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<u32>,
    /// How many perceptual hashes are remembered at least; then the oldest are forgotten, half of
    /// them at a time. One takes 8 bytes, and 4 more for each of `near + 1` bands.
    pub remember: usize,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self {
            exact: true,
            near: None,
            remember: 10_000_000,
        }
    }
}

/// Which captions are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionRules {
    /// Whether media without a caption are left out; otherwise theirs is empty.
    pub required: bool,
    /// The least characters.
    pub min_length: usize,
    /// The most characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

impl Default for CaptionRules {
    fn default() -> Self {
        Self {
            required: true,
            min_length: 0,
            max_length: None,
        }
    }
}

/// Where the media lie in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaPlace {
    /// In the rows.
    Inline,
    /// Where they are: rows hold their place, their hash, and where the scene begins.
    Uri,
}

/// How shards are cut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shards {
    /// The most rows of a row group.
    pub rows_per_group: usize,
    /// A row group ends when its media reach this.
    pub mb_per_group: f64,
    /// The most rows of a file.
    pub rows_per_shard: usize,
    /// A file ends when its media reach this.
    pub mb_per_shard: f64,
}

impl Default for Shards {
    fn default() -> Self {
        let usual = ShardOptions::default();
        Self {
            rows_per_group: usual.rows_per_group,
            mb_per_group: usual.bytes_per_group as f64 / MB,
            rows_per_shard: usual.rows_per_shard,
            mb_per_shard: usual.bytes_per_shard as f64 / MB,
        }
    }
}

/// Bytes of a megabyte, as settings count them.
pub(crate) const MB: f64 = 1_048_576.0;

impl Shards {
    pub(crate) fn options(&self) -> ShardOptions {
        ShardOptions {
            rows_per_group: self.rows_per_group,
            bytes_per_group: (self.mb_per_group * MB) as u64,
            rows_per_shard: self.rows_per_shard,
            bytes_per_shard: (self.mb_per_shard * MB) as u64,
            ..ShardOptions::default()
        }
    }
}

impl IngestConfig {
    /// Reads the `[ingest]` table of a TOML file, and no other.
    ///
    /// # Errors
    /// `Config`, naming the file and the key.
    pub fn read(path: &Path) -> Result<Self, IngestError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            ingest: IngestConfig,
        }
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            IngestError::config(
                format!("{name} cannot be read: {error}"),
                "give a TOML file with a table [ingest], like configs/ingest.toml",
            )
        })?;
        let whole: Whole = toml::from_str(&text).map_err(|error| {
            IngestError::config(
                format!("{name}: {}", error.to_string().trim_end()),
                "configs/ingest.toml shows all keys of the table [ingest]",
            )
        })?;
        Ok(whole.ingest)
    }

    /// Checks all that can be checked without the sources.
    ///
    /// # Errors
    /// `Config`, saying what to change.
    pub fn validate(&self) -> Result<(), IngestError> {
        let Self {
            scenes,
            filters,
            shards,
            ..
        } = self;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let sane = |value: f64| value >= 0.0 && value.is_finite();
        let range = |range: Option<[f64; 2]>| range.is_none_or(|[a, b]| a >= 0.0 && a <= b);
        let rules: [(&str, bool, String, &str); 14] = [
            (
                "scenes.min_seconds",
                sane(scenes.min_seconds),
                scenes.min_seconds.to_string(),
                "0 or more seconds",
            ),
            (
                "scenes.skip_start_seconds",
                sane(scenes.skip_start_seconds),
                scenes.skip_start_seconds.to_string(),
                "0 or more seconds",
            ),
            (
                "scenes.max_seconds",
                scenes
                    .max_seconds
                    .is_none_or(|max| positive(max) && max >= scenes.min_seconds),
                format!("{:?}", scenes.max_seconds),
                "a time above 0, and not below scenes.min_seconds",
            ),
            (
                "scenes.threshold",
                scenes
                    .threshold
                    .is_none_or(|value| value > 0.0 && value < 1.0),
                format!("{:?}", scenes.threshold),
                "a share between 0 and 1, or leave it out",
            ),
            (
                "filters.max_side",
                filters.max_side.is_none_or(|max| max >= filters.min_side),
                format!("{:?}", filters.max_side),
                "at least filters.min_side",
            ),
            (
                "filters.min_seconds",
                sane(filters.min_seconds),
                filters.min_seconds.to_string(),
                "0 or more seconds",
            ),
            (
                "filters.max_seconds",
                filters
                    .max_seconds
                    .is_none_or(|max| max >= filters.min_seconds),
                format!("{:?}", filters.max_seconds),
                "at least filters.min_seconds",
            ),
            (
                "filters.min_fps",
                sane(filters.min_fps),
                filters.min_fps.to_string(),
                "0 or more frames per second",
            ),
            (
                "filters.aspect",
                range(filters.aspect),
                format!("{:?}", filters.aspect),
                "[least, most] of width over height",
            ),
            (
                "filters.motion",
                range(filters.motion),
                format!("{:?}", filters.motion),
                "[least, most], from 0 to 1",
            ),
            (
                "duplicates.near",
                self.duplicates.near.is_none_or(|bits| bits <= 16),
                format!("{:?}", self.duplicates.near),
                "0 to 16 of 64 bits; copies that were resized or coded anew differ in up to 8",
            ),
            (
                "captions.max_length",
                self.captions
                    .max_length
                    .is_none_or(|max| max >= self.captions.min_length),
                format!("{:?}", self.captions.max_length),
                "at least captions.min_length",
            ),
            (
                "max_bad",
                (0.0..=1.0).contains(&self.max_bad),
                self.max_bad.to_string(),
                "a share from 0 to 1",
            ),
            (
                "shards",
                shards.rows_per_group > 0
                    && shards.rows_per_shard > 0
                    && positive(shards.mb_per_group)
                    && positive(shards.mb_per_shard),
                format!("{shards:?}"),
                "numbers above 0",
            ),
        ];
        if let Some((key, _, value, help)) = rules.into_iter().find(|rule| !rule.1) {
            return Err(IngestError::config(
                format!("ingest.{key} is {value}"),
                format!("give {help}"),
            ));
        }
        // Arrow counts the bytes of a column in 31 bits, and 16 rows are read at once.
        let row = positive(self.max_mb) && self.max_mb <= 1024.0;
        let source = positive(self.max_source_mb) && self.max_source_mb <= 65_536.0;
        if !row || !source {
            return Err(IngestError::config(
                format!(
                    "ingest.max_mb is {}, max_source_mb is {}",
                    self.max_mb, self.max_source_mb
                ),
                "a row may have up to 1024 MB, a source's file up to 65536 MB",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.toml");
        for (text, named) in [
            ("[ingest]\nscens = {}", "scens"),
            ("[ingest]\nfilters = { min_sides = 3 }", "min_sides"),
            ("[other]\na = 1", "other"),
            ("[ingest]\nmax_bad = 2.0", "max_bad is 2"),
            ("[ingest]\nfilters = { aspect = [2.0, 1.0] }", "aspect"),
            ("[ingest]\nduplicates = { near = 40 }", "duplicates.near"),
            (
                "[ingest]\nscenes = { min_seconds = 4.0, max_seconds = 2.0 }",
                "scenes.max_seconds",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let read = IngestConfig::read(&path).and_then(|config| config.validate());
            let error = read.unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn the_example_holds_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/ingest.toml");
        let example = IngestConfig::read(&path).unwrap();
        example.validate().unwrap();
        assert_eq!(example, IngestConfig::default());
    }
}
