//! Attention never holds a matrix of all scores. One test a file: peak memory is the process's.

use burn::tensor::{Device, Distribution, Tensor};
use kinora_kernels::attention;

/// The largest memory that the process ever had, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[test]
fn memory_grows_with_the_sequence_and_not_with_its_square() {
    let Some(_) = peak() else {
        eprintln!("NOT TESTED: this system does not tell the peak memory of a process");
        return;
    };
    let [b, h, s, k] = [1, 8, 4096, 64];
    let device = Device::flex().autodiff();
    let leaf = || {
        Tensor::<4>::random([b, h, s, k], Distribution::Normal(0.0, 1.0), &device).require_grad()
    };
    let (q, key, v) = (leaf(), leaf(), leaf());
    let before = peak().unwrap();
    let out = attention(q.clone(), key.clone(), v, None);
    let gradients = out.sum().backward();
    assert!(q.grad(&gradients).is_some() && key.grad(&gradients).is_some());
    let grown = peak().unwrap() - before;
    let tensor = (b * h * s * k * 4) as u64; // 8 MiB
    let scores = (b * h * s * s * 4) as u64; // 512 MiB
    assert!(
        grown < 16 * tensor && grown < scores / 4,
        "{grown} bytes more for tensors of {tensor}, scores would be {scores}"
    );
}
