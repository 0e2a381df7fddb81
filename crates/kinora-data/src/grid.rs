//! A grid of buckets: some areas x aspect ratios x durations, as Movie Gen's Table 2 (arXiv
//! 2410.13720) has five aspect ratios x five durations.

use serde::{Deserialize, Serialize};

use crate::{Bucket, DataError};

/// Buckets of all combinations of areas, aspect ratios and durations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Pixels of a frame; each combination comes as near as the multiple lets it.
    pub areas: Vec<usize>,
    /// Aspect ratios, `"width:height"`.
    pub aspects: Vec<String>,
    /// Durations.
    pub durations: Vec<Duration>,
    /// Height and width are multiples of this: of the autoencoder's stride times the model's patch.
    pub multiple: usize,
}

/// A duration of a grid. `{ frames = 1 }` is the one of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duration {
    /// As [`Bucket::frames`].
    pub frames: usize,
    /// As [`Bucket::fps`].
    #[serde(default)]
    pub fps: Option<f64>,
    /// As [`Bucket::seconds`].
    #[serde(default)]
    pub seconds: Option<[f64; 2]>,
    /// As [`Bucket::batch`].
    #[serde(default)]
    pub batch: usize,
}

impl Grid {
    /// All buckets: for each area and duration, the aspect ratios in their order.
    ///
    /// # Errors
    /// `Config`, if a list is empty, an aspect ratio is none, or a size is below the multiple.
    pub fn buckets(&self) -> Result<Vec<Bucket>, DataError> {
        let Self {
            areas,
            aspects,
            durations,
            multiple,
        } = self;
        if *multiple == 0 || [areas.len(), aspects.len(), durations.len()].contains(&0) {
            return Err(DataError::config(
                format!(
                    "data.grid has {} areas, {} aspects, {} durations and a multiple of {multiple}",
                    areas.len(),
                    aspects.len(),
                    durations.len()
                ),
                "give one of each at least",
            ));
        }
        let mut buckets = Vec::new();
        for &area in areas {
            for duration in durations {
                for aspect in aspects {
                    let [height, width] = self.size(area, aspect)?;
                    buckets.push(Bucket {
                        frames: duration.frames,
                        height,
                        width,
                        batch: duration.batch,
                        fps: duration.fps,
                        seconds: duration.seconds,
                    });
                }
            }
        }
        Ok(buckets)
    }

    fn size(&self, area: usize, aspect: &str) -> Result<[usize; 2], DataError> {
        let sides = aspect.split_once(':');
        let sides = sides.and_then(|(width, height)| {
            let side = |text: &str| text.trim().parse::<f64>().ok();
            Some([side(height)?, side(width)?])
        });
        let Some([height, width]) =
            sides.filter(|sides| sides.iter().all(|side| *side > 0.0 && side.is_finite()))
        else {
            return Err(DataError::config(
                format!("data.grid has the aspect ratio {aspect:?}"),
                "write it as \"16:9\", width first",
            ));
        };
        let scale = (area as f64 / (height * width)).sqrt();
        let multiple = self.multiple as f64;
        let size = [height, width].map(|side| (side * scale / multiple).round() * multiple);
        if size.contains(&0.0) {
            return Err(DataError::config(
                format!("an area of {area} pixels at {aspect} has a side below {multiple}"),
                "give a larger area to data.grid, or leave the aspect ratio out",
            ));
        }
        Ok(size.map(|side| side as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movie_gen() -> Grid {
        let text = r#"{
            "areas": [589824], "multiple": 16,
            "aspects": ["16:9", "9:16", "1:1", "4:3", "3:4"],
            "durations": [
                {"frames": 128, "seconds": [4, 8]},
                {"frames": 192, "seconds": [8, 12]},
                {"frames": 256, "seconds": [12, 16]},
                {"frames": 256, "fps": 24, "seconds": [10.667, 12]},
                {"frames": 256, "fps": 16, "seconds": [16, 100000]},
                {"frames": 1}
            ]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn movie_gens_table() {
        let buckets = movie_gen().buckets().unwrap();
        assert_eq!(buckets.len(), 30);
        let sizes: Vec<_> = buckets[..5].iter().map(|b| [b.height, b.width]).collect();
        assert_eq!(
            sizes,
            [[576, 1024], [1024, 576], [768, 768], [672, 880], [880, 672]]
        );
        assert!(buckets[25..].iter().all(Bucket::is_image));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Change = fn(&mut Grid);
        let changes: [(Change, &str); 4] = [
            (|grid| grid.aspects = vec![], "0 aspects"),
            (|grid| grid.aspects.push("wide".into()), "\"wide\""),
            (|grid| grid.aspects.push("0:9".into()), "\"0:9\""),
            (|grid| grid.areas.push(16), "below 16"),
        ];
        for (change, named) in changes {
            let mut grid = movie_gen();
            change(&mut grid);
            let error = grid.buckets().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
