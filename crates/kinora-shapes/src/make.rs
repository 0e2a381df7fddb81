//! Makes the data set: Parquet shards of MP4 videos and PNG or JPEG images, with captions.
//!
//! The folder is whole or absent: everything is written to another one beside it, which is renamed
//! at the end. A record in it, `dataset.toml`, says how it was made, so that making it again with
//! the same settings costs nothing and with others is refused.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kinora_data::{Caption, Row, ShardOptions, ShardWriter};
use kinora_media::{encode_jpeg, encode_mp4, encode_png};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ShapesError;
use crate::held_out::Split;
use crate::record::{Record, existing, io};
use crate::scene::Scene;
use crate::world::{Path as Way, Sample, World};

/// One image in so many is a JPEG, so that both decoders are in use.
const JPEG_EVERY: u64 = 5;
/// The quality of the JPEGs, 1..100: at 95, one small shape in fifty can no longer be told from another.
const JPEG_QUALITY: u8 = 98;

/// What to make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShapesConfig {
    /// How many videos.
    pub videos: u64,
    /// How many images.
    pub images: u64,
    /// Frames of a video.
    pub frames: usize,
    /// Rows of a frame, in px.
    pub height: usize,
    /// Columns of a frame, in px.
    pub width: usize,
    /// Frames a second.
    pub fps: f64,
    /// See [`World::freedom`].
    pub freedom: f64,
    /// Of all that is drawn by lot.
    pub seed: u64,
    /// Rows of a row group.
    pub rows_per_group: usize,
    /// Rows of a shard.
    pub rows_per_shard: usize,
}

impl Default for ShapesConfig {
    /// 3,000 videos and 1,500 images of the default [`World`].
    fn default() -> Self {
        let World {
            frames,
            height,
            width,
            fps,
            freedom,
        } = World::default();
        Self {
            videos: 3000,
            images: 1500,
            frames,
            height,
            width,
            fps,
            freedom,
            seed: 0,
            rows_per_group: 250,
            rows_per_shard: 1500,
        }
    }
}

impl ShapesConfig {
    /// The world that the clips show.
    pub fn world(&self) -> World {
        let &Self {
            frames,
            height,
            width,
            fps,
            freedom,
            ..
        } = self;
        World {
            frames,
            height,
            width,
            fps,
            freedom,
        }
    }

    /// Whether the settings can be made.
    ///
    /// # Errors
    /// [`ShapesError::BadSetting`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), ShapesError> {
        let bad = |setting, value: u64, problem: &str, help: &str| {
            Err(ShapesError::BadSetting {
                setting,
                value: value.to_string(),
                problem: problem.to_owned(),
                help: help.to_owned(),
            })
        };
        if self.videos + self.images == 0 {
            return bad(
                "videos",
                0,
                "and images = 0 make no data",
                "set videos = 3000",
            );
        }
        if self.rows_per_group == 0 {
            return bad(
                "rows_per_group",
                0,
                "holds no row",
                "set rows_per_group = 250",
            );
        }
        if self.rows_per_shard == 0 {
            return bad(
                "rows_per_shard",
                0,
                "holds no row",
                "set rows_per_shard = 1500",
            );
        }
        if i64::try_from(self.seed).is_err() {
            let help = "set a seed below 2^63";
            return bad("seed", self.seed, "cannot be written to a TOML file", help);
        }
        self.world().validate()
    }
}

/// What is in the folder now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Whether this call made it, rather than an earlier one.
    pub fresh: bool,
    /// The number of videos.
    pub videos: u64,
    /// The number of images.
    pub images: u64,
    /// The names of the shards in the folder.
    pub shards: Vec<String>,
    /// The shards' length in bytes.
    pub bytes: u64,
}

