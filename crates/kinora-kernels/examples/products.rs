//! The rates of all routines for matrix products on a GPU, in TFLOP/s, at the shapes of a transformer
//! of width 1,536: `cargo run --release -p kinora-kernels --features cuda --example products`.

use burn::tensor::{DType, Device, Distribution, Tensor};
use kinora_kernels::product::routines::{all, by};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

fn main() {
    let device = Device::cuda(0);
    // Batches, rows, contracted, columns; which operand is a transposed view; types in and out.
    let shapes = [
        (
            "x w",
            [1, 16384, 1536, 4096],
            (false, false),
            DType::BF16,
            DType::BF16,
        ),
        (
            "d w^T",
            [1, 16384, 4096, 1536],
            (false, true),
            DType::BF16,
            DType::BF16,
        ),
        (
            "x^T d",
            [1, 1536, 16384, 4096],
            (true, false),
            DType::BF16,
            DType::BF16,
        ),
        (
            "q k^T, f32",
            [48, 4096, 128, 1024],
            (false, true),
            DType::F32,
            DType::F32,
        ),
        (
            "q k^T, bf16 to f32",
            [48, 4096, 128, 1024],
            (false, true),
            DType::BF16,
            DType::F32,
        ),
        (
            "p v, bf16 to f32",
            [48, 4096, 1024, 128],
            (false, false),
            DType::BF16,
            DType::F32,
        ),
        (
            "p^T d, bf16 to f32",
            [48, 1024, 4096, 128],
            (true, false),
            DType::BF16,
            DType::F32,
        ),
    ];
    for (name, [batch, m, k, n], (ta, tb), dtype, out) in shapes {
        let new = |rows: usize, cols: usize, flipped: bool| {
            let shape = if flipped {
                [batch, cols, rows]
            } else {
                [batch, rows, cols]
            };
            let x =
                Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), (&device, DType::F32));
            let x = x.cast(dtype);
            if flipped { x.swap_dims(1, 2) } else { x }
        };
        let (a, b) = (new(m, k, ta), new(k, n, tb));
        let reference = a.clone().matmul(b.clone()).cast(DType::F32);
        let size = reference
            .clone()
            .square()
            .mean()
            .into_scalar::<f32>()
            .sqrt();
        println!("{name}: [{batch}, {m}, {k}] x [{batch}, {k}, {n}]");
        for routine in all() {
            let run = || by(&routine, a.clone(), b.clone(), out);
            let first = catch_unwind(AssertUnwindSafe(|| {
                let c = run()?.cast(DType::F32);
                let far = (c - reference.clone())
                    .square()
                    .mean()
                    .into_scalar::<f32>()
                    .sqrt();
                Ok::<_, String>(far / size)
            }));
            let far = match first {
                Ok(Ok(far)) => far,
                Ok(Err(error)) => {
                    println!("  {:24} {}", routine.name, &error[..error.len().min(90)]);
                    continue;
                }
                Err(_) => {
                    println!("  {:24} panics", routine.name);
                    continue;
                }
            };
            let count = 10;
            let started = Instant::now();
            let mut last = None;
            for _ in 0..count {
                last = Some(run().expect("it ran before"));
            }
            let corner = last
                .expect("some")
                .narrow(1, 0, 1)
                .narrow(2, 0, 1)
                .narrow(0, 0, 1);
            corner.cast(DType::F32).sum().into_scalar::<f32>();
            let seconds = started.elapsed().as_secs_f64() / f64::from(count);
            let rate = 2.0 * (batch * m * k * n) as f64 / seconds / 1e12;
            println!(
                "  {:24} {rate:6.0} TFLOP/s  {:7.3} ms  differs by {far:.1e}",
                routine.name,
                seconds * 1e3
            );
        }
    }
}
