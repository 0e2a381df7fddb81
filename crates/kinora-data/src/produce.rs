//! Making a batch: decoding its samples, and replacing those that cannot be decoded.

use std::sync::Arc;

use kinora_media::{Clip, Crop, Decoder, Pick, Window, probe};
use kinora_mesh::rng::{Stream, fnv1a};

use crate::order::Draw;
use crate::rows::{Record, Row, Rows};
use crate::{Batch, Bucket, Catalog, DataError, Part, Sample, SampleId, Skip};

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
        for position in self.part.share(bucket.batch) {
            if stop() {
                return Err(DataError::Ended { step: draw.step });
            }
            let sample = self.sample(draw, position, &mut made)?;
            made.batch.samples.push(sample);
        }
        Ok(made)
    }

    fn sample(
        &mut self,
        draw: &Draw,
        position: usize,
        made: &mut Produced,
    ) -> Result<Sample, DataError> {
        let catalog = self.catalog.clone();
        let config = &catalog.config;
        let bucket = config.buckets[draw.bucket];
        let pick = &draw.picks[position];
        let samples = catalog.buckets[draw.bucket].samples();
        // A function of seed, step, position and attempt only, so that all meshes agree.
        let others = Stream::new(config.seed, "data/replace")
            .at(draw.step)
            .at(position as u64);
        let before = made.skips.len();
        for attempt in 0..ATTEMPTS {
            let (place, row) = if attempt == 0 {
                (pick.place, self.rows.of_window(&pick.window, pick.place))
            } else {
                let place = catalog.place(draw.bucket, others.below(attempt, samples));
                (place, self.rows.single(place))
            };
            let id = catalog.id(place);
            made.tried += 1;
            match self.decode(row, bucket, pick.epoch, &id) {
                Ok((record, clip)) => {
                    let caption = record.caption.clone();
                    let position = position as u64;
                    return Ok(Sample {
                        position,
                        id,
                        epoch: pick.epoch,
                        caption,
                        clip,
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

    fn decode(
        &mut self,
        row: Row,
        bucket: Bucket,
        epoch: u64,
        id: &SampleId,
    ) -> Result<(Arc<Record>, Clip), String> {
        let record = row?;
        let info = probe(&record.media).map_err(|error| first_line(&error))?;
        if bucket.frames > info.frames || (bucket.is_image() && info.frames > 1) {
            return Err(format!(
                "it has {} frames, though its columns put it among {bucket}",
                info.frames
            ));
        }
        let start = Stream::new(self.catalog.config.seed, "data/start")
            .at(epoch)
            .at(fnv1a(id.shard.as_bytes()))
            .at(id.row)
            .below(0, (info.frames - bucket.frames) as u64 + 1) as usize;
        let size = Some([bucket.height, bucket.width]);
        let window = Window {
            frames: bucket.frames,
            pick: Pick::Frame(start),
            size,
            crop: Crop::default(),
        };
        let clip = self
            .decoder
            .window(&record.media, window)
            .map_err(|error| first_line(&error))?;
        Ok((record, clip))
    }
}

fn first_line(error: &kinora_media::MediaError) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
