//! Making a batch: decoding its samples, and replacing those that cannot be decoded.

use std::sync::Arc;

use kinora_media::{Crop, Decoder, Info, Pcm, Pick, Window, audio, probe};
use kinora_mesh::rng::{Stream, fnv1a};

use crate::order::Draw;
use crate::record::Record;
use crate::rows::{Row, Rows};
use crate::{
    Batch, Bucket, Caption, Catalog, Content, CropRule, DataError, Part, Sample, SampleId, Skip,
    Start,
};

/// Samples that are tried in one place of a batch before giving up.
const ATTEMPTS: u64 = 32;

/// A batch, and what went wrong on the way to it.
pub(crate) struct Produced {
    pub(crate) batch: Batch,
    /// Samples tried.
    pub(crate) tried: u64,
    pub(crate) skips: Vec<Skip>,
}

/// Makes batches; one for each worker.
pub(crate) struct Producer {
    catalog: Arc<Catalog>,
    part: Part,
    rows: Arc<Rows>,
    decoder: Decoder,
}

impl Producer {
    pub(crate) fn new(catalog: Arc<Catalog>, part: Part, rows: Arc<Rows>) -> Self {
        Self {
            catalog,
            part,
            rows,
            decoder: Decoder::new(),
        }
    }

    /// Notes that it is given a step, whose batch comes next. Steps are to be given in order.
    pub(crate) fn enter(&self, draw: &Draw) {
        self.rows.enter(draw);
    }

    /// This part's share of a step, unless `stop` says that nobody wants it any more.
    pub(crate) fn batch(
        &mut self,
        draw: &Draw,
        stop: &dyn Fn() -> bool,
    ) -> Result<Produced, DataError> {
        let bucket = self.catalog.config.buckets[draw.bucket];
        let batch = Batch {
            step: draw.step,
            bucket,
            samples: Vec::new(),
        };
        let mut made = Produced {
            batch,
            tried: 0,
            skips: Vec::new(),
        };
        if stop() {
            return Err(DataError::Ended { step: draw.step });
        }
        let rows = self.rows.batch(draw)?;
        for (position, row) in self.part.share(bucket.batch).zip(rows) {
            if stop() {
                return Err(DataError::Ended { step: draw.step });
            }
            let sample = self.sample(draw, position, row, &mut made)?;
            made.batch.samples.push(sample);
        }
        Ok(made)
    }

    fn sample(
        &mut self,
        draw: &Draw,
        position: usize,
        row: Row,
        made: &mut Produced,
    ) -> Result<Sample, DataError> {
        let catalog = self.catalog.clone();
        let config = &catalog.config;
        let bucket = config.buckets[draw.bucket];
        let pick = &draw.picks[position];
        let pool = pick.window.pool;
        let samples = catalog.pools[pool].samples();
        // A function of seed, step, position and attempt only, so that all meshes agree.
        let others = Stream::new(config.seed, "data/replace")
            .at(draw.step)
            .at(position as u64);
        let before = made.skips.len();
        let mut first = Some(row);
        for attempt in 0..ATTEMPTS {
            let (place, row) = match first.take() {
                Some(row) => (pick.place, row),
                None => {
                    let place = catalog.place(pool, others.below(attempt, samples));
                    (place, self.rows.single(place)?)
                }
            };
            let id = catalog.id(place);
            made.tried += 1;
            let found = row.and_then(|record| {
                let content = self.content(&record, bucket, pick.epoch, &id)?;
                let sound = match config.audio {
                    true => sound(&record, &content)?,
                    false => None,
                };
                Ok((record, content, sound))
            });
            match found {
                Ok((record, content, sound)) => {
                    let words = Stream::new(config.seed, "data/caption")
                        .at(draw.step)
                        .at(position as u64);
                    return Ok(Sample {
                        position: position as u64,
                        id,
                        epoch: pick.epoch,
                        caption: caption(&record, words.uniform(0)),
                        content: content.shown,
                        sound,
                    });
                }
                Err(reason) => made.skips.push(Skip {
                    step: draw.step,
                    id,
                    reason,
                }),
            }
        }
        let example = made.skips[before].clone();
        Err(DataError::TooManyBad {
            bad: made.skips.len() as u64,
            tried: made.tried,
            limit: config.max_bad,
            shard: example.id.shard.to_string(),
            shard_bad: made
                .skips
                .iter()
                .filter(|skip| skip.id.shard == example.id.shard)
                .count() as u64,
            example: example.id,
            reason: example.reason,
        })
    }

