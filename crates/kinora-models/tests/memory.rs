//! An encoder that was run and dropped leaves nothing behind. One test a file: memory is the process's.

use burn::tensor::Device;
use kinora_models::text::t5::{T5, T5Config};
use kinora_models::text::{TextEncoder, TokenBatch};
use kinora_shard::Cx;

/// The memory that the process has now, in bytes.
fn held() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn run(config: &T5Config) -> u64 {
    let device = Device::flex();
    let encoder = T5::new(&Cx::single(&device), config);
    let tokens = TokenBatch::new(&[vec![5; 64]], &[vec![true; 64]], &device);
    let text = encoder.encode(&tokens);
    assert_eq!(text.embedding.dims(), [1, 64, config.width]);
    assert!(text.embedding.abs().mean().into_scalar::<f32>() > 0.0);
    held().unwrap()
}

#[test]
fn weights_are_freed_with_the_encoder() {
    let Some(_) = held() else {
        eprintln!("SKIPPED: this system does not tell the memory of a process");
        return;
    };
    let config = T5Config {
        vocabulary: 40_000,
        width: 256,
        layers: 4,
        heads: 4,
        ffn: 1024,
        ..T5Config::umt5_xxl()
    };
    let layer = 4 * 256 * 256 + 3 * 256 * 1024;
    let weights = 4 * (40_000 * 256 + 4 * layer) as u64;
    // What threads and the allocator keep for themselves is there after the first run.
    let small = T5Config {
        vocabulary: 10,
        ..config.clone()
    };
    run(&small);
    let before = held().unwrap();
    for turn in 0..3 {
        let during = run(&config);
        let after = held().unwrap();
        assert!(
            during > before + weights / 2,
            "turn {turn}: {during} bytes with the encoder, {before} before"
        );
        assert!(
            after < before + weights / 5,
            "turn {turn}: {after} bytes after the encoder, {before} before, weights of {weights}"
        );
    }
}
