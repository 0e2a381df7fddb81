//! Convolutions and the norm before them, beside Burn's own operations, in f64.

use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_kernels::conv::portable;
use kinora_kernels::{Window, convolve, rms_norm_silu};

fn waves<const D: usize>(shape: [usize; D], step: f64, device: &Device) -> Tensor<D> {
    let values: Vec<f64> = (0..shape.iter().product::<usize>())
        .map(|i| (i as f64 * step).sin())
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn same(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 0.0, "{what} is nothing but zeros");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() < 1e-11 * largest,
            "{what}: {got} instead of {want} at {i}"
        );
    }
}

const SAME: Window = Window {
    kernel: [3; 3],
    stride: [1; 3],
    before: [2, 1, 1],
    out: [4, 7, 5],
    enlarge: 1,
};

/// The windows of causal video autoencoders, and then some: `(window, frames, rows, columns)`.
fn windows() -> Vec<(Window, [usize; 3])> {
    let flat = Window {
        kernel: [1, 3, 3],
        before: [0, 1, 1],
        ..SAME
    };
    vec![
        (SAME, [4, 7, 5]),
        (flat, [4, 7, 5]),
        // Enlarged by two; and a part of the rows with one more above and below.
        (
            Window {
                out: [2, 6, 8],
                enlarge: 2,
                ..flat
            },
            [2, 3, 4],
        ),
        (
            Window {
                out: [2, 6, 8],
                enlarge: 2,
                before: [0, -1, 1],
                ..flat
            },
            [2, 5, 4],
        ),
        (
            Window {
                out: [2, 5, 4],
                before: [0, 0, 1],
                ..flat
            },
            [2, 7, 4],
        ),
        // Steps of two, with zeros below and to the right.
        (
            Window {
                out: [2, 3, 4],
                stride: [1, 2, 2],
                before: [0; 3],
                ..flat
            },
            [2, 6, 8],
        ),
        // In time alone.
        (
            Window {
                kernel: [3, 1, 1],
                stride: [2, 1, 1],
                before: [0; 3],
                out: [2, 3, 5],
                enlarge: 1,
            },
            [5, 3, 5],
        ),
        (
            Window {
                kernel: [3, 1, 1],
                stride: [1; 3],
                before: [2, 0, 0],
                out: [4, 3, 5],
                enlarge: 1,
            },
            [4, 3, 5],
        ),
        (
            Window {
                kernel: [1; 3],
                stride: [1; 3],
                before: [0; 3],
                out: [2, 30, 40],
                enlarge: 1,
            },
            [2, 30, 40],
        ),
        // More rows than a block.
        (
            Window {
                out: [3, 30, 40],
                ..SAME
            },
            [3, 30, 40],
        ),
    ]
}

#[test]
fn values_and_gradients_are_those_of_the_backends_convolution() {
    for (window, [t, h, w]) in windows() {
        let results = [convolve, portable::forward].map(|run| {
            let device = Device::flex().autodiff();
            let x = waves([2, t, h, w, 3], 0.7, &device).require_grad();
            let weight = waves([3 * window.taps(), 4], 0.3, &device).require_grad();
            let bias = waves([4], 1.3, &device).require_grad();
            let out = run(None, x.clone(), weight.clone(), bias.clone(), window);
            let [a, b, c] = window.out;
            assert_eq!(out.dims(), [2, a, b, c, 4]);
            let loss = (out.clone() * waves(out.dims(), 1.1, &device)).sum();
            let mut gradients = loss.backward();
            let mut all = vec![
                numbers(out.inner()),
                numbers(x.grad_remove(&mut gradients).unwrap()),
            ];
            all.push(numbers(weight.grad_remove(&mut gradients).unwrap()));
            all.push(numbers(bias.grad_remove(&mut gradients).unwrap()));
            all
        });
        for (what, (got, want)) in results[0].iter().zip(&results[1]).enumerate() {
            same(got, want, &format!("{window:?}, result {what}"));
        }
    }
}

#[test]
fn earlier_frames_are_the_first_of_the_video() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = waves([2, 5, 7, 5, 3], 0.7, &device);
        let (weight, bias) = (waves([81, 4], 0.3, &device), waves([4], 1.3, &device));
        for earlier in 1..5 {
            let window = Window {
                before: [0, 1, 1],
                out: [3, 7, 5],
                ..SAME
            };
            let whole = convolve(None, x.clone(), weight.clone(), bias.clone(), window);
            let first = x.clone().narrow(1, 0, earlier);
            let rest = x.clone().narrow(1, earlier, 5 - earlier);
            let got = convolve(Some(first), rest, weight.clone(), bias.clone(), window);
            same(&numbers(got), &numbers(whole), "earlier frames");
        }
    }
}

#[test]
fn norm_and_silu_are_those_of_tensor_operations() {
    let results = [true, false].map(|fused| {
        let device = Device::flex().autodiff();
        // A row of zeros has no direction, and stays zero.
        let x = waves([150, 7], 0.9, &device)
            .slice_assign([3..4, 0..7], Tensor::zeros([1, 7], (&device, DType::F64)));
        let x = x.detach().require_grad();
        let weight = waves([7], 0.4, &device).require_grad();
        let out = if fused {
            rms_norm_silu(x.clone(), weight.clone(), 1e-6)
        } else {
            let scale = x.clone().square().mean_dim(1).add_scalar(1e-6).sqrt();
            silu(x.clone() / scale * weight.clone().reshape([1, 7]))
        };
        let mut gradients = (out.clone() * waves([150, 7], 1.1, &device))
            .sum()
            .backward();
        [
            numbers(out.inner()),
            numbers(x.grad_remove(&mut gradients).unwrap()),
            numbers(weight.grad_remove(&mut gradients).unwrap()),
        ]
    });
    for (what, (got, want)) in results[0].iter().zip(&results[1]).enumerate() {
        same(got, want, &format!("result {what}"));
    }
}
