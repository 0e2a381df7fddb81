//! Gradients beside the reference's.

use crate::golden::{Inputs, Layout, config, model, tensor};
use crate::job::{Job, Ran, Row, rows, run, whole};
use burn::tensor::DType;
use kinora_golden::{File, rms, set};
use kinora_models::wan::WanConfig;
use kinora_shard::Recompute;
use std::sync::Arc;

/// The loss of flow matching at one time for each sample.
fn job(dtype: DType, layout: Layout) -> Option<Job> {
    let set = set("wan_t2v")?;
    let file = set.file("grad.safetensors")?;
    // Said here, once, if they are not there.
    set.weights(layout.file())?;
    Some(Job {
        build: Arc::new(move |cx| model(cx, &set, layout).expect("weights of the set")),
        inputs: Arc::new(move |device, dtype| {
            let target = tensor(&file, "noise", device, dtype) - tensor(&file, "x0", device, dtype);
            (Inputs::of(&file, "x_t", device, dtype), Some(target))
        }),
        dtype,
        recompute: Recompute::None,
    })
}

/// The gradient of the parameter at `path` as the reference has it, in our order of elements.
fn wanted(file: &File, config: &WanConfig, path: &str, shape: &[usize]) -> Vec<f64> {
    let there = Layout::Diffusers.key(config, path, shape);
    let values = file.f64(&format!("grad.{}", there.name));
    if !there.transposed {
        return values;
    }
    let (from, to) = (shape[0], shape[1]);
    (0..from * to)
        .map(|i| values[i % to * from + i / to])
        .collect()
}

fn compare(row: &Row, ran: &Ran, velocity: f64, gradient: f64) {
    let (Some(set), name) = (set("wan_t2v"), row.name) else {
        return;
    };
    let (Some(case), Some(file)) = (
        set.file("grad.safetensors"),
        set.file("grad.params_f64.safetensors"),
    ) else {
        return;
    };
    let config = config(&set);
    let far = rms(&ran.velocity, &case.f64("pred_f64"));
    let loss = case.f64("loss_f64")[0];
    assert!(far <= velocity, "{name}: velocity {far:e}");
    let off = (ran.loss / loss - 1.0).abs();
    assert!(off <= velocity, "{name}: loss {} for {loss}", ran.loss);
    let inputs = [
        ("grad_in.x_t", &ran.of_latent),
        ("grad_in.encoder_hidden_states", &ran.of_text),
    ];
    let mut all: Vec<(f64, String)> = inputs
        .into_iter()
        .map(|(input, got)| (rms(got, &file.f64(input)), input.to_owned()))
        .collect();
    for (path, (shape, got)) in &ran.params {
        let far = rms(got, &wanted(&file, &config, path, shape));
        all.push((far, path.clone()));
    }
    let names = file.names().len();
    assert_eq!(all.len(), names, "a gradient for each of the reference");
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (worst, path) = &all[0];
    println!("{name}: velocity {far:.1e}, loss {off:.1e}, worst gradient {worst:.1e}, {path}");
    assert!(*worst <= gradient, "{name}: {:?}", &all[..5]);
}

#[test]
fn gradients_are_those_of_the_reference_in_f32() {
    for layout in [Layout::Diffusers, Layout::Original] {
        let Some(job) = job(DType::F32, layout) else {
            return;
        };
        compare(&whole(), &run(&whole(), &job), 1e-6, 5e-6);
    }
}

/// The reference's gradients were computed in f64 and rounded to f32.
#[test]
fn gradients_are_those_of_the_reference_in_f64() {
    let Some(job) = job(DType::F64, Layout::Diffusers) else {
        return;
    };
    compare(&whole(), &run(&whole(), &job), 1e-9, 2e-7);
}

#[test]
fn gradients_of_all_plans_are_those_of_the_reference_in_f32() {
    let Some(job) = job(DType::F32, Layout::Diffusers) else {
        return;
    };
    for row in rows() {
        compare(&row, &run(&row, &job), 1e-6, 5e-6);
    }
}

#[test]
fn gradients_of_recomputed_blocks_are_those_of_the_reference() {
    let Some(job) = job(DType::F32, Layout::Diffusers) else {
        return;
    };
    for row in [whole()].into_iter().chain(rows()) {
        let job = Job {
            recompute: Recompute::All,
            ..job.clone()
        };
        compare(&row, &run(&row, &job), 1e-6, 5e-6);
    }
}
