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
//! It deliberately does no autoencoding, no tokenizing and no reading from object stores.

mod catalog;
mod config;
mod error;
mod loader;
mod order;
mod produce;
mod rows;
mod shard;
mod store;
mod summary;
mod write;

use std::fmt;
use std::sync::Arc;

pub use catalog::{Catalog, LeftOut};
pub use config::{Bucket, Columns, DataConfig};
pub use error::DataError;
pub use loader::{Batch, Loader, Part, Sample, Skip, Skipped};
pub use store::{Object, Storage, Store, StoreError, StoreOptions, Traffic};
pub use summary::{BucketSummary, CaptionSummary, Summary};
pub use write::{Row, ShardOptions, ShardWriter};

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
