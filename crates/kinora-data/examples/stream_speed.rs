//! How fast rows come out of shards, not decoded: through the same code that training reads by, in
//! its shuffled order, with each row's hash checked.
//!
//! `stream_speed FOLDER [--passes N] [--workers N] [--memory-mb N] [--batch N]` reads a data set N
//! times and prints the median. `stream_speed FOLDER --make MB --row-kb KB` writes one of random
//! media first.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kinora_data::{
    Bucket, Caption, Catalog, DataConfig, Part, Row, ShardOptions, ShardWriter, Stream, Wanted,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let folder = arguments.first().ok_or("name a folder")?;
    let option = |name: &str| -> Result<Option<usize>, Box<dyn Error>> {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.map(|at| {
            arguments
                .get(at + 1)
                .ok_or(format!("{name} needs a number"))
        });
        Ok(value.transpose()?.map(|value| value.parse()).transpose()?)
    };
    if let Some(mb) = option("--make")? {
        make(
            Path::new(folder),
            mb << 20,
            option("--row-kb")?.unwrap_or(200) << 10,
        )?;
    }
    let batch = option("--batch")?.unwrap_or(64);
    let config = DataConfig {
        workers: option("--workers")?.unwrap_or(1),
        memory_mb: option("--memory-mb")?.unwrap_or(1024),
        ..DataConfig::new(vec![folder.clone()], vec![Bucket::new(1, 16, 16, batch)])
    };
    let catalog = Arc::new(Catalog::open(&config)?);
    let steps = catalog.samples()[0] / batch as u64;
    let passes = option("--passes")?.unwrap_or(5);
    let mut speeds = Vec::new();
    for pass in 0..passes as u64 {
        let mut stream = Stream::open(catalog.clone(), Part::WHOLE, pass * steps, Wanted::MEDIA)?;
        let before = catalog.storage().traffic();
        let start = Instant::now();
        let (mut bytes, mut letters) = (0, 0);
        for _ in 0..steps {
            for (id, row) in stream.next_step()? {
                let record = row.map_err(|reason| format!("{id}: {reason}"))?;
                bytes += record.media.len();
                letters += record.caption.len();
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let after = catalog.storage().traffic();
        let speed = bytes as f64 / 1e6 / seconds;
        println!(
            "pass {pass}: {speed:.0} MB/s ({} MB, {letters} letters, {} reads, {seconds:.3} s)",
            bytes / 1_000_000,
            after.requests - before.requests
        );
        speeds.push(speed);
    }
    speeds.sort_by(f64::total_cmp);
    println!("median {:.0} MB/s", speeds[speeds.len() / 2]);
    Ok(())
}

/// Writes media of half to one and a half times `size`.
fn make(folder: &Path, total: usize, size: usize) -> Result<(), Box<dyn Error>> {
    let options = ShardOptions {
        bytes_per_group: 64 << 20,
        bytes_per_shard: 256 << 20,
        ..ShardOptions::default()
    };
    let mut writer = ShardWriter::create(folder, options)?;
    let mut state = 1u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state
    };
    let (mut written, mut number) = (0, 0);
    while written < total {
        let length = size / 2 + (random() >> 33) as usize % size;
        let media: Vec<u8> = (0..length.div_ceil(8))
            .flat_map(|_| random().to_le_bytes())
            .take(length)
            .collect();
        let key = format!("{number:08}");
        let caption = Caption::one(format!(
            "the picture of number {number}, in about as many words as such captions have"
        ));
        writer.push(&Row::new(&key, &media, &caption, [1, 16, 16], 0.0))?;
        written += length;
        number += 1;
    }
    writer.finish()?;
    Ok(())
}
