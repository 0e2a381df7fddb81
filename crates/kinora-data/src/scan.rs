//! Scanning: every sample of a data set once, in the order of its shards, for what is done to all of
//! them before training.

use std::collections::BTreeMap;
use std::sync::Arc;

use kinora_media::Clip;

use crate::produce::Producer;
use crate::record::Wanted;
use crate::rows::Rows;
use crate::{Bucket, Caption, Catalog, Content, DataError, Part, SampleId};

/// The samples of a shard that one bucket takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The bucket.
    pub bucket: Bucket,
    /// The shard's name.
    pub shard: Arc<str>,
    /// Samples.
    pub samples: u64,
    number: usize,
    groups: Vec<u32>,
}

/// A sample of a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Scanned {
    /// Its name: that of its column, or its shard and row.
    pub key: String,
    /// All its captions.
    pub captions: Vec<Caption>,
    /// What it shows.
    pub content: Content,
    /// Seconds of the sample that its frames were taken from; 0 for an image.
    pub seconds: f64,
}

impl Scanned {
    /// The pixels.
    ///
    /// # Panics
    /// If `data.latents` asked for latents instead.
    pub fn clip(&self) -> &Clip {
        match &self.content {
            Content::Clip(clip) => clip,
            Content::Latents(_) => panic!("{} was read as latents", self.key),
        }
    }
}

/// Reads pieces.
pub struct Scan {
    catalog: Arc<Catalog>,
    rows: Arc<Rows>,
    producer: Producer,
}

// Rows that are read together: few enough that their media fit into memory.
const TOGETHER: usize = 16;

impl Scan {
    /// A scan of a catalog. Of clips that are longer than their bucket it takes the part that epoch 0
    /// of training would take.
    pub fn new(catalog: &Arc<Catalog>) -> Self {
        let (catalog, wanted) = (catalog.clone(), Wanted::of(catalog.config()));
        let rows = Arc::new(Rows::new(catalog.clone(), Part::WHOLE, wanted));
        let producer = Producer::new(catalog.clone(), Part::WHOLE, rows.clone());
        Self {
            catalog,
            rows,
            producer,
        }
    }

    /// All pieces, by shard and bucket.
    pub fn pieces(&self) -> Vec<Piece> {
        let catalog = &self.catalog;
        let mut pieces: BTreeMap<(usize, usize), Piece> = BTreeMap::new();
        for pool in 0..catalog.pools.len() {
            let (number, members) = (catalog.bucket_of(pool), &catalog.pools[pool]);
            for (at, &group) in members.groups.iter().enumerate() {
                let shard = catalog.groups[group as usize].shard;
                let piece = pieces.entry((shard, number)).or_insert_with(|| Piece {
                    bucket: catalog.config.buckets[number],
                    shard: catalog.shards[shard].name.clone(),
                    samples: 0,
                    number,
                    groups: Vec::new(),
                });
                piece.samples += members.before[at + 1] - members.before[at];
                piece.groups.push(group);
            }
        }
        pieces.into_values().collect()
    }

    /// Gives each sample of a piece in the order of its rows, or its name and why it cannot be read.
    ///
    /// # Errors
    /// If a store fails; those of `take`.
    pub fn read<E: From<DataError>>(
        &mut self,
        piece: &Piece,
        mut take: impl FnMut(Result<Scanned, (SampleId, String)>) -> Result<(), E>,
    ) -> Result<(), E> {
        for &group in &piece.groups {
            let places: Vec<_> = self.catalog.assigned(piece.number, group).collect();
            for places in places.chunks(TOGETHER) {
                let rows = self.rows.several(group, places)?;
                for (place, row) in places.iter().zip(rows) {
                    let id = self.catalog.id(*place);
                    let scanned = row.and_then(|record| {
                        let content = self.producer.content(&record, piece.bucket, 0, &id)?.shown;
                        let captions = if record.captions.is_empty() {
                            Caption::one(record.caption).to_vec()
                        } else {
                            record.captions
                        };
                        let seconds = match &content {
                            Content::Clip(clip) if clip.frames > 1 && record.duration == 0.0 => {
                                clip.frames as f64 / clip.fps.max(1e-3)
                            }
                            _ => record.duration,
                        };
                        Ok(Scanned {
                            key: record.key.unwrap_or_else(|| id.to_string()),
                            captions,
                            content,
                            seconds,
                        })
                    });
                    take(scanned.map_err(|reason| (id, reason)))?;
                }
            }
        }
        Ok(())
    }
}
