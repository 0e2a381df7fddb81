//! The summary: what a data set holds, for people to look at before they train on it.

use std::sync::Arc;

use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde::Serialize;

use crate::catalog::LeftOut;
use crate::footer::{self, Part};
use crate::{Bucket, Catalog, DataError, record};

/// What `kinora data inspect` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Files.
    pub shards: usize,
    /// Row groups of all files.
    pub row_groups: usize,
    /// Rows of all files.
    pub rows: u64,
    /// Bytes of all media, as stored.
    pub bytes: u64,
    /// Names and types of the first shard's columns.
    pub columns: Vec<(String, String)>,
    /// What each bucket gets.
    pub buckets: Vec<BucketSummary>,
    /// Samples that no bucket takes.
    pub left_out: LeftOut,
    /// The captions' lengths.
    pub captions: CaptionSummary,
}

/// What a bucket gets.
#[derive(Clone, Debug, Serialize)]
pub struct BucketSummary {
    /// The bucket.
    pub bucket: Bucket,
    /// Its samples.
    pub samples: u64,
    /// Steps that go once through them.
    pub steps_per_epoch: f64,
}

/// Lengths of captions in characters.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CaptionSummary {
    /// The shortest.
    pub shortest: usize,
    /// The mean.
    pub mean: f64,
    /// The longest.
    pub longest: usize,
    /// Captions without a character.
    pub empty: u64,
}

impl Catalog {
    /// Counts everything; reads all captions.
    ///
    /// # Errors
    /// If a shard cannot be read.
    pub fn summary(&self) -> Result<Summary, DataError> {
        let footer = footer::footer(&self.shards[0], false)?;
        let columns = footer
            .schema()
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().to_string()))
            .collect();
        let buckets = self
            .config
            .buckets
            .iter()
            .zip(self.samples())
            .map(|(&bucket, samples)| BucketSummary {
                bucket,
                samples,
                steps_per_epoch: samples as f64 / bucket.batch as f64,
            })
            .collect();
        Ok(Summary {
            shards: self.shards.len(),
            row_groups: self.groups.len(),
            rows: self
                .groups
                .iter()
                .map(|group| group.assigned.len() as u64)
                .sum(),
            bytes: self.groups.iter().map(|group| group.bytes).sum(),
            columns,
            buckets,
            left_out: self.left_out.clone(),
            captions: self.captions()?,
        })
    }

    fn captions(&self) -> Result<CaptionSummary, DataError> {
        let name = &self.config.columns.caption;
        let mut summary = CaptionSummary {
            shortest: usize::MAX,
            ..CaptionSummary::default()
        };
        let (mut total, mut count) = (0u64, 0u64);
        let mut open: Option<(usize, Arc<ArrowReaderMetadata>)> = None;
        for group in &self.groups {
            let shard = &self.shards[group.shard];
            let footer = match &open {
                Some((shard, footer)) if *shard == group.shard => footer.clone(),
                _ => Arc::new(footer::footer(shard, false)?),
            };
            open = Some((group.shard, footer.clone()));
            footer::read(shard, &footer, Part::all(group.index, &[name]), |batch| {
                for row in 0..batch.num_rows() {
                    let length = record::caption(batch, name, row).chars().count();
                    summary.shortest = summary.shortest.min(length);
                    summary.longest = summary.longest.max(length);
                    summary.empty += u64::from(length == 0);
                    total += length as u64;
                    count += 1;
                }
                Ok(())
            })?;
        }
        summary.shortest = summary.shortest.min(summary.longest);
        summary.mean = total as f64 / count.max(1) as f64;
        Ok(summary)
    }
}
