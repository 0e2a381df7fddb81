//! A bucket: a size that batches come in, and the clips that it takes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// A size that batches come in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Frames; 1 makes it a bucket of images.
    pub frames: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Samples of a step, over all ranks; 0 stands for what `data.tokens` gives.
    #[serde(default)]
    pub batch: usize,
    /// Frames a second that a clip is sampled at, by time. Without it, and without `seconds`, the
    /// frames are taken as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// The durations that it takes: from the first, up to but not with the second. Without `fps`, its
    /// frames are spread over the whole clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<[f64; 2]>,
}

impl Bucket {
    /// A bucket of frames as they come.
    pub fn new(frames: usize, height: usize, width: usize, batch: usize) -> Self {
        Self {
            frames,
            height,
            width,
            batch,
            fps: None,
            seconds: None,
        }
    }

    /// Whether it takes images.
    pub fn is_image(&self) -> bool {
        self.frames == 1
    }

    /// Whether it goes by seconds, not by frames.
    pub fn timed(&self) -> bool {
        self.fps.is_some() || self.seconds.is_some()
    }

    /// Checks its numbers.
    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let fail = |what: String, help: &str| Err(DataError::config(what, help));
        let Self {
            frames,
            height,
            width,
            batch,
            ..
        } = *self;
        let sizes = [frames, height, width, batch];
        if sizes.iter().any(|&size| size > 1 << 16) {
            return fail(
                format!("a bucket of {frames} frames of {height}x{width} in batches of {batch}"),
                "no number of a bucket is above 65536",
            );
        }
        if sizes.contains(&0) {
            return fail(
                format!("a bucket of {self} with a batch of {batch} is empty"),
                "frames, height, width and batch must be at least 1",
            );
        }
        if self.is_image() && self.timed() {
            return fail(
                format!("the bucket of {self} takes images, which have no time"),
                "remove its fps and seconds",
            );
        }
        if let Some(fps) = self.fps
            && !(fps > 0.0 && fps <= 1000.0)
        {
            return fail(
                format!("the bucket of {self} is sampled at {fps} frames a second"),
                "give a rate from above 0 to 1000",
            );
        }
        if let Some([from, to]) = self.seconds {
            if !(from >= 0.0 && from < to) {
                return fail(
                    format!("the bucket of {self} takes clips from {from} to {to} seconds"),
                    "give [from, to] with from below to",
                );
            }
            let needed = self.fps.map_or(0.0, |fps| frames as f64 / fps);
            if needed > to {
                return fail(
                    format!(
                        "the bucket of {self} needs {needed} s, more than the clips that it takes have"
                    ),
                    "raise the end of its seconds, or its fps",
                );
            }
        }
        Ok(())
    }

    /// Whether it takes the same clips at the same size.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let of = |bucket: &Self| (bucket.frames, bucket.height, bucket.width);
        of(self) == of(other) && self.fps == other.fps && self.seconds == other.seconds
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.frames {
            1 => write!(f, "images of {}x{}", self.height, self.width)?,
            frames => write!(f, "{frames} frames of {}x{}", self.height, self.width)?,
        }
        if let Some(fps) = self.fps {
            write!(f, " at {fps} fps")?;
        }
        match self.seconds {
            Some([from, to]) if to.is_finite() => write!(f, " from {from} to {to} s"),
            Some([from, _]) => write!(f, " from {from} s"),
            None => Ok(()),
        }
    }
}
