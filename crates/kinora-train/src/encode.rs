//! Encoding a data set before training: the latents of every sample, written once, so that no step
//! decodes or encodes again.
//!
//! The work is cut into pieces, the samples of a shard that one bucket takes. Each rank encodes every
//! so-many-th piece into a shard of its own, so what is written does not depend on the ranks, and a
//! stopped job goes on with the pieces that are not there.

use crate::{TrainError, videos};
use burn::tensor::Device;
use kinora_data::{
    Catalog, DataError, Encoded, Encoders, Manifest, Media, Piece, Row, Scan, Scanned, ShardEntry,
    ShardOptions, ShardWriter,
};
use kinora_media::Clip;
use kinora_models::autoencoder::Autoencoder;
use kinora_shard::Sharding;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to encode.
pub struct Encode {
    /// The data.
    pub catalog: Arc<Catalog>,
    /// The autoencoder, and its identity, which the shards will name.
    pub autoencoder: Arc<dyn Autoencoder>,
    /// What tells it from any other.
    pub identity: String,
    /// The folder that gets the shards.
    pub out: PathBuf,
}

/// What was encoded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Samples written.
    pub samples: u64,
    /// Samples that could not be decoded, and were left out.
    pub dropped: u64,
    /// Which these were, and why: the first hundred of each piece.
    pub reasons: Vec<String>,
}

/// A piece that is done.
#[derive(Serialize, Deserialize)]
struct Done {
    /// Its shard, if a sample of it could be decoded.
    shard: Option<ShardEntry>,
    report: Report,
}

/// The folder of notes on the pieces that are done.
const PIECES: &str = ".pieces";
const REASONS: usize = 100;
/// Bad samples that stop no job, as in training.
const BAD_LUCK: f64 = 4.0;
/// Samples that go through the autoencoder together.
const TOGETHER: usize = 8;

impl Encode {
    /// Bytes of all latents, before compression.
    ///
    /// # Errors
    /// If a bucket does not fit the autoencoder.
    pub fn bytes(&self) -> Result<u64, TrainError> {
        let mut bytes = 0;
        for piece in Scan::new(&self.catalog).pieces() {
            let bucket = piece.bucket;
            let size = [bucket.frames, bucket.height, bucket.width];
            let latent = self.autoencoder.latent_shape(size)?;
            bytes += piece.samples * 2 * latent.iter().product::<usize>() as u64;
        }
        Ok(bytes)
    }

    /// Encodes this rank's share; every rank calls it. `progress` hears the samples that are done on
    /// this rank. The first rank ends with the report and the manifest, the others with a part of the
    /// report.
    ///
    /// # Errors
    /// Those of the data, of writing, and of a peer.
    pub fn run(&self, sharding: &Sharding, progress: &dyn Fn(u64)) -> Result<Report, TrainError> {
        let world = sharding.world();
        let mut scan = Scan::new(&self.catalog);
        let pieces = scan.pieces();
        let mut seen = 0;
        let share = (0..pieces.len()).skip(world.rank()).step_by(world.size());
        let mut mine = Report::default();
        for number in share {
            world.at(&format!(
                "encoding {} of {}",
                pieces[number].shard, pieces[number].bucket
            ));
            let before = seen;
            let done = match self.read_done(number)? {
                Some(done) => done,
                None => world.busy(|| {
                    self.piece(&mut scan, &pieces[number], number, &mut || {
                        seen += 1;
                        progress(seen);
                        world.heartbeat();
                    })
                })?,
            };
            seen = before + pieces[number].samples;
            progress(seen);
            mine.add(done.report);
        }
        world.barrier("pieces encoded")?;
        if world.rank() > 0 {
            return Ok(mine);
        }
        self.finish(pieces.len())
    }

    fn piece(
        &self,
        scan: &mut Scan,
        piece: &Piece,
        number: usize,
        progress: &mut dyn FnMut(),
    ) -> Result<Done, TrainError> {
        let options = ShardOptions {
            name: name(number),
            rows_per_shard: usize::MAX,
            bytes_per_shard: u64::MAX,
            encoders: Encoders {
                latents: Some(self.identity.clone()),
                text: None,
            },
            ..ShardOptions::default()
        };
        // A shard without its note was written by a job that was stopped between the two.
        let left = self.out.join(format!("{}-00000.parquet", name(number)));
        if left.exists() {
            fs::remove_file(&left).map_err(|source| DataError::Io { path: left, source })?;
        }
        let mut writer = ShardWriter::create(&self.out, options)?;
        let mut report = Report::default();
        let mut waiting: Vec<Scanned> = Vec::new();
        scan.read(piece, |sample| -> Result<(), TrainError> {
            progress();
            match sample {
                Ok(sample) => waiting.push(sample),
                Err((id, reason)) => {
                    report.dropped += 1;
                    if report.reasons.len() < REASONS {
                        report.reasons.push(format!("{id}: {reason}"));
                    }
                }
            }
            if waiting.len() == TOGETHER {
                report.samples += waiting.len() as u64;
                self.write(&mut writer, &mut waiting)?;
            }
            Ok(())
        })?;
        report.samples += waiting.len() as u64;
        self.write(&mut writer, &mut waiting)?;
        let shard = writer.close_all()?.pop();
        let done = Done { shard, report };
        self.write_done(number, &done)?;
        Ok(done)
    }

