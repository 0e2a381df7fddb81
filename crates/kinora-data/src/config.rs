//! What the user says of the data: the `[data]` table of a run.

use serde::{Deserialize, Deserializer, Serialize};

use crate::bucket::Bucket;
use crate::grid::Grid;
use crate::mixture::SMALLEST_SHARE;
use crate::{DataError, StoreOptions};

/// Where the data lies, and how batches are made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Parquet files, or folders that hold them at any depth; one or several. A path, or the URL of an
    /// object store (`s3://`, `gs://`, `az://`, `https://`).
    #[serde(
        default,
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub paths: Vec<String>,
    /// Several data sets, mixed by weight, in place of `paths`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetConfig>,
    /// The names of the columns.
    #[serde(default)]
    pub columns: Columns,
    /// The sizes that batches come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<Bucket>,
    /// Buckets of all combinations of some aspect ratios and durations, besides `buckets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// Tokens of a step over all ranks, which decide the batch of each bucket that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// The share of steps that take images, 0 to 1. Left out, it is the images' share of all batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ratio: Option<f64>,
    /// Decides the order of samples, and which part of a long clip is taken.
    #[serde(default)]
    pub seed: u64,
    /// Which part of a longer clip is taken.
    #[serde(default)]
    pub start: Start,
    /// Which part of a picture of another aspect ratio is taken.
    #[serde(default)]
    pub crop: CropRule,
    /// Whether latents are read, as `kinora data encode` has written them, in place of media.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub latents: bool,
    /// Whether the sound of each sample is read too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audio: bool,
    /// The share of samples that may fail to decode before the run stops. Checked from the 20th
    /// sample on; up to four never stop it.
    #[serde(default = "default_max_bad")]
    pub max_bad: f64,
    /// How object stores and servers are reached.
    #[serde(default)]
    pub store: StoreOptions,
    /// Memory for rows that are read ahead, in MB. What a batch needs comes on top of it, once for
    /// each worker. Does not change any batch.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: usize,
    /// Threads that decode; 0 decodes in the calling thread. Does not change any batch.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Batches that are decoded ahead. Does not change any batch.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
}

/// A data set of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// What messages call it.
    pub name: String,
    /// As [`DataConfig::paths`].
    #[serde(deserialize_with = "one_or_many")]
    pub paths: Vec<String>,
    /// Its share of the samples is this over the sum of all weights. Either all data sets have one, or
    /// none, and then each sample of any of them comes as often as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The names of its columns, if they are not those of `data.columns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

/// Which part of a clip that is longer than its bucket is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Another one each epoch.
    #[default]
    Random,
    /// The middle.
    Centre,
    /// The beginning.
    First,
}

/// Which part of a picture is taken whose aspect ratio is not its bucket's. It is cropped as little
/// as possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropRule {
    /// The middle.
    #[default]
    Centre,
    /// Another one each epoch.
    Random,
    /// The top, and the middle of wide pictures: heads stay on.
    Top,
}

/// The names of the columns. Shards without frames, height and width are measured by reading all
/// their media once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The bytes of MP4, PNG or JPEG files: binary, or a struct with a binary field `bytes`.
    pub media: String,
    /// The caption: string.
    pub caption: String,
    /// Frames: integer.
    pub frames: String,
    /// Height in pixels: integer.
    pub height: String,
    /// Width in pixels: integer.
    pub width: String,
    /// Frames a second: a number. Read for buckets of seconds.
    pub fps: String,
    /// Seconds: a number. Read for buckets of seconds.
    pub duration: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [media, caption, frames, height, width, fps, duration] = [
            "media", "caption", "frames", "height", "width", "fps", "duration",
        ]
        .map(str::to_owned);
        Self {
            media,
            caption,
            frames,
            height,
            width,
            fps,
            duration,
        }
    }
}

impl DataConfig {
    /// A configuration with the defaults of everything else.
    pub fn new(paths: Vec<String>, buckets: Vec<Bucket>) -> Self {
        Self {
            paths,
            sets: Vec::new(),
            columns: Columns::default(),
            buckets,
            grid: None,
            tokens: None,
            image_ratio: None,
            seed: 0,
            start: Start::default(),
            crop: CropRule::default(),
            latents: false,
            audio: false,
            max_bad: default_max_bad(),
            store: StoreOptions::default(),
            memory_mb: default_memory_mb(),
            workers: default_workers(),
            prefetch: default_prefetch(),
        }
    }

    /// The data sets: `sets`, or `paths` as a single one.
    pub fn all_sets(&self) -> Vec<SetConfig> {
        if !self.sets.is_empty() {
            return self.sets.clone();
        }
        vec![SetConfig {
            name: "data".into(),
            paths: self.paths.clone(),
            weight: None,
            columns: None,
        }]
    }

    /// The names of a data set's columns.
    pub fn columns_of<'a>(&'a self, set: &'a SetConfig) -> &'a Columns {
        set.columns.as_ref().unwrap_or(&self.columns)
    }

