//! Making a data set of media and captions that lie about: folders, tables, tars and Parquet files
//! of other schemas become shards that Kinora reads well.
//!
//! Separate because it runs once, before any training, and because it reads what strangers wrote:
//! whatever is broken is counted, named and left out, and never stops it. [`ingest`] cuts clips into
//! scenes, filters by size, time, movement and light, finds duplicates, and writes rows in the order
//! of the source, so that the same sources and settings give the same bytes with any number of
//! threads and after any kill. [`look`] says what a data set holds, and [`check`] whether it is whole.
//!
//! It deliberately encodes no media again, downloads nothing, makes no captions and runs no models.

mod analysis;
mod check;
mod config;
mod engine;
mod error;
mod histogram;
mod hold;
mod journal;
mod look;
mod read_ahead;
mod report;
mod rule;
mod seen;
mod shards;
mod sound;
mod source;
mod work;

pub use check::{Checked, Fault, check};
pub use config::{
    CaptionRules, ColumnNames, Duplicates, Filters, IngestConfig, MediaPlace, Scenes, Shards,
    SourceKind,
};
pub use engine::{Ingested, Options, Progress, ingest};
pub use error::IngestError;
pub use histogram::{Histogram, Histograms};
pub use look::{Look, Sample, Searched, look};
pub use report::{Dropped, Report, SourceReport};
pub use rule::Rule;
