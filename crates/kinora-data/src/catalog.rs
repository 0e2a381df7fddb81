//! The catalog: which samples there are, and which bucket takes each.
//!
//! It holds one byte a sample, so that 100 million samples fit into memory beside a model.

use std::collections::BTreeMap;

use kinora_media::probe;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde::Serialize;

use kinora_mesh::rng::fnv1a;

use crate::shard::{self, Shard};
use crate::{Bucket, DataConfig, DataError, SampleId};

/// All samples of a data set, each in its bucket. Holds no media.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) config: DataConfig,
    pub(crate) shards: Vec<Shard>,
    pub(crate) groups: Vec<Group>,
    pub(crate) buckets: Vec<Members>,
    pub(crate) left_out: LeftOut,
}

/// A row group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shard: usize,
    /// Its number in the file.
    pub(crate) index: usize,
    /// The number of its first row in the file.
    pub(crate) first_row: u64,
    /// Bytes of its media, as stored.
    pub(crate) bytes: u64,
    /// The bucket of each row, or `NO_BUCKET`.
    pub(crate) assigned: Vec<u8>,
}

/// The samples of a bucket.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The row groups that hold some.
    pub(crate) groups: Vec<u32>,
    /// How many lie in all the groups before each of them; one more entry for the end.
    pub(crate) before: Vec<u64>,
}

impl Members {
    pub(crate) fn samples(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }
}

/// A row of a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) group: u32,
    pub(crate) row: u32,
}

/// Samples that no bucket takes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LeftOut {
    /// Clips shorter than every bucket of videos.
    pub too_short: u64,
    /// Images without a bucket of images, or videos without a bucket of videos.
    pub no_bucket: u64,
    /// Samples without a size, or whose headers cannot be read.
    pub unreadable: u64,
    /// Some of the unreadable ones, and why.
    pub examples: Vec<String>,
}

impl LeftOut {
    /// How many samples are left out.
    pub fn total(&self) -> u64 {
        self.too_short + self.no_bucket + self.unreadable
    }
}

pub(crate) const NO_BUCKET: u8 = u8::MAX;
const EXAMPLES: usize = 20;

impl Catalog {
    /// Reads the footers of all shards and the columns frames, height and width. Shards without
    /// these columns have the headers of all their media read instead, which takes as long as
    /// reading the shard.
    ///
    /// # Errors
    /// If the configuration is wrong, no shard is found, a shard is damaged or lacks a column, or
    /// a bucket gets no sample.
    pub fn open(config: &DataConfig) -> Result<Self, DataError> {
        config.validate()?;
        let mut catalog = Self {
            config: config.clone(),
            shards: shard::find(&config.paths)?,
            groups: Vec::new(),
            buckets: Vec::new(),
            left_out: LeftOut::default(),
        };
        let mut sizes = BTreeMap::new();
        for index in 0..catalog.shards.len() {
            catalog.add(index, &mut sizes)?;
        }
        catalog.collect();
        for (bucket, members) in config.buckets.iter().zip(&catalog.buckets) {
            if members.samples() == 0 {
                return Err(DataError::EmptyBucket {
                    bucket: bucket.to_string(),
                    have: commonest(&sizes),
                });
            }
        }
        Ok(catalog)
    }

