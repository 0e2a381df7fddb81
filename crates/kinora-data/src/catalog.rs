//! The catalog: which samples there are, and which bucket takes each.
//!
//! It holds one byte a sample, so that 100 million samples fit into memory beside a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use kinora_media::probe;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use serde::Serialize;

use crate::choose::{Refused, Size, choose};
use crate::footer::{self, Part};
use crate::mixture::SMALLEST_SHARE;
use crate::record;
use crate::schema::LATENTS_KEY;
use crate::shard::{self, Shard};
use crate::store::Storage;
use crate::{Bucket, Columns, DataConfig, DataError, SampleId, SetConfig};

/// All samples of a data set or a mixture, each in its bucket. Holds no media.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) config: DataConfig,
    pub(crate) storage: Arc<Storage>,
    pub(crate) sets: Vec<SetConfig>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) groups: Vec<Group>,
    /// The samples of each data set in each bucket; see [`Catalog::pool`].
    pub(crate) pools: Vec<Members>,
    pub(crate) left_out: LeftOut,
    /// What made the latents, if these are read.
    autoencoder: Option<String>,
}

/// A row group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shard: usize,
    /// The data set of its shard.
    pub(crate) set: usize,
    /// Its number in the file.
    pub(crate) index: usize,
    /// The number of its first row in the file.
    pub(crate) first_row: u64,
    /// Bytes of its media, as stored.
    pub(crate) bytes: u64,
    /// The bucket of each row, or `NO_BUCKET`.
    pub(crate) assigned: Vec<u8>,
}

/// The samples of a data set in a bucket.
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
    /// Clips with fewer frames a second than the buckets of their duration sample.
    pub too_slow: u64,
    /// Images without a bucket of images, videos without a bucket of videos, or of their duration.
    pub no_bucket: u64,
    /// Samples without a size, or whose headers cannot be read.
    pub unreadable: u64,
    /// Some of the unreadable ones, and why.
    pub examples: Vec<String>,
}

impl LeftOut {
    /// How many samples are left out.
    pub fn total(&self) -> u64 {
        self.too_short + self.too_slow + self.no_bucket + self.unreadable
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
        let sets = config.all_sets();
        let mut catalog = Self {
            config: config.clone(),
            storage: Storage::new(config.store.clone()),
            sets: sets.clone(),
            shards: Vec::new(),
            groups: Vec::new(),
            pools: Vec::new(),
            left_out: LeftOut::default(),
            autoencoder: None,
        };
        let mut sizes = BTreeMap::new();
        for (number, set) in sets.iter().enumerate() {
            let columns = config.columns_of(set);
            for shard in shard::find(&catalog.storage, &set.paths)? {
                catalog.add(shard, number, columns, &mut sizes)?;
            }
        }
        catalog.collect();
        for (bucket, samples) in config.buckets.iter().zip(catalog.samples()) {
            if samples == 0 {
                return Err(DataError::EmptyBucket {
                    bucket: bucket.to_string(),
                    have: commonest(&sizes),
                    left_out: catalog.left_out.examples.first().cloned(),
                });
            }
        }
        for (number, set) in sets.iter().enumerate() {
            if (0..config.buckets.len())
                .all(|b| catalog.pools[catalog.pool(b, number)].samples() == 0)
            {
                return Err(DataError::config(
                    format!("no sample of the data set {:?} fits a bucket", set.name),
                    "add a bucket for it, or leave it out of data.sets",
                ));
            }
        }
        catalog.check_shares()?;
        Ok(catalog)
    }

