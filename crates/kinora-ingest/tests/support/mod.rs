//! Media and folders for the tests.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses some of it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use kinora_ingest::{IngestConfig, IngestError, Ingested, Options, ingest};
use kinora_media::{Clip, encode_mp4, encode_png};

/// A picture that depends on the seed all over.
pub fn pixels(seed: u32, height: usize, width: usize) -> Vec<u8> {
    let wave = |at: usize, period: u32| ((at as u32 * (40 + period) + seed * 37) % 256) as u8;
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let light =
                ((x * (3 + seed as usize % 5) + y * (1 + seed as usize % 7)) * 8 % 256) as u8;
            rgb.extend([light, wave(y, seed % 11), wave(x, seed % 13)]);
        }
    }
    rgb
}

pub fn png(seed: u32, height: usize, width: usize) -> Vec<u8> {
    encode_png(&pixels(seed, height, width), height, width).unwrap()
}

/// A clip that shows scenes of so many frames each, of single colours with a moving bar.
pub fn mp4(scenes: &[usize], fps: f64) -> Vec<u8> {
    let (height, width) = (64, 96);
    let mut rgb = Vec::new();
    for (scene, &frames) in scenes.iter().enumerate() {
        let ground = [[200, 30, 30], [20, 60, 200], [30, 180, 40], [230, 230, 220]][scene % 4];
        for frame in 0..frames {
            for y in 0..height {
                for x in 0..width {
                    let bar = (x + width - frame % width) % width < 12 && y / 8 % 2 == scene % 2;
                    let colour = if bar { [250, 240, 10] } else { ground };
                    rgb.extend(colour);
                }
            }
        }
    }
    let clip = Clip {
        frames: scenes.iter().sum(),
        height,
        width,
        fps,
        rgb,
    };
    encode_mp4(&clip).unwrap()
}

/// A WAV file of a tone.
pub fn wav(seconds: f64) -> Vec<u8> {
    let samples: Vec<i16> = (0..(8000.0 * seconds) as usize)
        .map(|at| ((at as f64 * 0.3).sin() * 9000.0) as i16)
        .collect();
    let data = 2 * samples.len() as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend(16000u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(data.to_le_bytes());
    samples
        .iter()
        .for_each(|sample| bytes.extend(sample.to_le_bytes()));
    bytes
}

pub fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A folder of images with captions.
pub fn images(folder: &Path, count: u32) {
    for index in 0..count {
        let stem = folder.join(format!("{:02}/{index:05}", index % 7));
        put(&stem.with_extension("png"), png(index, 24, 32));
        put(&stem.with_extension("txt"), format!("picture {index}"));
    }
}

pub fn run(
    source: &Path,
    out: &Path,
    config: &IngestConfig,
    jobs: usize,
) -> Result<Ingested, IngestError> {
    let options = Options {
        jobs,
        memory_mb: 64,
        ..Options::default()
    };
    ingest(&[source.to_path_buf()], out, config, options, |_| {})
}

/// All files of a folder that are not hidden, with their bytes.
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.is_file() && !path.file_name().unwrap().to_string_lossy().starts_with('.')
        })
        .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Small shards, so that there are several.
pub fn small_shards() -> IngestConfig {
    let mut config = IngestConfig::default();
    config.shards.rows_per_group = 4;
    config.shards.rows_per_shard = 10;
    config
}
