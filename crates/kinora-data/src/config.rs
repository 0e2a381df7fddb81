//! What the user says of the data: the `[data]` table of a run.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::DataError;

/// Where the data lies, and how batches are made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Parquet files, or folders that hold them at any depth; one or several.
    #[serde(deserialize_with = "one_or_many")]
    pub paths: Vec<PathBuf>,
    /// The names of the columns.
    #[serde(default)]
    pub columns: Columns,
    /// The sizes that batches come in.
    pub buckets: Vec<Bucket>,
    /// The share of steps that take images, 0 to 1. Left out, it is the images' share of all batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ratio: Option<f64>,
    /// Decides the order of samples, and which part of a long clip is taken.
    #[serde(default)]
    pub seed: u64,
    /// The share of samples that may fail to decode before the run stops. Checked from the 20th
    /// sample on; up to four never stop it.
    #[serde(default = "default_max_bad")]
    pub max_bad: f64,
    /// Threads that decode; 0 decodes in the calling thread. Does not change any batch.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Batches that are decoded ahead. Does not change any batch.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
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
}

impl Default for Columns {
    fn default() -> Self {
        let [media, caption, frames, height, width] =
            ["media", "caption", "frames", "height", "width"].map(str::to_owned);
        Self {
            media,
            caption,
            frames,
            height,
            width,
        }
    }
}

/// A size that batches come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Frames; 1 makes it a bucket of images.
    pub frames: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Samples of a step, over all ranks.
    pub batch: usize,
}

impl Bucket {
    /// Whether it takes images.
    pub fn is_image(&self) -> bool {
        self.frames == 1
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.frames {
            1 => write!(f, "images of {}x{}", self.height, self.width),
            frames => write!(f, "{frames} frames of {}x{}", self.height, self.width),
        }
    }
}

impl DataConfig {
    /// A configuration with the defaults of everything else.
    pub fn new(paths: Vec<PathBuf>, buckets: Vec<Bucket>) -> Self {
        Self {
            paths,
            columns: Columns::default(),
            buckets,
            image_ratio: None,
            seed: 0,
            max_bad: default_max_bad(),
            workers: default_workers(),
            prefetch: default_prefetch(),
        }
    }

    /// Checks all that can be checked without the data.
    ///
    /// # Errors
    /// `Config`, saying what to change.
    pub fn validate(&self) -> Result<(), DataError> {
        let fail = |what: String, help: &str| Err(DataError::config(what, help));
        if self.paths.is_empty() {
            return fail(
                "data.paths is empty".into(),
                "name the Parquet files or their folder",
            );
        }
        if self.buckets.is_empty() || self.buckets.len() > MAX_BUCKETS {
            return fail(
                format!("data.buckets has {} entries", self.buckets.len()),
                "give 1 to 200 buckets { frames, height, width, batch }",
            );
        }
        let mut seen = HashSet::new();
        for bucket in &self.buckets {
            let Bucket {
                frames,
                height,
                width,
                batch,
            } = *bucket;
            if [frames, height, width, batch]
                .iter()
                .any(|&size| size > 1 << 16)
            {
                return fail(
                    format!(
                        "a bucket of {frames} frames of {height}x{width} in batches of {batch}"
                    ),
                    "no number of a bucket is above 65536",
                );
            }
            if [frames, height, width, batch].contains(&0) {
                return fail(
                    format!("a bucket of {bucket} with a batch of {batch} is empty"),
                    "frames, height, width and batch must be at least 1",
                );
            }
            if !seen.insert((frames, height, width)) {
                return fail(
                    format!("there are two buckets of {bucket}"),
                    "keep one of them in data.buckets",
                );
            }
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
}

// A bucket's number is kept in a byte, and the highest ones say why there is none.
const MAX_BUCKETS: usize = 200;

fn default_max_bad() -> f64 {
    0.01
}

fn default_workers() -> usize {
    2
}

fn default_prefetch() -> usize {
    4
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
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
        let config: DataConfig = serde_json::from_str(text).map_err(|error| error.to_string())?;
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
                "batch of 0",
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
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
