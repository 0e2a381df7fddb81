//! The registry of plans: every one must do what one rank does.

use crate::fixture::{Cut, batch, cut, on_ranks, train_config};
use burn::tensor::{DType, Tensor, TensorData};
use kinora_mesh::Plan;
use kinora_shard::ParamSpec;
use kinora_train::TrainConfig;

/// One rank first: the others are compared with it.
fn registry() -> Vec<Cut> {
    vec![
        cut("one rank", 1, 1, false),
        cut("tp 2", 1, 2, false),
        cut("tp 2 with seq", 1, 2, true),
        cut("tp 4 with seq", 1, 4, true),
        cut("replicate 2", 2, 1, false),
        cut("replicate 4", 4, 1, false),
        cut("tp 2 x replicate 2", 2, 2, false),
        cut("tp 2 with seq x replicate 2", 2, 2, true),
        Cut {
            plan: Plan {
                hidden: vec![],
                ..cut("", 1, 2, false).plan
            },
            ..cut("tp 2, heads only", 1, 2, false)
        },
        Cut {
            plan: Plan {
                heads: vec![],
                ..cut("", 1, 2, false).plan
            },
            ..cut("tp 2, hidden only", 1, 2, false)
        },
    ]
}

/// The loss and the gradient's norm of each of 20 steps, the same on every rank.
fn steps(cut: &Cut, dtype: DType, config: &TrainConfig) -> Vec<[f64; 2]> {
    let all = on_ranks(cut, dtype, config.clone(), |mut trainer, sharding| {
        (0..20)
            .map(|step| {
                let report = trainer.train(&batch(step, &sharding))?;
                Ok([report.loss, report.norm])
            })
            .collect()
    })
    .unwrap_or_else(|error| panic!("{}: {error}", cut.name));
    let all: Vec<Vec<[f64; 2]>> = all;
    for rank in &all {
        assert_eq!(rank, &all[0], "{}: ranks differ among themselves", cut.name);
    }
    all[0].clone()
}

fn compare(name: &str, got: &[[f64; 2]], want: &[[f64; 2]], tolerance: f64) {
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for (what, got, want) in [("loss", got[0], want[0]), ("norm", got[1], want[1])] {
            let error = (got - want).abs() / want.abs();
            assert!(
                error < tolerance,
                "{name}: {what} {got} at step {} instead of {want} ({error:.1e} relative)",
                step + 1
            );
        }
    }
}

fn same_losses(dtype: DType, tolerance: f64) {
    let config = train_config();
    let registry = registry();
    let want = steps(&registry[0], dtype, &config);
    assert!(
        want[18][0] < 0.9 * want[0][0],
        "nothing is learned: {want:?}"
    );
    let clipped = want.iter().all(|[_, norm]| *norm > config.optim.clip);
    assert!(clipped, "clipping has no part in it: {want:?}");
    for cut in &registry[1..] {
        compare(cut.name, &steps(cut, dtype, &config), &want, tolerance);
    }
}

#[test]
fn twenty_losses_are_those_of_one_rank_in_f64() {
    same_losses(DType::F64, 1e-9);
}

#[test]
fn twenty_losses_are_those_of_one_rank_in_f32() {
    same_losses(DType::F32, 1e-4);
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let registry = registry();
    let want = steps(&registry[0], DType::F64, &train_config());
    for cut in &registry {
        // Two micro-batches need two samples on each rank.
        if cut.mesh.replicate > 2 {
            continue;
        }
        let config = TrainConfig {
            accumulate: 2,
            ..train_config()
        };
        compare(cut.name, &steps(cut, DType::F64, &config), &want, 1e-9);
    }
}

/// A rank's output, and its box of each parameter's gradient.
struct Pass {
    output: Vec<f64>,
    gradients: Vec<(ParamSpec, Vec<f64>)>,
}

/// Forward and backward after two steps, when no weight is zero any more.
fn pass(cut: &Cut, dtype: DType) -> Vec<Pass> {
    on_ranks(cut, dtype, train_config(), move |mut trainer, sharding| {
        for step in 0..2 {
            trainer.train(&batch(step, &sharding))?;
        }
        let batch = batch(2, &sharding);
        let latents = batch.latents.clone().cast(dtype);
        let times = TensorData::new(vec![0.3; batch.captions.len()], [batch.captions.len()]);
        let times = Tensor::from_data(times, (&latents.device(), dtype));
        let output = trainer.model().forward(latents, times, &batch.captions);
        let (_, gradients) = trainer.gradients(&batch);
        let gradients = gradients.reduce(trainer.table(), &sharding);
        let values = |x: &Tensor<1>| x.to_data().iter::<f64>().collect();
        let flat = gradients.flat().iter().map(values);
        Ok(Pass {
            output: output.inner().into_data().iter::<f64>().collect(),
            gradients: trainer.table().specs().iter().cloned().zip(flat).collect(),
        })
    })
    .unwrap_or_else(|error| panic!("{}: {error}", cut.name))
}

/// The root mean square of the difference over that of `want`.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-30)
}

fn same_pass(dtype: DType, tolerance: f64) {
    let registry = registry();
    let whole = pass(&registry[0], dtype).remove(0);
    for (spec, gradient) in &whole.gradients {
        let silent = gradient.iter().all(|&x| x == 0.0);
        assert!(
            !silent,
            "{} has no gradient, so nothing is compared",
            spec.path
        );
    }
    for cut in &registry[1..] {
        let ranks = pass(cut, dtype);
        let shares = cut.mesh.replicate;
        let share = whole.output.len() / shares;
        for (rank, got) in ranks.iter().enumerate() {
            let index = rank / (ranks.len() / shares);
            let error = distance(
                &got.output,
                &whole.output[index * share..(index + 1) * share],
            );
            assert!(
                error < tolerance,
                "{}, rank {rank}: output {error:.1e}",
                cut.name
            );
            for ((spec, got), (_, want)) in got.gradients.iter().zip(&whole.gradients) {
                let mut box_of_whole = vec![];
                spec.layout
                    .runs(|start, len| box_of_whole.extend(&want[start..start + len]));
                let error = distance(got, &box_of_whole);
                assert!(
                    error < tolerance,
                    "{}, rank {rank}: gradient of {} {error:.1e}",
                    cut.name,
                    spec.path
                );
            }
        }
    }
}

#[test]
fn output_and_gradients_are_those_of_one_rank_in_f64() {
    same_pass(DType::F64, 1e-9);
}

#[test]
fn output_and_gradients_are_those_of_one_rank_in_f32() {
    same_pass(DType::F32, 1e-4);
}
