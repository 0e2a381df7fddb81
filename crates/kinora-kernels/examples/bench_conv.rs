//! How fast a convolution is, beside the product of matrices that it amounts to.
use burn::tensor::{Device, Distribution, Tensor};
use kinora_kernels::{Window, convolve, product};
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}
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
        let n = (60e9 / flops).ceil() as usize;
        let before = processor();
        for _ in 0..n { convolve(Some(e.clone()), x.clone(), w.clone(), b.clone(), window); }
        let used = processor() - before;
        let (m, k) = (2048, c);
        let a = Tensor::<2>::random([m, k], Distribution::Default, &device);
        let w2 = Tensor::<2>::random([k, d], Distribution::Default, &device);
        let r = (60e9 / (2.0 * (m * k * d) as f64)).ceil() as usize;
        let before = processor();
        for _ in 0..r { product(a.clone(), w2.clone()); }
        let of_product = processor() - before;
        println!("{c}->{d} {t}x{side}: conv {:.1} GFLOP a processor second, product {:.1}", n as f64 * flops / used / 1e9, r as f64 * 2.0 * (m * k * d) as f64 / of_product / 1e9);
    }
}
