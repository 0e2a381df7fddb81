//! How long Wan 2.1's autoencoder takes, and how much memory: `wan_vae_times [frames] [side]`.

use burn::tensor::{Device, Distribution, Tensor};
use kinora_models::autoencoder::wan::{WanVae, WanVaeConfig};
use kinora_shard::Cx;
use std::time::Instant;

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|word| word.parse().expect("a number"));
    let frames = numbers.next().unwrap_or(17);
    let side = numbers.next().unwrap_or(128);
    let device = Device::flex();
    let vae = WanVae::new(&Cx::single(&device), &WanVaeConfig::wan21());
    println!("weights: {} MiB", peak());
    let video = Tensor::<5>::random(
        [1, 3, frames, side, side],
        Distribution::Uniform(-1.0, 1.0),
        &device,
    );
    let (start, before) = (Instant::now(), processor());
    let moments = vae.moments(video);
    report("encode", start, before);
    let (start, before) = (Instant::now(), processor());
    let frames = vae.reconstruct(moments.narrow(1, 0, 16));
    report("decode", start, before);
    println!("{:?}", frames.dims());
}

fn report(what: &str, start: Instant, before: f64) {
    let (wall, used) = (start.elapsed().as_secs_f64(), processor() - before);
    println!(
        "{what}: {wall:.2} s, {used:.2} s of processors, peak {} MiB",
        peak()
    );
}

/// Seconds of all processors that the process has used, on Linux.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// The most memory that the process has held, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) / 1024
}
