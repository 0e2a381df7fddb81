//! How fast a convolution is, beside the product of matrices that it amounts to.
use burn::tensor::{Device, Distribution, Tensor};
use kinora_kernels::{Window, convolve, product, rms_norm_silu};
use std::time::Instant;
fn main() {
    let device = Device::flex();
    for (c, d, t, side) in [
        (96, 96, 4, 128),
        (192, 192, 4, 64),
        (384, 384, 2, 32),
        (384, 384, 1, 16),
        (384, 384, 1, 64),
    ] {
        let x = Tensor::<5>::random([1, t, side, side, c], Distribution::Default, &device);
        let e = Tensor::<5>::random([1, 2, side, side, c], Distribution::Default, &device);
        let w = Tensor::<2>::random([c * 27, d], Distribution::Default, &device);
        let b = Tensor::<1>::random([d], Distribution::Default, &device);
        let window = Window {
            kernel: [3; 3],
            stride: [1; 3],
            before: [0, 1, 1],
            out: [t, side, side],
            enlarge: 1,
        };
        let flops = 2.0 * 27.0 * (c * d * t * side * side) as f64;
        let mut best = [f64::MAX; 3];
        for _ in 0..4 {
            let start = Instant::now();
            let y = convolve(Some(e.clone()), x.clone(), w.clone(), b.clone(), window);
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            drop(y);
            let a = Tensor::<2>::random(
                [t * side * side * 27 / 8, c],
                Distribution::Default,
                &device,
            );
            let w2 = Tensor::<2>::random([c, d], Distribution::Default, &device);
            let start = Instant::now();
            let y = product(a, w2);
            best[1] = best[1].min(start.elapsed().as_secs_f64() * 8.0);
            drop(y);
            let flat = x.clone().reshape([t * side * side, c]);
            let start = Instant::now();
            rms_norm_silu(flat, Tensor::ones([c], &device), 1e-12);
            best[2] = best[2].min(start.elapsed().as_secs_f64());
        }
        println!(
            "{c}->{d} {t}x{side}: conv {:.1} GFLOP/s ({:.1} ms), product {:.1}, norm {:.2} ms",
            flops / best[0] / 1e9,
            best[0] * 1e3,
            flops / best[1] / 1e9,
            best[2] * 1e3
        );
    }
}
