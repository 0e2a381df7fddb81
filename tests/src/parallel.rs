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

/// Losses of 20 steps, the same on every rank.
fn losses(cut: &Cut, dtype: DType, config: &TrainConfig) -> Vec<f64> {
    let all = on_ranks(cut, dtype, config.clone(), |mut trainer, sharding| {
        (0..20)
            .map(|step| Ok(trainer.train(&batch(step, &sharding))?.loss))
            .collect()
    })
    .unwrap_or_else(|error| panic!("{}: {error}", cut.name));
    let all: Vec<Vec<f64>> = all;
    for rank in &all {
        assert_eq!(rank, &all[0], "{}: ranks differ among themselves", cut.name);
    }
    all[0].clone()
}

fn same_losses(dtype: DType, tolerance: f64) {
    let config = train_config();
    let registry = registry();
    let want = losses(&registry[0], dtype, &config);
    assert!(want[18] < 0.9 * want[0], "nothing is learned: {want:?}");
    for cut in &registry[1..] {
        let got = losses(cut, dtype, &config);
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            let error = (got - want).abs() / want.abs();
            assert!(
                error < tolerance,
                "{}: loss {got} at step {} instead of {want} ({error:.1e} relative)",
                cut.name,
                step + 1
            );
        }
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
    let whole = cut("one rank", 1, 1, false);
    let want = losses(&whole, DType::F64, &train_config());
    for cut in [whole, cut("replicate 2", 2, 1, false)] {
        let got = losses(
            &cut,
            DType::F64,
            &TrainConfig {
                accumulate: 2,
                ..train_config()
            },
        );
        for (got, want) in got.iter().zip(&want) {
            assert!(
                (got - want).abs() < 1e-9 * want,
                "{}: {got} instead of {want}",
                cut.name
            );
        }
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