    /// All that decides which samples a step takes, in a line: a run goes on only if it is the same.
    ///
    /// Files are told apart by name, rows and stored bytes; what is in them is not read.
    pub fn fingerprint(&self) -> String {
        let Self { config, .. } = self;
        let samples: Vec<String> = config
            .buckets
            .iter()
            .zip(self.samples())
            .map(|(bucket, samples)| {
                format!("{samples} of {bucket} in batches of {}", bucket.batch)
            })
            .collect();
        let groups: Vec<String> = self
            .groups
            .iter()
            .map(|group| {
                let shard = &self.shards[group.shard].name;
                format!(
                    "{shard}/{}/{}/{}",
                    group.index,
                    group.assigned.len(),
                    group.bytes
                )
            })
            .collect();
        let ratio = config
            .image_ratio
            .map_or("their share".to_string(), |ratio| ratio.to_string());
        format!(
            "{}; image ratio {ratio}; seed {}; files {:016x}",
            samples.join(", "),
            config.seed,
            fnv1a(groups.join("\n").as_bytes())
        )
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// The samples of each bucket, in the order of the configuration.
    pub fn samples(&self) -> Vec<u64> {
        self.buckets.iter().map(Members::samples).collect()
    }

    /// The samples that no bucket takes.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The name of a sample.
    pub(crate) fn id(&self, place: Place) -> SampleId {
        let group = &self.groups[place.group as usize];
        SampleId {
            shard: self.shards[group.shard].name.clone(),
            row: group.first_row + u64::from(place.row),
        }
    }

    /// The places of a bucket's samples in a row group, in order.
    pub(crate) fn places(&self, bucket: usize, group: u32) -> impl Iterator<Item = Place> {
        let rows = (0u32..).zip(&self.groups[group as usize].assigned);
        rows.filter(move |&(_, &at)| usize::from(at) == bucket)
            .map(move |(row, _)| Place { group, row })
    }

    /// The place of a bucket's `index`th sample. Panics if it has fewer.
    pub(crate) fn place(&self, bucket: usize, index: u64) -> Place {
        let members = &self.buckets[bucket];
        let at = members.before.partition_point(|&before| before <= index) - 1;
        let rest = (index - members.before[at]) as usize;
        self.places(bucket, members.groups[at])
            .nth(rest)
            .expect("the index is below the count")
    }

    fn add(&mut self, index: usize, sizes: &mut Sizes) -> Result<(), DataError> {
        let shard = self.shards[index].clone();
        let footer = shard::footer(&shard.path, false)?;
        let sized = shard::check(&shard.path, footer.schema(), &self.config.columns)?;
        let mut first_row = 0;
        for group in 0..footer.metadata().num_row_groups() {
            let meta = footer.metadata().row_group(group);
            let media = &self.config.columns.media;
            let bytes = meta
                .columns()
                .iter()
                .filter(|column| column.column_path().parts().first() == Some(media))
                .map(|column| column.compressed_size().max(0) as u64)
                .sum();
            let found = self.measure(&shard, &footer, group, sized)?;
            let rows = found.len() as u64;
            let mut assigned = Vec::with_capacity(found.len());
            for (row, size) in (first_row..).zip(found) {
                assigned.push(self.assign(&shard, row, size, sizes));
            }
            self.groups.push(Group {
                shard: index,
                index: group,
                first_row,
                bytes,
                assigned,
            });
            first_row += rows;
        }
        Ok(())
    }

    /// Frames, height and width of each row of a group, or why there are none.
    fn measure(
        &self,
        shard: &Shard,
        footer: &ArrowReaderMetadata,
        group: usize,
        sized: bool,
    ) -> Result<Vec<Result<[usize; 3], String>>, DataError> {
        let columns = &self.config.columns;
        let sizes = [&columns.frames, &columns.height, &columns.width].map(String::as_str);
        let mut found = Vec::new();
        if sized {
            shard::read(&shard.path, footer, group, &sizes, None, |batch| {
                let [frames, height, width] = sizes.map(|name| shard::sizes(batch, name));
                found.extend(frames.into_iter().zip(height).zip(width).map(
                    |((frames, height), width)| match [frames, height, width] {
                        size if size.contains(&0) => Err(format!("its size is {size:?}")),
                        size => Ok(size),
                    },
                ));
                Ok(())
            })?;
        } else {
            shard::read(
                &shard.path,
                footer,
                group,
                &[&columns.media],
                None,
                |batch| {
                    let media = shard::media(batch, &columns.media);
                    found.extend(
                        media
                            .into_iter()
                            .flatten()
                            .map(|bytes| match bytes.map(probe) {
                                None => Err("it has no media".to_owned()),
                                Some(Err(error)) => Err(error.to_string()),
                                Some(Ok(info)) => Ok([info.frames, info.height, info.width]),
                            }),
                    );
                    Ok(())
                },
            )?;
        }
        Ok(found)
    }

    fn assign(
        &mut self,
        shard: &Shard,
        row: u64,
        size: Result<[usize; 3], String>,
        sizes: &mut Sizes,
    ) -> u8 {
        let size = match size {
            Ok(size) => size,
            Err(reason) => {
                self.left_out.unreadable += 1;
                if self.left_out.examples.len() < EXAMPLES {
                    let line = reason.lines().next().unwrap_or_default();
                    self.left_out
                        .examples
                        .push(format!("{} row {row}: {line}", shard.name));
                }
                return NO_BUCKET;
            }
        };
        if sizes.len() < DISTINCT || sizes.contains_key(&size) {
            *sizes.entry(size).or_default() += 1;
        }
        if let Some(bucket) = choose(&self.config.buckets, size) {
            return bucket as u8;
        }
        let image = size[0] == 1;
        if self
            .config
            .buckets
            .iter()
            .any(|bucket| bucket.is_image() == image)
        {
            self.left_out.too_short += 1;
        } else {
            self.left_out.no_bucket += 1;
        }
        NO_BUCKET
    }

    /// Lists the members of each bucket.
    fn collect(&mut self) {
        let mut buckets: Vec<Members> = Vec::new();
        buckets.resize_with(self.config.buckets.len(), || Members {
            groups: Vec::new(),
            before: vec![0],
        });
        for (index, group) in (0u32..).zip(&self.groups) {
            let mut counts = vec![0u64; buckets.len()];
            for &bucket in group.assigned.iter().filter(|&&bucket| bucket != NO_BUCKET) {
                counts[usize::from(bucket)] += 1;
            }
            for (members, count) in buckets
                .iter_mut()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
            {
                members.groups.push(index);
                members.before.push(members.samples() + count);
            }
        }
        self.buckets = buckets;
    }
}

/// How often each frames, height and width occurs, as far as they are kept.
type Sizes = BTreeMap<[usize; 3], u64>;
const DISTINCT: usize = 1000;

fn commonest(sizes: &Sizes) -> String {
    let mut sizes: Vec<_> = sizes.iter().collect();
    sizes.sort_by_key(|&(size, &count)| (std::cmp::Reverse(count), *size));
    let lines = sizes
        .iter()
        .take(5)
        .map(|([frames, height, width], count)| {
            format!("{count} of {frames} frames of {height}x{width}")
        });
    let text = lines.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "none that can be read".to_owned()
    } else {
        text
    }
}

