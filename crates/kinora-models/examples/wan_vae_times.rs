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
    let start = Instant::now();
    let moments = vae.moments(video);
    println!(
        "encode: {:.2} s, peak {} MiB",
        start.elapsed().as_secs_f64(),
        peak()
    );
    let start = Instant::now();
    let frames = vae.reconstruct(moments.narrow(1, 0, 16));
    println!(
        "decode: {:.2} s, peak {} MiB",
        start.elapsed().as_secs_f64(),
        peak()
    );
    println!("{:?}", frames.dims());
}

/// The most memory that the process has held, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) / 1024
}