    /// Writes `grid` out as buckets, and gives each bucket without a batch as many samples as
    /// `data.tokens` hold, but one at least. `tokens` counts the tokens of one sample of a bucket.
    ///
    /// # Errors
    /// `Config`, if neither a batch nor a budget is given, or the grid makes no sense.
    pub fn resolve(&mut self, tokens: impl Fn(&Bucket) -> usize) -> Result<(), DataError> {
        if let Some(grid) = self.grid.take() {
            self.buckets.extend(grid.buckets()?);
        }
        let budget = self.tokens.take();
        if let Some(budget) = budget
            && self.buckets.iter().all(|bucket| bucket.batch > 0)
        {
            return Err(DataError::config(
                format!("data.tokens is {budget}, but every bucket has a batch of its own"),
                "remove data.tokens, or the batch of the buckets that it shall decide",
            ));
        }
        for bucket in &mut self.buckets {
            if bucket.batch > 0 {
                continue;
            }
            let Some(budget) = budget else {
                return Err(DataError::config(
                    format!("the bucket of {bucket} has no batch"),
                    "give it one, or set data.tokens, the tokens of a step",
                ));
            };
            bucket.batch = (budget / tokens(bucket).max(1)).max(1);
        }
        Ok(())
    }

    /// Checks all that can be checked without the data, of a configuration that is resolved.
    ///
    /// # Errors
    /// `Config`, saying what to change.
    pub fn validate(&self) -> Result<(), DataError> {
        let fail = |what: String, help: &str| Err(DataError::config(what, help));
        self.validate_sets()?;
        if self.buckets.is_empty() || self.buckets.len() > MAX_BUCKETS {
            return fail(
                format!("data.buckets has {} entries", self.buckets.len()),
                "give 1 to 200 buckets { frames, height, width, batch }, or a grid of them",
            );
        }
        let mut seen: Vec<Bucket> = Vec::new();
        for bucket in &self.buckets {
            bucket.validate()?;
            if seen.iter().any(|other| bucket.same_as(other)) {
                return fail(
                    format!("there are two buckets of {bucket}"),
                    "keep one of them in data.buckets",
                );
            }
            seen.push(*bucket);
        }
        for (name, share) in [
            ("image_ratio", self.image_ratio.unwrap_or(0.0)),
            ("max_bad", self.max_bad),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return fail(
                    format!("data.{name} is {share}"),
                    "give a share from 0 to 1",
                );
            }
        }
        if self.memory_mb == 0 || self.memory_mb > 1 << 24 {
            return fail(
                format!("data.memory_mb is {}", self.memory_mb),
                "give at least 1 MB; windows of the order hold up to 128 MB each",
            );
        }
        if self.workers > 256 || self.prefetch > 1024 {
            return fail(
                format!(
                    "data.workers is {}, data.prefetch is {}",
                    self.workers, self.prefetch
                ),
                "use at most 256 workers and 1024 batches; a few of each are enough",
            );
        }
        let images = self.buckets.iter().any(Bucket::is_image);
        let videos = self.buckets.iter().any(|bucket| !bucket.is_image());
        match self.image_ratio {
            Some(ratio) if ratio > 0.0 && !images => fail(
                format!("data.image_ratio is {ratio}, but no bucket takes images"),
                "add a bucket with frames = 1, or set image_ratio = 0",
            ),
            Some(ratio) if ratio < 1.0 && !videos => fail(
                format!("data.image_ratio is {ratio}, but all buckets take images"),
                "add a bucket with more frames, or leave image_ratio out",
            ),
            Some(0.0) if images => fail(
                "data.image_ratio is 0, so the buckets of images would never be used".into(),
                "remove them, or raise image_ratio",
            ),
            Some(1.0) if videos => fail(
                "data.image_ratio is 1, so the buckets of videos would never be used".into(),
                "remove them, or lower image_ratio",
            ),
            _ => Ok(()),
        }
    }

    fn validate_sets(&self) -> Result<(), DataError> {
        let fail = |what: String, help: &str| Err(DataError::config(what, help));
        if !self.sets.is_empty() && !self.paths.is_empty() {
            return fail(
                "data.paths and data.sets are both given".into(),
                "move data.paths into an entry of data.sets",
            );
        }
        for set in self.all_sets() {
            if set.paths.is_empty() {
                let (what, help) = if self.sets.is_empty() {
                    (
                        "data.paths is empty".to_owned(),
                        "name the Parquet files or their folder",
                    )
                } else {
                    (
                        format!("the data set {:?} has no paths", set.name),
                        "name its Parquet files or their folder",
                    )
                };
                return fail(what, help);
            }
        }
        let total: f64 = self.sets.iter().filter_map(|set| set.weight).sum();
        for (index, set) in self.sets.iter().enumerate() {
            if self.sets[..index]
                .iter()
                .any(|other| other.name == set.name)
            {
                return fail(
                    format!("two entries of data.sets are named {:?}", set.name),
                    "give each a name of its own",
                );
            }
            if set.weight.is_some() != self.sets[0].weight.is_some() {
                return fail(
                    "some of data.sets have a weight and some have none".into(),
                    "give all a weight, or none: then each counts by its samples",
                );
            }
            if let Some(weight) = set.weight
                && !(weight > 0.0 && weight.is_finite() && weight / total >= SMALLEST_SHARE)
            {
                return fail(
                    format!(
                        "the data set {:?} has a weight of {weight} of {total}",
                        set.name
                    ),
                    "weights are above 0, and none is below a 100,000th of all; leave out a data set that shall not be used",
                );
            }
        }
        Ok(())
    }
}