/// Makes the data set in a folder, calling `progress(done, total)` as clips are written. A folder
/// that already holds it is left as it is.
///
/// # Errors
/// If a setting is out of range, the folder holds anything else, or a file cannot be written. Then
/// nothing is left behind.
pub fn make(
    config: &ShapesConfig,
    folder: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Made, ShapesError> {
    config.validate()?;
    if let Some(made) = existing(config, folder)? {
        return Ok(made);
    }
    let scratch = Scratch::beside(folder)?;
    let total = config.videos + config.images;
    write(config, Media::Video, &scratch.path, |done| {
        progress(done, total)
    })?;
    write(config, Media::Image, &scratch.path, |done| {
        progress(config.videos + done, total)
    })?;
    let record = Record::of(config, &scratch.path)?;
    record.write(&scratch.path)?;
    if let Err(source) = fs::rename(&scratch.path, folder) {
        // Somebody else may have made the same data set in the meantime.
        return existing(config, folder)?.ok_or_else(|| io(folder, source));
    }
    Ok(record.made(true))
}

#[derive(Clone, Copy)]
enum Media {
    Video,
    Image,
}

/// The truth about a row, for people and checks; no model reads it.
#[derive(Serialize)]
struct Meta {
    index: u64,
    #[serde(flatten)]
    scene: Scene,
    #[serde(flatten)]
    path: Way,
}

/// Writes all videos, or all images, to shards of their own: a batch holds only one kind, so mixed
/// row groups would be read twice.
fn write(
    config: &ShapesConfig,
    media: Media,
    folder: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), ShapesError> {
    let (name, count) = match media {
        Media::Video => ("videos", config.videos),
        Media::Image => ("images", config.images),
    };
    if count == 0 {
        return Ok(());
    }
    let scenes = Scene::of(Split::Seen);
    let world = config.world();
    let options = ShardOptions {
        name: name.to_owned(),
        rows_per_group: config.rows_per_group,
        rows_per_shard: config.rows_per_shard,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder, options)?;
    let mut first = 0;
    while first < count {
        let last = count.min(first + config.rows_per_group as u64);
        let samples: Vec<Encoded> = (first..last)
            .into_par_iter()
            .map(|index| encode(&world, &scenes, config.seed, media, index))
            .collect::<Result<_, _>>()?;
        for (index, encoded) in (first..).zip(&samples) {
            let clip = &encoded.sample.clip;
            let size = [clip.frames, clip.height, clip.width];
            let captions = Caption::one(encoded.sample.caption.clone());
            let key = format!("{name}-{index:08}");
            writer.push(&Row {
                meta: Some(&encoded.meta),
                ..Row::new(&key, &encoded.media, &captions, size, clip.fps)
            })?;
        }
        first = last;
        progress(first);
    }
    writer.finish()?;
    Ok(())
}

/// A sample as it goes into its shard.
struct Encoded {
    media: Vec<u8>,
    sample: Sample,
    meta: String,
}

fn encode(
    world: &World,
    scenes: &[Scene],
    seed: u64,
    media: Media,
    index: u64,
) -> Result<Encoded, ShapesError> {
    let sample = match media {
        Media::Video => world.video_sample(scenes, seed, index),
        Media::Image => world.image_sample(scenes, seed, index),
    };
    let clip = &sample.clip;
    let bytes = match media {
        Media::Video => encode_mp4(clip)?,
        Media::Image if index % JPEG_EVERY == JPEG_EVERY - 1 => {
            encode_jpeg(&clip.rgb, clip.height, clip.width, JPEG_QUALITY)?
        }
        Media::Image => encode_png(&clip.rgb, clip.height, clip.width)?,
    };
    let meta = Meta {
        index,
        scene: sample.scene,
        path: sample.path,
    };
    let meta = serde_json::to_string(&meta).expect("the truth about a row is plain data");
    Ok(Encoded {
        media: bytes,
        sample,
        meta,
    })
}

/// A folder that is deleted unless it is renamed.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new hidden folder beside another, on the same file system.
    fn beside(folder: &Path) -> Result<Self, ShapesError> {
        let parent = match folder.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // Other threads of this process may be making the same data set.
        let mut attempt = 0;
        loop {
            let path = parent.join(format!(".{name}.making-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 1000 => {
                    attempt += 1
                }
                Err(source) => return Err(io(&path, source)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After the rename there is nothing to remove, and nobody to tell of a failure.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captions;
    use crate::check::check;
    use crate::held_out::split;
    use crate::score::Tally;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int32Type;
    use kinora_media::decode;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn small() -> ShapesConfig {
        ShapesConfig {
            videos: 12,
            images: 7,
            rows_per_group: 4,
            rows_per_shard: 8,
            ..ShapesConfig::default()
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn made(config: &ShapesConfig, folder: &Path) -> Result<Made, ShapesError> {
        make(config, folder, |_, _| {})
    }

    /// Every row of a shard: media, caption, frames and meta.
    fn rows(shard: &Path) -> Vec<(Vec<u8>, String, i32, serde_json::Value)> {
        let file = fs::File::open(shard).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        let mut rows = Vec::new();
        for batch in batches {
            let batch = batch.unwrap();
            let column = |name| batch.column_by_name(name).unwrap();
            for i in 0..batch.num_rows() {
                rows.push((
                    column("media").as_binary::<i32>().value(i).to_vec(),
                    column("caption").as_string::<i32>().value(i).to_owned(),
                    column("frames").as_primitive::<Int32Type>().value(i),
                    serde_json::from_str(column("meta").as_string::<i32>().value(i)).unwrap(),
                ));
            }
        }
        rows
    }

    #[test]
    fn every_row_shows_what_its_caption_and_its_meta_say_and_none_is_held_out() {
        let scratch = tempfile::tempdir().unwrap();
        let config = ShapesConfig {
            videos: 150,
            images: 150,
            ..ShapesConfig::default()
        };
        let mut tally = Tally::default();
        let mut seen = 0;
        for shard in made(&config, scratch.path()).unwrap().shards {
            for (media, caption, frames, meta) in rows(&scratch.path().join(shard)) {
                let scene: Scene = serde_json::from_value(meta.clone()).unwrap();
                let path: Way = serde_json::from_value(meta).unwrap();
                assert!(path.radius > 3.5 && path.radius < 7.5, "{path:?}");
                assert_eq!(split(&scene), Split::Seen, "{caption}");
                let said = captions::read(&caption);
                assert_eq!(said.motion.is_some(), frames > 1, "{caption}");
                let whole = captions::Reading {
                    motion: Some(scene.motion),
                    ..said
                };
                assert_eq!(whole.scene(), Some(scene), "{caption}");
                let clip = decode(&media).unwrap();
                assert_eq!(
                    (clip.frames, clip.height, clip.width),
                    (frames as usize, 32, 32)
                );
                tally.add(&scene, &check(&clip));
                seen += 1;
            }
        }
        assert_eq!(seen, 300);
        let score = tally.score();
        assert_eq!(score.motion.unwrap().of, 150);
        assert!(
            score.rates().iter().all(|(_, rate)| rate.share() >= 0.98),
            "{score}"
        );
    }

    #[test]
    fn progress_ends_at_the_total_and_the_folder_holds_what_is_reported() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a/shapes");
        let mut calls = Vec::new();
        let found = make(&small(), &folder, |done, total| calls.push((done, total))).unwrap();
        assert_eq!(calls, [(4, 19), (8, 19), (12, 19), (16, 19), (19, 19)]);
        assert!(found.fresh && found.videos == 12 && found.images == 7);
        assert_eq!(found.shards.len(), 3, "{found:?}");
        let mut expected = found.shards.clone();
        expected.extend(["dataset.toml".to_owned(), "manifest.json".to_owned()]);
        expected.sort();
        assert_eq!(names(&folder), expected);
        // Nothing is left beside it.
        assert_eq!(names(&scratch.path().join("a")), ["shapes"]);
    }

    #[test]
    fn a_second_make_does_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("shapes");
        let first = made(&small(), &folder).unwrap();
        let again = make(&small(), &folder, |_, _| panic!("something was made")).unwrap();
        assert_eq!(
            again,
            Made {
                fresh: false,
                ..first
            }
        );
    }

    #[test]
    fn the_same_settings_make_the_same_bytes_on_any_number_of_threads() {
        let scratch = tempfile::tempdir().unwrap();
        let one = scratch.path().join("one");
        let four = scratch.path().join("four");
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
        };
        let shards = on(1).install(|| made(&small(), &one)).unwrap().shards;
        assert_eq!(
            on(4).install(|| made(&small(), &four)).unwrap().shards,
            shards
        );
        for name in shards {
            assert!(
                fs::read(one.join(&name)).unwrap() == fs::read(four.join(&name)).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn threads_that_make_the_same_data_set_at_once_all_get_it() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("shapes");
        let found: Vec<Made> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| made(&small(), &folder).unwrap()))
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap())
                .collect()
        });
        assert_eq!(found.iter().filter(|made| made.fresh).count(), 1);
        assert!(found.iter().all(|made| made.shards == found[0].shards));
        assert_eq!(names(scratch.path()), ["shapes"]);
    }

    #[test]
    fn other_settings_are_refused_by_name_and_value() {
        let scratch = tempfile::tempdir().unwrap();
        made(&small(), scratch.path()).unwrap();
        let other = ShapesConfig {
            freedom: 99.0,
            seed: 5,
            ..small()
        };
        let error = made(&other, scratch.path()).unwrap_err().to_string();
        assert!(
            error.contains("freedom is 3.0 there and 99.0 here"),
            "{error}"
        );
        assert!(
            error.contains("seed is 0 there and 5 here") && error.contains("help: "),
            "{error}"
        );
        assert!(!error.contains("frames is"), "{error}");
    }

    #[test]
    fn a_folder_of_other_things_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "years of work").unwrap();
        let error = made(&small(), scratch.path()).unwrap_err();
        assert!(matches!(error, ShapesError::NotADataset { .. }), "{error}");
        assert_eq!(names(scratch.path()), ["thesis.txt"]);
        fs::write(
            scratch.path().join("dataset.toml"),
            "rules = 1\nsettings = 3\n",
        )
        .unwrap();
        let error = made(&small(), scratch.path()).unwrap_err();
        assert!(matches!(error, ShapesError::NotADataset { .. }), "{error}");
    }

    #[test]
    fn a_missing_or_cut_shard_is_reported() {
        let scratch = tempfile::tempdir().unwrap();
        let shards = made(&small(), scratch.path()).unwrap().shards;
        let shard = scratch.path().join(&shards[0]);
        let bytes = fs::read(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
        let error = made(&small(), scratch.path()).unwrap_err();
        assert!(matches!(error, ShapesError::Damaged { .. }), "{error}");
        fs::remove_file(&shard).unwrap();
        assert!(made(&small(), scratch.path()).is_err());
        fs::write(&shard, &bytes).unwrap();
        assert!(!made(&small(), scratch.path()).unwrap().fresh);
    }

    #[test]
    fn what_stops_half_way_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("shapes");
        let stopped = std::panic::catch_unwind(|| {
            make(&small(), &folder, |done, _| {
                assert!(done < 8, "stopped on purpose")
            })
        });
        assert!(stopped.is_err());
        assert!(
            names(scratch.path()).is_empty(),
            "{:?}",
            names(scratch.path())
        );
    }

    #[test]
    fn settings_out_of_range_are_refused_before_anything_is_made() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("shapes");
        for config in [
            ShapesConfig {
                videos: 0,
                images: 0,
                ..small()
            },
            ShapesConfig {
                rows_per_group: 0,
                ..small()
            },
            ShapesConfig {
                rows_per_shard: 0,
                ..small()
            },
            ShapesConfig {
                seed: u64::MAX,
                ..small()
            },
            ShapesConfig {
                frames: 3,
                ..small()
            },
        ] {
            let error = made(&config, &folder).unwrap_err();
            assert!(matches!(error, ShapesError::BadSetting { .. }), "{error}");
        }
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn unknown_settings_are_refused_and_missing_ones_have_defaults() {
        assert_eq!(
            toml::from_str::<ShapesConfig>("").unwrap(),
            ShapesConfig::default()
        );
        let error = toml::from_str::<ShapesConfig>("video = 3")
            .unwrap_err()
            .to_string();
        assert!(error.contains("unknown field `video`"), "{error}");
    }
}
