//! How many frames a second are decoded, cropped to a square and resized. Prints one line of JSON.
//!
//! `decode_speed [--threads N] [--built-in] [--size PIXELS] [--repeat TIMES] [--take FRAMES] FILES...`

use std::error::Error;
use std::time::Instant;

use kinora_media::{Decoder, Window, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut threads, mut built_in, mut size, mut repeat) = (1, false, 256, 5);
    let mut take = usize::MAX;
    let mut files = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<usize, Box<dyn Error>> {
            Ok(words.next().ok_or("a number is missing")?.parse()?)
        };
        match word.as_str() {
            "--threads" => threads = number()?,
            "--size" => size = number()?,
            "--repeat" => repeat = number()?,
            "--take" => take = number()?,
            "--built-in" => built_in = true,
            _ => files.push(word),
        }
    }
    let mut decoder = if built_in {
        Decoder::built_in()
    } else {
        Decoder::with_threads(threads)
    };
    let mut lines = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file)?;
        let frames = probe(&bytes)?.frames.min(take);
        let window = Window::frames(0, frames).sized([size, size]);
        // The first run fills the caches.
        let mut sum = checksum(&decoder.window(&bytes, window)?.rgb);
        let mut rates = Vec::new();
        for _ in 0..repeat {
            let start = Instant::now();
            let clip = decoder.window(&bytes, window)?;
            rates.push(frames as f64 / start.elapsed().as_secs_f64());
            sum ^= checksum(&clip.rgb);
        }
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or(0.0);
        lines.push(format!(
            "{{\"file\": {file:?}, \"frames\": {frames}, \"threads\": {threads}, \"fps\": {median:.1}, \"sum\": {sum}}}"
        ));
    }
    println!("[{}]", lines.join(", "));
    Ok(())
}

/// Reads all pixels, so that none can be left out.
fn checksum(rgb: &[u8]) -> u64 {
    rgb.iter().map(|&value| u64::from(value)).sum()
}
