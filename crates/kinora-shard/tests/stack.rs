//! Blocks that are computed again in the backward pass.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_mesh::Axis;
use kinora_shard::{Cx, Gradients, Init, Recompute, Sharding, Stack, Weight};

#[derive(Module, Debug)]
struct Scale {
    weight: Weight<1>,
}

fn stack(recompute: Recompute) -> (Stack<Scale>, Cx) {
    let device = Device::flex().autodiff();
    let cx = Cx::new(&device, DType::F64, 3, &Sharding::single()).recomputing(recompute);
    let stack = Stack::new(&cx, 3, |cx| Scale {
        weight: cx.param("weight", [Axis::Embed.of(4)], Init::Normal(1.0)),
    });
    (stack, cx)
}

fn tensor(first: f64) -> Tensor<3> {
    let values: Vec<f64> = (0..8).map(|i| (first + f64::from(i)).sin()).collect();
    let data = TensorData::new(values, [1, 2, 4]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

/// `x w + c`, three times: the gradients of both inputs and of the weights.
fn gradients(recompute: Recompute) -> Vec<Vec<f64>> {
    let (stack, cx) = stack(recompute);
    let [x, c] = [tensor(0.0), tensor(5.0)].map(|x| x.autodiff().require_grad());
    let out = stack.forward([x.clone(), c.clone()], |block, [x, c]| {
        (x * block.weight.val().reshape([1, 1, 4])).tanh() + c
    });
    let mut gradients = out.square().sum().backward();
    let inputs = [x, c].map(|x| x.grad_remove(&mut gradients).expect("it has one"));
    let weights = Gradients::take(&stack, &cx.table(), &mut gradients);
    let values = |x: TensorData| x.iter::<f64>().collect::<Vec<f64>>();
    let weights = weights.flat().iter().map(|x| values(x.to_data()));
    let inputs = inputs.iter().map(|x| values(x.to_data()));
    inputs.chain(weights).collect()
}

#[test]
fn recomputed_blocks_have_the_same_gradients() {
    let kept = gradients(Recompute::None);
    assert!(kept.iter().flatten().all(|&x| x != 0.0), "{kept:?}");
    for recompute in [Recompute::All, Recompute::First(2)] {
        for (a, b) in gradients(recompute)
            .iter()
            .flatten()
            .zip(kept.iter().flatten())
        {
            assert!(
                (a - b).abs() <= 1e-14 * b.abs().max(1.0),
                "{recompute:?}: {a} {b}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "is not a plain tensor")]
fn a_captured_tensor_that_would_lose_its_gradient_is_refused() {
    let (stack, _) = stack(Recompute::All);
    let captured = tensor(1.0).autodiff().require_grad();
    stack.forward([tensor(0.0).autodiff()], move |_, [x]| x * captured.clone());
}
