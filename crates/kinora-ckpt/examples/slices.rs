//! How fast ranks read their parts of a file of matrices, against plain reading of as many bytes.
//!
//! ```sh
//! cargo run --release -p kinora-ckpt --example slices -- FOLDER [GIGABYTES] [READERS]
//! ```
//!
//! Writes bf16 matrices of 5120 x 13824, 13824 x 5120 and 5120 x 5120 into FOLDER, reads the file
//! once, so that it is in memory, and then lets every reader (a thread with a file of its own) read
//! its part of each matrix: rows, columns, and both as a linear layer of ours, which lies transposed
//! there. Plain reading is one stretch of the same length for each part. The figures are the best of
//! five rounds, and how much time each takes that plain reading does not.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use kinora_ckpt::{Foreign, Renamed, TensorSource, Weights};

const SHAPES: [[usize; 2]; 3] = [[5120, 13824], [13824, 5120], [5120, 5120]];
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("name a folder to write the file to")?;
    let gigabytes: f64 = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let readers: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let path = Path::new(&folder).join("slices.safetensors");
    let tensors = write(&path, (gigabytes * 1e9) as usize)?;
    std::io::copy(&mut File::open(&path)?, &mut std::io::sink())?;

    // A part is a quarter of a matrix for four readers: rows or columns of theirs.
    let parts = |columns: bool| {
        let cut = move |shape: [usize; 2], rank: usize| {
            let d = usize::from(columns);
            let (mut offset, mut extent) = ([0, 0], shape);
            extent[d] /= readers;
            offset[d] = rank * extent[d];
            (offset, extent)
        };
        tensors
            .iter()
            .map(move |(name, shape)| (name.clone(), *shape, cut))
    };
    let bytes: usize = tensors.iter().map(|(_, [a, b])| a * b * 2).sum();

    let plain = best(readers, bytes, |rank| {
        let mut file = File::open(&path).unwrap();
        let mut begin = 4096;
        for (_, [rows, columns]) in &tensors {
            let part = rows * columns * 2 / readers;
            let mut out = vec![0; part];
            file.seek(SeekFrom::Start((begin + rank * part) as u64))
                .unwrap();
            file.read_exact(&mut out).unwrap();
            begin += part * readers;
            std::hint::black_box(&out);
        }
    });
    println!("plain reading                {plain:6.2} GB/s");
    for columns in [false, true] {
        let speed = best(readers, bytes, |rank| {
            let weights = Weights::open(&path).unwrap();
            for (name, shape, cut) in parts(columns) {
                let (offset, extent) = cut(shape, rank);
                std::hint::black_box(weights.read(&name, &offset, &extent).unwrap());
            }
        });
        report(if columns { "columns" } else { "rows" }, speed, plain);
    }
    let params: Vec<_> = tensors
        .iter()
        .map(|(name, [a, b])| (name.clone(), vec![*b, *a]))
        .collect();
    for columns in [false, true] {
        let speed = best(readers, bytes, |rank| {
            let weights = Weights::open(&path).unwrap();
            let renamed = Renamed::new(weights, &params, |path: &str, shape: &[usize]| {
                Foreign::linear(path, shape)
            })
            .unwrap();
            for (name, shape, cut) in parts(columns) {
                let (offset, extent) = cut(shape, rank);
                let (offset, extent) = ([offset[1], offset[0]], [extent[1], extent[0]]);
                std::hint::black_box(renamed.read(&name, &offset, &extent).unwrap());
            }
        });
        report(
            if columns {
                "columns, transposed"
            } else {
                "rows, transposed"
            },
            speed,
            plain,
        );
    }
    fs::remove_file(&path)?;
    Ok(())
}

fn report(what: &str, speed: f64, plain: f64) {
    println!(
        "{what:28} {speed:6.2} GB/s  {:3.0} %",
        speed / plain * 100.0
    );
}

/// Gigabytes a second of all readers together.
fn best(readers: usize, bytes: usize, read: impl Fn(usize) + Sync) -> f64 {
    let round = || {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for rank in 0..readers {
                let read = &read;
                scope.spawn(move || read(rank));
            }
        });
        begin.elapsed().as_secs_f64()
    };
    let seconds = (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min);
    bytes as f64 / seconds / 1e9
}

/// Writes matrices of about so many bytes, and returns their names and shapes.
fn write(path: &Path, bytes: usize) -> Result<Vec<(String, [usize; 2])>, Box<dyn Error>> {
    let mut tensors = vec![];
    let (mut entries, mut at) = (vec![], 0);
    for shape in SHAPES.into_iter().cycle() {
        if at >= bytes {
            break;
        }
        let name = format!("w{:03}", tensors.len());
        let end = at + shape[0] * shape[1] * 2;
        let [rows, columns] = shape;
        entries.push(format!(
            r#""{name}":{{"dtype":"BF16","shape":[{rows},{columns}],"data_offsets":[{at},{end}]}}"#
        ));
        tensors.push((name, shape));
        at = end;
    }
    let header = format!("{{{}}}", entries.join(","));
    let header = format!("{header:4088}");
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let block: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut left = at;
    while left > 0 {
        let n = left.min(block.len());
        file.write_all(&block[..n])?;
        left -= n;
    }
    Ok(tensors)
}