    fn write(
        &self,
        writer: &mut ShardWriter,
        waiting: &mut Vec<Scanned>,
    ) -> Result<(), TrainError> {
        if waiting.is_empty() {
            return Ok(());
        }
        let clips: Vec<&Clip> = waiting.iter().map(Scanned::clip).collect();
        let latents = self
            .autoencoder
            .encode(videos(&clips, &self.autoencoder.device()));
        let shape = latents.dims();
        let values = latents
            .to_data()
            .try_into_vec::<f32>()
            .expect("latents are f32");
        let each = shape[1..].iter().product::<usize>();
        for (sample, values) in waiting.drain(..).zip(values.chunks_exact(each)) {
            let (latents, clip) = (Encoded::round(values, &shape[1..]), sample.clip());
            let size = [clip.frames, clip.height, clip.width];
            writer.push(&Row {
                media: Media::None,
                duration: sample.seconds,
                latents: Some(&latents),
                ..Row::new(&sample.key, &[], &sample.captions, size, clip.fps)
            })?;
        }
        Ok(())
    }

    /// Puts the notes of all pieces together.
    fn finish(&self, pieces: usize) -> Result<Report, TrainError> {
        let mut report = Report::default();
        let mut shards = Vec::new();
        for number in 0..pieces {
            let Some(done) = self.read_done(number)? else {
                let what = format!("piece {number} of {} is not there", self.out.display());
                let help = "run the command again: something removed files of its folder";
                return Err(DataError::Config {
                    what,
                    help: help.into(),
                }
                .into());
            };
            report.add(done.report);
            shards.extend(done.shard);
        }
        let tried = report.samples + report.dropped;
        let limit = self.catalog.config().max_bad;
        if report.samples == 0 || report.dropped as f64 > (limit * tried as f64).max(BAD_LUCK) {
            let first = report.reasons.first().map_or("", String::as_str);
            let what = format!(
                "{} of {tried} samples could not be decoded, which is more than data.max_bad = {limit}, e.g. {first}",
                report.dropped
            );
            let help = "repair or remove them, raise data.max_bad, or build with --features ffmpeg for other codecs";
            return Err(DataError::Config {
                what,
                help: help.into(),
            }
            .into());
        }
        Manifest::new(shards).write(&self.out)?;
        Ok(report)
    }

    /// Removes what a stopped job would go on by, once all is done.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_pieces(&self) -> Result<(), TrainError> {
        let path = self.out.join(PIECES);
        fs::remove_dir_all(&path).map_err(|source| DataError::Io { path, source }.into())
    }

    fn note(&self, number: usize) -> PathBuf {
        self.out.join(PIECES).join(format!("{}.json", name(number)))
    }

    fn read_done(&self, number: usize) -> Result<Option<Done>, TrainError> {
        let Ok(json) = fs::read(self.note(number)) else {
            return Ok(None);
        };
        let done: Option<Done> = serde_json::from_slice(&json).ok();
        Ok(done.filter(|done| {
            let there = |shard: &ShardEntry| {
                let path = self.out.join(&shard.name);
                fs::metadata(path).is_ok_and(|file| file.len() == shard.bytes)
            };
            done.shard.as_ref().is_none_or(there)
        }))
    }

    fn write_done(&self, number: usize, done: &Done) -> Result<(), TrainError> {
        let path = self.note(number);
        let partial = path.with_extension("partial");
        let json = serde_json::to_vec(done).expect("strings and numbers");
        let folder = path.parent().unwrap_or(Path::new("."));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&partial, json))
            .and_then(|()| fs::rename(&partial, &path));
        written.map_err(|source| DataError::Io { path, source }.into())
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.dropped += other.dropped;
        self.reasons.extend(other.reasons);
    }
}

fn name(number: usize) -> String {
    format!("latents-{number:06}")
}

/// Seconds that a sample takes to decode and encode here, measured on the first ones.
///
/// # Errors
/// Those of the data.
pub fn seconds_per_sample(job: &Encode, device: &Device) -> Result<f64, TrainError> {
    let mut scan = Scan::new(&job.catalog);
    let pieces = scan.pieces();
    let Some(piece) = pieces.iter().max_by_key(|piece| piece.bucket.frames) else {
        return Ok(0.0);
    };
    let begun = std::time::Instant::now();
    let mut clips = Vec::new();
    struct Enough;
    impl From<DataError> for Enough {
        fn from(_: DataError) -> Self {
            Self
        }
    }
    // What cannot be read is met again by the job itself.
    let _: Result<(), Enough> = scan.read(piece, |sample| {
        clips.extend(sample);
        if clips.len() == TOGETHER {
            Err(Enough)
        } else {
            Ok(())
        }
    });
    if clips.is_empty() {
        return Ok(0.0);
    }
    let all: Vec<&Clip> = clips.iter().map(Scanned::clip).collect();
    let latents = job.autoencoder.encode(videos(&all, device));
    drop(latents.to_data());
    Ok(begun.elapsed().as_secs_f64() / clips.len() as f64)
}