/// The bucket that takes a sample of frames, height and width.
///
/// Images go to buckets of images and videos to the others: a video's caption speaks of motion.
/// Among these, the most frames that the clip can fill; then the nearest aspect ratio; then the
/// largest size that needs no upscaling, or, if there is none, the smallest.
fn choose(buckets: &[Bucket], [frames, height, width]: [usize; 3]) -> Option<usize> {
    let fits = |bucket: &Bucket| bucket.is_image() == (frames == 1) && bucket.frames <= frames;
    let most = buckets
        .iter()
        .filter(|bucket| fits(bucket))
        .map(|bucket| bucket.frames)
        .max()?;
    let aspect = |height: usize, width: usize| (width as f64 / height as f64).ln();
    let key = |bucket: &Bucket| {
        let distance = (aspect(bucket.height, bucket.width) - aspect(height, width)).abs();
        let upscaled = bucket.height > height || bucket.width > width;
        let area = (bucket.height * bucket.width) as i64;
        // Ratios that differ by less than a thousandth are the same ratio, rounded to pixels.
        (
            (distance * 1000.0).round() as i64,
            upscaled,
            if upscaled { area } else { -area },
        )
    };
    (0..buckets.len())
        .filter(|&index| fits(&buckets[index]) && buckets[index].frames == most)
        .min_by_key(|&index| key(&buckets[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(frames: usize, height: usize, width: usize) -> Bucket {
        Bucket {
            frames,
            height,
            width,
            batch: 4,
        }
    }

    #[test]
    fn a_sample_goes_to_the_bucket_that_fits_best() {
        let buckets = [
            bucket(1, 64, 64),
            bucket(16, 64, 64),
            bucket(16, 32, 32),
            bucket(16, 36, 64),
            bucket(48, 64, 64),
            bucket(1, 32, 32),
        ];
        for (size, wanted) in [
            // The most frames come first, even at the price of the aspect ratio.
            ([48, 72, 128], Some(4)),
            ([47, 72, 128], Some(3)),
            // Then the aspect ratio, then the size.
            ([16, 100, 100], Some(1)),
            ([16, 64, 64], Some(1)),
            ([16, 63, 63], Some(2)),
            ([16, 20, 20], Some(2)),
            ([16, 90, 160], Some(3)),
            ([15, 64, 64], None),
            ([1, 500, 400], Some(0)),
            ([1, 40, 40], Some(5)),
            ([1, 8, 8], Some(5)),
        ] {
            assert_eq!(choose(&buckets, size), wanted, "{size:?}");
        }
        assert_eq!(choose(&[bucket(1, 8, 8)], [16, 8, 8]), None);
    }
}