// A bucket's number is kept in a byte, and the highest ones say why there is none.
const MAX_BUCKETS: usize = 200;

fn default_max_bad() -> f64 {
    0.01
}

fn default_memory_mb() -> usize {
    1024
}

fn default_workers() -> usize {
    2
}

fn default_prefetch() -> usize {
    4
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Paths {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Paths::deserialize(from)? {
        Paths::One(path) => vec![path],
        Paths::Many(paths) => paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DataConfig, String> {
        let mut config: DataConfig =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let tokens = |bucket: &Bucket| bucket.frames * bucket.height * bucket.width / 64;
        config.resolve(tokens).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    const VIDEO: &str = r#"{"frames": 16, "height": 32, "width": 32, "batch": 8}"#;
    const IMAGE: &str = r#"{"frames": 1, "height": 32, "width": 32, "batch": 8}"#;

    #[test]
    fn one_path_or_several() {
        let one = read(&format!(r#"{{"paths": "a", "buckets": [{VIDEO}]}}"#)).unwrap();
        let two = read(&format!(r#"{{"paths": ["a", "b"], "buckets": [{VIDEO}]}}"#)).unwrap();
        assert_eq!((one.paths.len(), two.paths.len()), (1, 2));
        assert_eq!(one, DataConfig::new(vec!["a".into()], one.buckets.clone()));
    }

    #[test]
    fn a_budget_of_tokens_decides_the_batches() {
        let text = r#"{"paths": "a", "tokens": 1000, "buckets": [
            {"frames": 4, "height": 32, "width": 32},
            {"frames": 1, "height": 32, "width": 32, "batch": 7},
            {"frames": 400, "height": 32, "width": 32}
        ]}"#;
        let config = read(text).unwrap();
        let batches: Vec<usize> = config.buckets.iter().map(|bucket| bucket.batch).collect();
        assert_eq!(batches, [15, 7, 1]);
        assert_eq!(config.tokens, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            (
                format!(r#"{{"paths": "a", "bukets": [{VIDEO}]}}"#),
                "bukets",
            ),
            (r#"{"paths": "a", "buckets": []}"#.into(), "0 entries"),
            (r#"{"paths": [], "buckets": []}"#.into(), "paths is empty"),
            (
                format!(r#"{{"paths": "a", "buckets": [{VIDEO}, {VIDEO}]}}"#),
                "two buckets of 16 frames",
            ),
            (
                VIDEO
                    .replace("8", "0")
                    .replace('{', r#"{"paths": "a", "buckets": [{"#)
                    + "]}",
                "has no batch",
            ),
            (
                format!(r#"{{"paths": "a", "buckets": [{VIDEO}], "image_ratio": 0.5}}"#),
                "no bucket takes images",
            ),
            (
                format!(r#"{{"paths": "a", "buckets": [{IMAGE}], "image_ratio": 0.5}}"#),
                "all buckets take images",
            ),
            (
                format!(r#"{{"paths": "a", "buckets": [{VIDEO}], "max_bad": 2}}"#),
                "max_bad is 2",
            ),
            (
                format!(r#"{{"paths": "a", "sets": [{{"name": "b", "paths": "b"}}], "buckets": [{VIDEO}]}}"#),
                "both given",
            ),
            (
                format!(r#"{{"sets": [{{"name": "b", "paths": "b"}}, {{"name": "b", "paths": "c"}}], "buckets": [{VIDEO}]}}"#),
                "two entries of data.sets are named \"b\"",
            ),
            (
                format!(r#"{{"sets": [{{"name": "b", "paths": "b", "weight": 1}}, {{"name": "c", "paths": "c"}}], "buckets": [{VIDEO}]}}"#),
                "some have none",
            ),
            (
                format!(r#"{{"sets": [{{"name": "b", "paths": "b", "weight": 0}}], "buckets": [{VIDEO}]}}"#),
                "a weight of 0",
            ),
            (
                format!(r#"{{"paths": "a", "buckets": [{IMAGE}, {VIDEO}], "tokens": 5}}"#),
                "every bucket has a batch",
            ),
            (
                r#"{"paths": "a", "buckets": [{"frames": 4, "height": 8, "width": 8}]}"#.into(),
                "has no batch",
            ),
            (
                r#"{"paths": "a", "buckets": [{"frames": 1, "height": 8, "width": 8, "batch": 1, "fps": 8}]}"#.into(),
                "have no time",
            ),
            (
                r#"{"paths": "a", "buckets": [{"frames": 9, "height": 8, "width": 8, "batch": 1, "seconds": [4, 2]}]}"#.into(),
                "from 4 to 2",
            ),
            (
                r#"{"paths": "a", "buckets": [{"frames": 99, "height": 8, "width": 8, "batch": 1, "fps": 8, "seconds": [4, 8]}]}"#.into(),
                "needs 12.375 s",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