    /// What a row shows in a bucket, or why it shows nothing.
    pub(crate) fn content(
        &mut self,
        record: &Record,
        bucket: Bucket,
        epoch: u64,
        id: &SampleId,
    ) -> Result<Found, String> {
        let config = &self.catalog.config;
        if config.latents {
            let latents = record.latents.clone().ok_or("it has no latents")?;
            if latents.shape.len() != 4 {
                return Err(format!("its latents have the shape {:?}", latents.shape));
            }
            let shown = Content::Latents(latents);
            return Ok(Found {
                shown,
                start: record.start,
            });
        }
        let info = probe(&record.media).map_err(|error| first_line(&error))?;
        let stream = Stream::new(config.seed, "data/start")
            .at(epoch)
            .at(fnv1a(id.shard.as_bytes()))
            .at(id.row);
        let pick = pick(bucket, &Span::of(record, &info), config.start, stream)?;
        let window = Window {
            frames: bucket.frames,
            pick,
            size: Some([bucket.height, bucket.width]),
            crop: match config.crop {
                CropRule::Centre => Crop::default(),
                CropRule::Top => Crop { y: 0.0, x: 0.5 },
                CropRule::Random => Crop {
                    y: stream.uniform(1),
                    x: stream.uniform(2),
                },
            },
        };
        let clip = self.decoder.window(&record.media, window);
        let clip = clip.map_err(|error| first_line(&error))?;
        let start = match pick {
            Pick::Time { start, .. } => start,
            Pick::Frame(first) => first as f64 / info.fps.max(1e-3),
        };
        let shown = Content::Clip(clip);
        Ok(Found { shown, start })
    }
}

/// What a row shows in a bucket.
pub(crate) struct Found {
    pub(crate) shown: Content,
    /// Seconds into the media where that begins.
    start: f64,
}

/// The sound that belongs to what is shown: of a file of its own, which begins with the sample, or of
/// the media. An image has all of its sound.
fn sound(record: &Record, found: &Found) -> Result<Option<Pcm>, String> {
    let seconds = match &found.shown {
        Content::Clip(clip) if clip.frames > 1 => Some(clip.frames as f64 / clip.fps.max(1e-3)),
        _ => None,
    };
    let (file, start) = match &record.audio {
        Some(file) => (file, found.start - record.start),
        None => (&record.media, found.start),
    };
    if file.is_empty() {
        return Ok(None);
    }
    audio(file, start.max(0.0), seconds).map_err(|error| first_line(&error))
}

/// One of a row's captions, by their weights; `draw` is from 0 to 1.
fn caption(record: &Record, draw: f64) -> String {
    let weight = |caption: &Caption| f64::from(caption.weight.max(0.0));
    let total: f64 = record.captions.iter().map(weight).sum();
    let mut left = draw * total;
    for caption in &record.captions {
        left -= weight(caption);
        if left < 0.0 {
            return caption.text.clone();
        }
    }
    record.caption.clone()
}

/// The part of a media file that is the sample.
struct Span {
    /// Frames of the whole file if that is the sample, else none.
    frames: Option<usize>,
    image: bool,
    fps: f64,
    /// Seconds into the file.
    start: f64,
    seconds: f64,
}

impl Span {
    fn of(record: &Record, info: &Info) -> Self {
        let rest = info.duration - record.start;
        let given = record.duration > 0.0;
        let seconds = if given {
            record.duration.min(rest)
        } else {
            rest
        };
        // Packets are cut at frames where decoding can begin, so a file may hold more than the sample.
        let frame = 1.0 / info.fps.max(1e-3);
        let whole = record.start < frame / 2.0 && rest - seconds < frame / 2.0;
        Self {
            frames: whole.then_some(info.frames),
            image: info.frames == 1,
            fps: info.fps,
            start: record.start,
            seconds,
        }
    }
}

/// Which frames of a clip a bucket takes.
fn pick(bucket: Bucket, span: &Span, start: Start, stream: Stream) -> Result<Pick, String> {
    let frames = match span.frames {
        Some(frames) => frames,
        None => (span.seconds * span.fps).round() as usize,
    };
    if bucket.is_image() != span.image || (!bucket.timed() && bucket.frames > frames) {
        return Err(format!(
            "it has {frames} frames, though its columns put it among {bucket}"
        ));
    }
    if !bucket.timed() {
        let spare = frames - bucket.frames;
        let first = match start {
            Start::Random => stream.below(0, spare as u64 + 1) as usize,
            Start::Centre => spare / 2,
            Start::First => 0,
        };
        return Ok(match span.frames {
            Some(_) => Pick::Frame(first),
            // A part of a file is found by its time.
            None => Pick::Time {
                start: span.start + first as f64 / span.fps,
                fps: span.fps,
            },
        });
    }
    let fps = bucket.fps.unwrap_or(bucket.frames as f64 / span.seconds);
    let spare = span.seconds - bucket.frames as f64 / fps;
    if spare < -0.02 * span.seconds {
        return Err(format!(
            "it lasts {:.3} s, though its columns put it among {bucket}",
            span.seconds
        ));
    }
    let spare = spare.max(0.0);
    let first = match start {
        Start::Random => spare * stream.uniform(0),
        Start::Centre => spare / 2.0,
        Start::First => 0.0,
    };
    Ok(Pick::Time {
        start: span.start + first,
        fps,
    })
}

fn first_line(error: &kinora_media::MediaError) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
