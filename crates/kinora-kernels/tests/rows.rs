//! rms_norm and swiglu against the compositions of Burn's operations that define them.

use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_kernels::{rms_norm, swiglu};

const EPSILON: f64 = 1e-5;

fn leaf<const D: usize>(shape: [usize; D], seed: u64, dtype: DType) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let numbers: Vec<f64> = (0..n)
        .map(|at| ((at as f64 + 1.0) * (seed as f64 + 0.7)).sin() * 4.0)
        .collect();
    let device = Device::flex().autodiff();
    Tensor::<D>::from_data(TensorData::new(numbers, shape), (&device, DType::F64))
        .cast(dtype)
        .detach()
        .require_grad()
}

fn assert_near<const D: usize>(what: &str, got: Tensor<D>, expected: Tensor<D>, tolerance: f64) {
    assert_eq!(got.dims(), expected.dims());
    let got: Vec<f64> = got.inner().into_data().iter::<f64>().collect();
    let expected: Vec<f64> = expected.inner().into_data().iter::<f64>().collect();
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (at, (a, b)) in got.iter().zip(&expected).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * scale,
            "{what}, element {at}: {a} is not {b}"
        );
    }
}

/// Output and gradients of a kernel and of its definition, on inputs of one type.
fn compare<const A: usize, const B: usize>(
    inputs: (Tensor<A>, Tensor<B>),
    kernel: impl Fn(Tensor<A>, Tensor<B>) -> Tensor<3>,
    definition: impl Fn(Tensor<A>, Tensor<B>) -> Tensor<3>,
    tolerance: f64,
) {
    let (a, b) = inputs;
    let dtype = a.dtype();
    // The definition is computed in f64 from the same, possibly rounded, numbers.
    let exact = |t: &Tensor<A>| t.clone().inner().cast(DType::F64).autodiff().require_grad();
    let exact_b = |t: &Tensor<B>| t.clone().inner().cast(DType::F64).autodiff().require_grad();
    let (a64, b64) = (exact(&a), exact_b(&b));
    let out = kernel(a.clone(), b.clone());
    assert_eq!(out.dtype(), dtype);
    let expected = definition(a64.clone(), b64.clone());
    assert_near("out", out.clone(), expected.clone(), tolerance);
    let d_out = leaf(out.dims(), 9, dtype).inner();
    let gradients = (out * d_out.clone()).sum().backward();
    let exact = (expected * d_out.cast(DType::F64)).sum().backward();
    let (d_a, d_b) = (a.grad(&gradients).unwrap(), b.grad(&gradients).unwrap());
    assert_eq!((d_a.dtype(), d_b.dtype()), (dtype, b.dtype()));
    assert_near("first", d_a, a64.grad(&exact).unwrap(), tolerance);
    assert_near("second", d_b, b64.grad(&exact).unwrap(), tolerance);
}

const PRECISIONS: [(DType, f64); 3] = [
    (DType::F64, 1e-13),
    (DType::F32, 3e-6),
    (DType::BF16, 1.0 / 128.0),
];

#[test]
fn rms_norm_is_its_definition() {
    let definition = |x: Tensor<3>, weight: Tensor<1>| {
        let mean_square = x.clone().square().mean_dim(2);
        x * mean_square.add_scalar(EPSILON).sqrt().recip() * weight.reshape([1, 1, -1])
    };
    for (dtype, tolerance) in PRECISIONS {
        for shape in [[1, 1, 1], [2, 105, 33], [3, 70, 64]] {
            let x = leaf(shape, 1, dtype);
            let weight = leaf([shape[2]], 2, dtype);
            let kernel = |x, weight| rms_norm(x, weight, EPSILON);
            compare((x, weight), kernel, definition, tolerance);
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero() {
    let x = Tensor::<3>::zeros([1, 2, 5], &Device::flex().autodiff()).require_grad();
    let weight = leaf([5], 1, DType::F32);
    let out = rms_norm(x.clone(), weight, EPSILON);
    let gradients = out.clone().sum().backward();
    assert!(out.into_data().iter::<f32>().all(|x| x == 0.0));
    let d_x = x.grad(&gradients).unwrap().into_data();
    assert!(d_x.iter::<f32>().all(f32::is_finite));
}

#[test]
fn swiglu_is_its_definition() {
    let definition = |gate: Tensor<3>, up: Tensor<3>| gate.clone() * sigmoid(gate) * up;
    for (dtype, tolerance) in PRECISIONS {
        for shape in [[1, 1, 1], [2, 105, 33], [1, 300, 64]] {
            let gate = leaf(shape, 1, dtype);
            let up = leaf(shape, 2, dtype);
            compare((gate, up), swiglu, definition, tolerance);
        }
    }
}

#[test]
fn gates_far_from_zero_are_open_or_shut() {
    let device = Device::flex().autodiff();
    let data = TensorData::new(vec![-1e4f32, -100.0, 100.0, 1e4], [1, 1, 4]);
    let gate = Tensor::<3>::from_data(data, &device).require_grad();
    let up = Tensor::<3>::ones([1, 1, 4], &device).require_grad();
    let out = swiglu(gate.clone(), up);
    let gradients = out.clone().sum().backward();
    let near = |got: Vec<f32>, expected: [f32; 4]| {
        for (a, b) in got.into_iter().zip(expected) {
            assert!((a - b).abs() < 1e-35, "{a} is not {b}");
        }
    };
    near(
        out.into_data().try_into_vec().unwrap(),
        [0.0, 0.0, 100.0, 1e4],
    );
    let d_gate = gate.grad(&gradients).unwrap();
    near(
        d_gate.into_data().try_into_vec().unwrap(),
        [0.0, 0.0, 1.0, 1.0],
    );
}

#[test]
fn strided_views_are_read_in_order() {
    let x = leaf([5, 3, 4], 1, DType::F64);
    let weight = leaf([4], 2, DType::F64);
    let view = rms_norm(x.clone().swap_dims(0, 1), weight.clone(), EPSILON);
    let whole = rms_norm(x.clone(), weight, EPSILON).swap_dims(0, 1);
    assert_near("rms_norm", view, whole, 1e-15);
    let narrow = |t: &Tensor<3>| t.clone().slice([1..4, 0..2, 1..3]);
    let whole = narrow(&swiglu(x.clone(), x.clone()));
    assert_near("swiglu", swiglu(narrow(&x), narrow(&x)), whole, 1e-15);
}