    /// The mixture counts in blocks, which hold a slot for no data set below a smallest share.
    fn check_shares(&self) -> Result<(), DataError> {
        for (number, bucket) in self.config.buckets.iter().enumerate() {
            let shares = self.shares(number);
            let total: f64 = shares.iter().sum();
            for (set, share) in self.sets.iter().zip(shares) {
                if share > 0.0 && share / total < SMALLEST_SHARE {
                    return Err(DataError::config(
                        format!(
                            "the data set {:?} has {:.1e} of the bucket of {bucket}, and none may have less than {SMALLEST_SHARE:.1e}",
                            set.name,
                            share / total
                        ),
                        "raise its weight, merge it with another data set, or leave out what of it falls into that bucket",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// The identity of the autoencoder that made the latents, if the configuration asks for these.
    pub fn autoencoder(&self) -> Option<&str> {
        self.autoencoder.as_deref()
    }

    /// The samples of each bucket, in the order of the configuration.
    pub fn samples(&self) -> Vec<u64> {
        let of = |pools: &[Members]| pools.iter().map(Members::samples).sum();
        self.pools.chunks(self.sets.len()).map(of).collect()
    }

    /// The number of the pool that holds a data set's samples in a bucket.
    pub(crate) fn pool(&self, bucket: usize, set: usize) -> usize {
        bucket * self.sets.len() + set
    }

    /// The bucket that a pool belongs to.
    pub(crate) fn bucket_of(&self, pool: usize) -> usize {
        pool / self.sets.len()
    }

    /// How much each data set counts in a bucket. Their sum is the bucket's weight among the buckets
    /// of its kind, in samples.
    ///
    /// A data set spreads its weight over its samples, so that its buckets keep pace. With an image
    /// ratio it spreads it over its images and over its videos, each for itself.
    pub(crate) fn shares(&self, bucket: usize) -> Vec<f64> {
        let config = &self.config;
        let image = config.buckets[bucket].is_image();
        let share = |set: usize| {
            let samples = |bucket| self.pools[self.pool(bucket, set)].samples() as f64;
            let here = samples(bucket);
            let Some(weight) = self.sets[set].weight else {
                return here;
            };
            if here == 0.0 {
                return 0.0;
            }
            let counted = |&bucket: &usize| {
                config.image_ratio.is_none() || config.buckets[bucket].is_image() == image
            };
            let all: f64 = (0..config.buckets.len()).filter(counted).map(samples).sum();
            weight * here / all
        };
        (0..self.sets.len()).map(share).collect()
    }

    /// What its shards are read through; counts what is read.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
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

    /// The places of a pool's samples in a row group, in order.
    pub(crate) fn places(&self, pool: usize, group: u32) -> impl Iterator<Item = Place> {
        self.assigned(self.bucket_of(pool), group)
    }

    /// The places of a bucket's samples in a row group, in order.
    pub(crate) fn assigned(&self, bucket: usize, group: u32) -> impl Iterator<Item = Place> {
        let rows = (0u32..).zip(&self.groups[group as usize].assigned);
        rows.filter(move |&(_, &at)| usize::from(at) == bucket)
            .map(move |(row, _)| Place { group, row })
    }

    /// The place of a pool's `index`th sample. Panics if it has fewer.
    pub(crate) fn place(&self, pool: usize, index: u64) -> Place {
        let members = &self.pools[pool];
        let at = members.before.partition_point(|&before| before <= index) - 1;
        let rest = (index - members.before[at]) as usize;
        self.places(pool, members.groups[at])
            .nth(rest)
            .expect("the index is below the count")
    }

    fn add(
        &mut self,
        shard: Shard,
        set: usize,
        columns: &Columns,
        sizes: &mut Sizes,
    ) -> Result<(), DataError> {
        let timed = self.config.buckets.iter().any(Bucket::timed);
        let footer = footer::footer(&shard, false)?;
        let sized = if self.config.latents {
            // What they are latents of is in their shard's columns; there need be no media.
            Some(timed)
        } else {
            let sized = record::check(&shard.location(), footer.schema(), columns, timed)?;
            sized.then_some(timed)
        };
        self.same_autoencoder(&shard, &footer)?;
        let large = if self.config.latents {
            "latents"
        } else {
            columns.media.as_str()
        };
        let mut first_row = 0;
        for group in 0..footer.metadata().num_row_groups() {
            let meta = footer.metadata().row_group(group);
            let bytes = meta
                .columns()
                .iter()
                .filter(|column| {
                    column
                        .column_path()
                        .parts()
                        .first()
                        .is_some_and(|name| name == large)
                })
                .map(|column| column.compressed_size().max(0) as u64)
                .sum();
            let found = measure(&shard, &footer, group, columns, sized)?;
            let rows = found.len() as u64;
            let mut assigned = Vec::with_capacity(found.len());
            for (row, size) in (first_row..).zip(found) {
                assigned.push(self.assign(&shard, row, size, sizes));
            }
            self.groups.push(Group {
                shard: self.shards.len(),
                set,
                index: group,
                first_row,
                bytes,
                assigned,
            });
            first_row += rows;
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Notes which autoencoder made the latents, if these are to be read: the same one in all shards.
    fn same_autoencoder(
        &mut self,
        shard: &Shard,
        footer: &ArrowReaderMetadata,
    ) -> Result<(), DataError> {
        if !self.config.latents {
            return Ok(());
        }
        let metadata = footer.metadata().file_metadata().key_value_metadata();
        let entry = metadata.and_then(|all| all.iter().find(|entry| entry.key == LATENTS_KEY));
        let location = shard.location();
        let Some(found) = entry.and_then(|entry| entry.value.clone()) else {
            return Err(DataError::config(
                format!("{} holds no latents", location.display()),
                "write them with kinora data encode, or remove data.latents",
            ));
        };
        if let Some(known) = &self.autoencoder
            && *known != found
        {
            return Err(DataError::config(
                format!(
                    "the latents of {} were made by the autoencoder {found}, those of other shards by {known}",
                    location.display()
                ),
                "encode all data sets with the same one",
            ));
        }
        self.autoencoder = Some(found);
        Ok(())
    }

    fn assign(
        &mut self,
        shard: &Shard,
        row: u64,
        size: Result<Size, String>,
        sizes: &mut Sizes,
    ) -> u8 {
        let left_out = &mut self.left_out;
        let size = match size {
            Ok(size) => size,
            Err(reason) => {
                left_out.unreadable += 1;
                if left_out.examples.len() < EXAMPLES {
                    let line = reason.lines().next().unwrap_or_default();
                    let example = format!("{} row {row}: {line}", shard.name);
                    left_out.examples.push(example);
                }
                return NO_BUCKET;
            }
        };
        let key = [size.frames, size.height, size.width];
        if sizes.len() < DISTINCT || sizes.contains_key(&key) {
            *sizes.entry(key).or_default() += 1;
        }
        match choose(&self.config.buckets, size) {
            Ok(bucket) => return bucket as u8,
            Err(Refused::TooShort) => left_out.too_short += 1,
            Err(Refused::TooSlow) => left_out.too_slow += 1,
            Err(Refused::NoBucket) => left_out.no_bucket += 1,
        }
        NO_BUCKET
    }

    /// Lists the members of each pool.
    fn collect(&mut self) {
        let buckets = self.config.buckets.len();
        self.pools
            .resize_with(buckets * self.sets.len(), || Members {
                groups: Vec::new(),
                before: vec![0],
            });
        for (index, group) in (0u32..).zip(&self.groups) {
            let mut counts = vec![0u64; buckets];
            for &bucket in group.assigned.iter().filter(|&&bucket| bucket != NO_BUCKET) {
                counts[usize::from(bucket)] += 1;
            }
            for (bucket, count) in counts
                .into_iter()
                .enumerate()
                .filter(|(_, count)| *count > 0)
            {
                let members = &mut self.pools[bucket * self.sets.len() + group.set];
                members.groups.push(index);
                members.before.push(members.samples() + count);
            }
        }
    }
}

/// The size of each row of a group, or why there is none: from its columns if these are there, those
/// of times among them if so wanted, and else from the media's headers.
fn measure(
    shard: &Shard,
    footer: &ArrowReaderMetadata,
    group: usize,
    columns: &Columns,
    sized: Option<bool>,
) -> Result<Vec<Result<Size, String>>, DataError> {
    let mut found = Vec::new();
    let Some(timed) = sized else {
        let media = [columns.media.as_str()];
        footer::read(shard, footer, Part::all(group, &media), |batch| {
            let media = record::media(batch, &columns.media);
            found.extend(media.into_iter().map(|bytes| match bytes.map(probe) {
                None => Err("it has no media".to_owned()),
                Some(Err(error)) => Err(error.to_string()),
                Some(Ok(info)) => Ok(Size {
                    frames: info.frames,
                    height: info.height,
                    width: info.width,
                    fps: info.fps,
                    seconds: info.duration,
                }),
            }));
            Ok(())
        })?;
        return Ok(found);
    };
    let sizes = [&columns.frames, &columns.height, &columns.width].map(String::as_str);
    let times = [&columns.fps, &columns.duration].map(String::as_str);
    let names = if timed {
        [&sizes[..], &times].concat()
    } else {
        sizes.to_vec()
    };
    footer::read(shard, footer, Part::all(group, &names), |batch| {
        let [frames, height, width] = sizes.map(|name| record::sizes(batch, name));
        let [fps, seconds] = times.map(|name| record::numbers(batch, name));
        found.extend((0..batch.num_rows()).map(|row| {
            let size = Size {
                frames: frames[row],
                height: height[row],
                width: width[row],
                fps: fps[row],
                seconds: seconds[row],
            };
            match [size.frames, size.height, size.width] {
                sizes if sizes.contains(&0) => Err(format!("its size is {sizes:?}")),
                _ if timed && size.frames > 1 && !(size.fps > 0.0 && size.seconds > 0.0) => {
                    Err(format!(
                        "it has {} frames a second and lasts {} s",
                        size.fps, size.seconds
                    ))
                }
                _ => Ok(size),
            }
        }));
        Ok(())
    })?;
    Ok(found)
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
