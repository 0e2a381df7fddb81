//! The custom operation: gradients reach inputs and leaves, constants stay constants.

use burn::tensor::{Device, Distribution, Tensor};
use kinora_kernels::op::{Back, Leaf, custom, custom_with_leaves};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// `a * b`, which counts its backward passes.
fn multiply(a: Tensor<2>, b: Tensor<2>, runs: &Arc<AtomicUsize>) -> Tensor<2> {
    let runs = runs.clone();
    custom([a, b], move |[a, b]| {
        assert!(!a.is_autodiff() && !b.is_autodiff());
        let out = a.clone() * b.clone();
        let back: Back<2, 2> = Arc::new(move |gradient: Tensor<2>| {
            runs.fetch_add(1, Ordering::Relaxed);
            [gradient.clone() * b.clone(), gradient * a.clone()]
        });
        (out, back)
    })
}

#[test]
fn gradients_are_those_of_the_composition() {
    for device in [
        Device::flex().autodiff(),
        Device::flex().autodiff().gradient_checkpointing(),
    ] {
        let a = random([3, 4], &device).require_grad();
        let b = random([3, 4], &device).require_grad();
        let runs = Arc::new(AtomicUsize::new(0));
        // `a` enters twice, once through an operation of Burn's.
        let out = multiply(a.clone().exp(), b.clone(), &runs).square() + a.clone();
        let gradients = out.sum().backward();
        let plain = (a.clone().exp() * b.clone()).square() + a.clone();
        let expected = plain.sum().backward();
        assert_eq!(
            values(a.grad(&gradients).unwrap()),
            values(a.grad(&expected).unwrap())
        );
        assert_eq!(
            values(b.grad(&gradients).unwrap()),
            values(b.grad(&expected).unwrap())
        );
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn plain_inputs_are_constants_and_plain_operations_record_nothing() {
    let plain = Device::flex();
    let device = Device::flex().autodiff();
    let runs = Arc::new(AtomicUsize::new(0));
    let constant = random([2, 2], &plain);
    let out = multiply(constant.clone(), constant.clone(), &runs);
    assert!(!out.is_autodiff());

    let a = random([2, 2], &device).require_grad();
    for out in [
        multiply(constant.clone(), a.clone(), &runs),
        multiply(a.clone(), constant.clone(), &runs),
    ] {
        let gradients = out.sum().backward();
        assert_eq!(
            values(a.grad(&gradients).unwrap()),
            values(constant.clone())
        );
    }
    assert_eq!(runs.load(Ordering::Relaxed), 2);

    // On an autodiff device, but nothing needs a gradient.
    let b = random([2, 2], &device);
    let out = multiply(b.clone(), b, &runs);
    assert!(out.is_autodiff() && !out.is_tracked());
}

/// `x * w` summed over rows, where `w` (rank 1) is a leaf that only the closure knows.
fn scaled(x: Tensor<2>, w: &Tensor<1>) -> Tensor<2> {
    let leaf = Leaf::of(w);
    let w = w.clone().inner();
    custom_with_leaves([x], vec![leaf], move |[x]| {
        let out = x.clone() * w.clone().unsqueeze();
        let back = Arc::new(move |gradient: Tensor<2>| {
            // Computed again with autodiff inside the step, as a recomputed block does.
            let x = x.clone().autodiff().require_grad();
            let w = w.clone().autodiff().require_grad();
            let again = x.clone() * w.clone().unsqueeze();
            let mut inner = (again * gradient.autodiff()).sum().backward();
            let of_x = x.grad_remove(&mut inner).unwrap();
            let of_w = w.grad_remove(&mut inner).map(Tensor::into_dispatch);
            ([of_x], vec![of_w])
        });
        (out, back)
    })
}

#[test]
fn leaves_get_gradients_whether_or_not_an_input_does() {
    let device = Device::flex().autodiff();
    let data = random([3, 4], &device);
    for tracked in [true, false] {
        let x = if tracked {
            data.clone().require_grad()
        } else {
            data.clone().inner()
        };
        let w = random([1, 4], &device).reshape([4]).detach().require_grad();
        // The leaf also enters another way, and the two gradients add up.
        let gradients = (scaled(x.clone(), &w) * w.clone().unsqueeze())
            .sum()
            .backward();
        let expected = (x.clone() * w.clone().unsqueeze() * w.clone().unsqueeze())
            .sum()
            .backward();
        for (a, b) in values(w.grad(&gradients).unwrap())
            .into_iter()
            .zip(values(w.grad(&expected).unwrap()))
        {
            assert!((a - b).abs() < 1e-5, "{a} is not {b}");
        }
        if tracked {
            let (a, b) = (x.grad(&gradients).unwrap(), x.grad(&expected).unwrap());
            assert!(values((a - b).abs().max())[0] < 1e-5);
        }
    }
}

#[test]
#[should_panic(expected = "pass it as an input")]
fn a_computed_tensor_is_no_leaf() {
    let device = Device::flex().autodiff();
    let x = random([2, 2], &device).require_grad();
    Leaf::of(&(x * 2.0));
}

#[test]
#[should_panic(expected = "the gradient of input 0")]
fn a_gradient_of_another_shape_is_refused() {
    let device = Device::flex().autodiff();
    let x = random([2, 3], &device).require_grad();
    let out = custom([x], |[x]| {
        let back: Back<2, 1> = Arc::new(|gradient: Tensor<2>| [gradient.transpose()]);
        (x, back)
    });
    out.sum().backward();
}

#[test]
fn a_dropped_operation_drops_what_it_keeps() {
    struct Kept(Arc<AtomicUsize>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let device = Device::flex().autodiff();
    let x = random([2, 2], &device).require_grad();
    let make = || {
        let kept = Kept(dropped.clone());
        custom([x.clone()], move |[x]| {
            let back: Back<2, 1> = Arc::new(move |gradient: Tensor<2>| {
                let _ = &kept;
                [gradient]
            });
            (x, back)
        })
    };
    make().sum().backward();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}
