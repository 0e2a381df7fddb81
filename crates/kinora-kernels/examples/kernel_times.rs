//! Times the kernels, forward and backward, against compositions of Burn's operations.
//!
//! `cargo run --release -p kinora-kernels --example kernel_times [threads]...`

use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Distribution, Tensor};
use kinora_kernels::{attention, rms_norm, swiglu};
use std::time::{Duration, Instant};

fn composed_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let [_, _, _, width] = q.dims();
    let scores = (q * (width as f64).powf(-0.5)).matmul(k.transpose());
    softmax(scores, 3).matmul(v)
}

fn composed_rms_norm(x: Tensor<3>, weight: Tensor<1>) -> Tensor<3> {
    let mean_square = x.clone().square().mean_dim(2);
    x * mean_square.add_scalar(1e-6).sqrt().recip() * weight.reshape([1, 1, -1])
}

fn leaf<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad()
}

// As in the program: with the system's allocator, fresh pages would be half of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The best forward and the best backward of a second.
fn time<const D: usize>(forward: impl Fn() -> Tensor<D>) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    let start = Instant::now();
    let mut runs = 0;
    while runs < 5 || start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        let out = forward();
        best[0] = best[0].min(begin.elapsed().as_secs_f64());
        let loss = out.sum();
        let begin = Instant::now();
        drop(loss.backward());
        best[1] = best[1].min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best.map(|seconds| seconds * 1e3)
}

fn report(what: &str, threads: usize, kernel: [f64; 2], composed: [f64; 2]) {
    println!(
        "{what:<34} {threads} threads: forward {:7.2} ms, backward {:7.2} ms; composed {:7.2} ms, {:7.2} ms: {:.1} times as fast",
        kernel[0],
        kernel[1],
        composed[0],
        composed[1],
        (composed[0] + composed[1]) / (kernel[0] + kernel[1]),
    );
}

fn bench(threads: usize) {
    let [q, k, v] = [(); 3].map(|()| leaf([2, 8, 1024, 64]));
    report(
        "attention [2, 8, 1024, 64]",
        threads,
        time(|| attention(q.clone(), k.clone(), v.clone(), None)),
        time(|| composed_attention(q.clone(), k.clone(), v.clone())),
    );
    let [gate, up] = [(); 2].map(|()| leaf([2, 1024, 2048]));
    report(
        "swiglu [2, 1024, 2048]",
        threads,
        time(|| swiglu(gate.clone(), up.clone())),
        time(|| silu(gate.clone()) * up.clone()),
    );
    let (x, weight) = (leaf([4, 1024, 1024]), leaf([1024]));
    report(
        "rms_norm [4, 1024, 1024]",
        threads,
        time(|| rms_norm(x.clone(), weight.clone(), 1e-6)),
        time(|| composed_rms_norm(x.clone(), weight.clone())),
    );
}

fn main() {
    let mut threads: Vec<usize> = std::env::args()
        .skip(1)
        .map(|n| n.parse().expect("a number of threads"))
        .collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads can be started");
        pool.install(|| bench(threads));
    }
}
