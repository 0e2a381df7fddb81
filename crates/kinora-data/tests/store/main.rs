//! Data sets that lie elsewhere give the batches of local ones, whatever their servers do; or an error
//! that names the object and the reason, in time.

mod faults;
mod http;
mod s3;
mod servers;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinora_data::{
    Batch, Bucket, Caption, Catalog, DataConfig, DataError, Loader, Part, Row, ShardOptions,
    ShardWriter, StoreOptions,
};
use kinora_media::encode_png;
use tempfile::TempDir;

pub(crate) const SAMPLES: usize = 60;

/// Pictures that do not compress, so that they fill several pages.
pub(crate) fn picture(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let rgb: Vec<u8> = (0..32 * 32 * 3)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            (state >> 56) as u8
        })
        .collect();
    encode_png(&rgb, 32, 32).unwrap()
}

/// A data set of three shards, in groups of eight.
pub(crate) fn data_set() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = ShardOptions {
        rows_per_group: 8,
        rows_per_shard: 20,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder.path(), options).unwrap();
    for number in 0..SAMPLES {
        let caption = Caption::one(format!("picture {number}"));
        let key = format!("{number:03}");
        let media = picture(number);
        writer
            .push(&Row::new(&key, &media, &caption, [1, 32, 32], 0.0))
            .unwrap();
    }
    writer.finish().unwrap();
    folder
}

pub(crate) fn config(location: &str, store: StoreOptions) -> DataConfig {
    DataConfig {
        store,
        workers: 2,
        ..DataConfig::new(vec![location.to_owned()], vec![Bucket::new(1, 32, 32, 6)])
    }
}

pub(crate) fn local(folder: &Path) -> DataConfig {
    config(folder.to_str().unwrap(), StoreOptions::default())
}

/// Two epochs and a half.
pub(crate) fn batches(config: &DataConfig) -> Result<Vec<Batch>, DataError> {
    let mut loader = Loader::open(Arc::new(Catalog::open(config)?), Part::WHOLE, 0)?;
    (0..25).map(|_| loader.next()).collect()
}

/// Short patience, so that tests are quick.
pub(crate) fn impatient() -> StoreOptions {
    StoreOptions {
        timeout_s: 2.0,
        retries: 4,
        deadline_s: 20.0,
        ..StoreOptions::default()
    }
}

/// Runs it, and fails if that takes longer than some seconds.
pub(crate) fn within<T>(seconds: u64, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = act();
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(seconds), "it took {taken:?}");
    value
}
