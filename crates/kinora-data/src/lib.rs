//! Data sets: Parquet shards of media and captions, to batches of pixels in a deterministic order.
//!
//! Separate because it knows no tensors and no ranks: a [`Loader`] is told which [`Part`] of every
//! batch it serves, and yields frames as bytes. [`Catalog`] says which samples there are, the order
//! module which of them a step takes, and the loader decodes them ahead of time. [`ShardWriter`]
//! writes shards that read well.
//!
//! The samples of a step depend on the seed and the step alone: not on the number of ranks or
//! threads, nor on where a run was stopped and resumed.
//!
//! It deliberately does no autoencoding and no tokenizing.

mod ahead;
mod bucket;
mod catalog;
mod choose;
mod config;
mod error;
mod footer;
mod grid;
mod identity;
mod loader;
mod manifest;
mod mixture;
mod order;
mod page;
mod produce;
mod record;
mod rows;
mod scan;
mod schema;
mod shard;
mod source;
mod store;
mod stream;
mod summary;
mod write;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use bucket::Bucket;
pub use catalog::{Catalog, LeftOut};
pub use config::{Columns, CropRule, DataConfig, SetConfig, Start};
pub use error::DataError;
pub use grid::{Duration, Grid};
pub use identity::Identity;
pub use loader::{Batch, Content, Loader, Part, Sample, Skip, Skipped};
pub use manifest::{MANIFEST, Manifest, ShardEntry};
pub use page::check_header as check_page_header;
pub use record::{Encoded, Record, Wanted};
pub use scan::{Piece, Scan, Scanned};
pub use schema::{Encoders, LATENTS_KEY, TEXT_KEY, VERSION, VERSION_KEY};
pub use store::{Object, Storage, Store, StoreError, StoreOptions, Traffic};
pub use stream::{Stream, StreamRow};
pub use summary::{BucketSummary, CaptionSummary, Summary};
pub use write::{Media, Row, ShardOptions, ShardWriter};

/// What a sample shows, in words, and how often these words are taken beside its other captions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// The words.
    pub text: String,
    /// Its share among the sample's captions is this over the sum of all.
    pub weight: f32,
}

impl Caption {
    /// The only caption of a sample.
    pub fn one(text: impl Into<String>) -> [Self; 1] {
        [Self {
            text: text.into(),
            weight: 1.0,
        }]
    }
}

/// Which row of which shard a sample is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SampleId {
    /// The shard's file name, with the folders between it and the configured one.
    pub shard: Arc<str>,
    /// The row, counted over the whole file from 0.
    pub row: u64,
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard, self.row)
    }
}
