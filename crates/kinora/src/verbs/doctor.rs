//! `kinora doctor`: what this machine has and lacks.

mod parts;

use super::json;
use crate::cli::Doctor;
use crate::device::host;
use crate::failure::Outcome;
use burn::tensor::{Distribution, Tensor};
use parts::{Part, State};
use serde::Serialize;
use std::fs;
use std::time::Instant;

/// What the program can be built with beyond the CPU, and whether it was.
const FEATURES: [(&str, bool); 3] = [
    ("cuda", cfg!(feature = "cuda")),
    ("nccl", cfg!(feature = "nccl")),
    ("mpi", cfg!(feature = "mpi")),
];

/// What GPUs need that this machine lacks, as the report says it.
pub(crate) fn cuda_parts() -> Vec<String> {
    parts::cuda()
        .into_iter()
        .filter(|part| part.state != State::Ok)
        .map(|part| line(&part))
        .collect()
}

fn line(part: &Part) -> String {
    let (word, name) = (part.state.word(), part.name);
    match (&part.path, &part.help) {
        (Some(path), None) => format!("{word:<9} {name}: {}", path.display()),
        (_, help) => format!("{word:<9} {name}: {}", help.as_deref().unwrap_or_default()),
    }
}

#[cfg(not(feature = "cuda"))]
const BACKENDS: &[&str] = &["flex (CPU)"];
#[cfg(feature = "cuda")]
const BACKENDS: &[&str] = &["flex (CPU)", "cuda (NVIDIA GPUs)"];
#[cfg(not(feature = "nccl"))]
const TRANSPORTS: &[&str] = &["local (ranks as threads)"];
#[cfg(feature = "nccl")]
const TRANSPORTS: &[&str] = &["local (ranks as threads)", "nccl (tensors on GPUs)"];

#[derive(Serialize)]
struct Report {
    version: &'static str,
    cores: usize,
    memory_gib: Option<f64>,
    memory_free_gib: Option<f64>,
    backends: Vec<&'static str>,
    transports: Vec<&'static str>,
    matmul_gflops: f64,
    nvidia_driver: Option<String>,
    /// Features of the program that this one was built without.
    lacks: Vec<&'static str>,
    parts: Vec<Part>,
    problems: Vec<String>,
}

pub(crate) fn doctor(args: &Doctor) -> Outcome {
    let memory = |key: &str| {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / (1024.0 * 1024.0))
    };
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: memory("MemTotal:"),
        memory_free_gib: memory("MemAvailable:"),
        backends: BACKENDS.to_vec(),
        transports: TRANSPORTS.to_vec(),
        matmul_gflops: matmul(),
        nvidia_driver: fs::read_to_string("/proc/driver/nvidia/version")
            .ok()
            .and_then(|text| text.lines().next().map(str::to_string)),
        lacks: FEATURES
            .iter()
            .filter(|(_, built)| !built)
            .map(|(name, _)| *name)
            .collect(),
        parts: parts::parts(),
        problems: vec![],
    };
    if report.cores < 2 {
        report.problems.push(
            "one core: the quickstart's two ranks will take turns, so expect twice its time".into(),
        );
    }
    if report.memory_free_gib.is_some_and(|free| free < 2.0) {
        report
            .problems
            .push("less than 2 GiB of memory is free, which the quickstart may need".into());
    }
    if report.nvidia_driver.is_some() && report.lacks.contains(&"cuda") {
        report.problems.push(
            "there is an NVIDIA GPU, which this program cannot use: it was built without `cuda`"
                .into(),
        );
    }
    if args.json {
        json(&report);
        return Ok(());
    }
    let gib = |x: Option<f64>| x.map_or("unknown".to_string(), |x| format!("{x:.1} GiB"));
    say!("kinora {}", report.version);
    say!("cores: {}", report.cores);
    say!(
        "memory: {}, {} free",
        gib(report.memory_gib),
        gib(report.memory_free_gib)
    );
    say!("backends: {}", report.backends.join(", "));
    say!("transports: {}", report.transports.join(", "));
    say!(
        "matrix products: {:.0} GFLOP/s in f32 on all cores",
        report.matmul_gflops
    );
    say!(
        "NVIDIA driver: {}",
        report.nvidia_driver.as_deref().unwrap_or("none")
    );
    say!("for GPUs and clusters:");
    for part in &report.parts {
        say!("  {}", line(part));
    }
    if report
        .parts
        .iter()
        .any(|part| part.state == State::Elsewhere)
    {
        say!("  what is elsewhere is not found until the variable is set");
    }
    if !report.lacks.is_empty() {
        let lacks = report.lacks.join(",");
        say!(
            "  this program was built without {lacks}: cargo build --release --features {}",
            FEATURES.map(|(name, _)| name).join(",")
        );
    }
    if report.problems.is_empty() {
        say!("nothing is missing for training on the CPU");
    }
    for problem in &report.problems {
        say!("note: {problem}");
    }
    Ok(())
}

/// The rate of a product of matrices of 1,024 x 1,024, the best of a few.
fn matmul() -> f64 {
    const N: usize = 1024;
    let random = || Tensor::<2>::random([N, N], Distribution::Default, &host());
    let (a, b) = (random(), random());
    let once = || {
        let started = Instant::now();
        let _ = a.clone().matmul(b.clone()).into_data();
        2.0 * (N * N * N) as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    (0..4).map(|_| once()).fold(0.0, f64::max)
}
