//! Five steps of AdamW with clipping and an average of weights, beside those of PyTorch.

use super::{cut, model, on_ranks, tensor, wan, without_padding};
use crate::fixture::Cut;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Checkpoint, Dtype, TensorSource, latest};
use kinora_golden::{File, Set, rms, set};
use kinora_mesh::{ContextAttention, part};
use kinora_models::Condition;
use kinora_models::wan::{WanConfig, keys};
use kinora_shard::Sharding;
use kinora_train::{Decay, Decays, OptimConfig, Point, Report, TrainConfig, Trainer};
use serde_json::{Value, json};
use std::path::Path;

const WEIGHTS: &str = "weights.diffusers.safetensors";
/// The reference is in 32 bits, and the set does not say how far that is from 64.
const NEAR: f64 = 2e-5;

/// The settings of the set.
fn config(set: &Set) -> TrainConfig {
    let hyper = &set.config()["hyper"];
    let number = |value: &Value| value.as_f64().expect("a number");
    let steps = hyper["steps"].as_u64().expect("a number of steps");
    TrainConfig {
        steps,
        accumulate: 1,
        caption_dropout: 0.0,
        checkpoint_every: steps,
        keep: 1,
        preview_every: 0,
        recompute: Default::default(),
        path: Default::default(),
        times: Default::default(),
        optim: OptimConfig {
            lr: number(&hyper["lr"]),
            betas: [0, 1].map(|i| number(&hyper["betas"][i])),
            epsilon: number(&hyper["eps"]),
            weight_decay: number(&hyper["weight_decay"]),
            decays: Decays::All,
            clip: number(&hyper["clip"]),
            warmup: 0,
            decay: Decay { from: 1.0, to: 1.0 },
            ema: number(&hyper["ema_decay"]),
            ema_warmup: false,
        },
    }
}

fn sizes(set: &Set) -> WanConfig {
    // Texts go in as they are, so none is filled up.
    wan(&set.config()["config"], 1)
}

/// A rank's samples of a step, and the number of all. The reference's velocity leads from data to
/// noise, and its timestep is a thousandfold share of noise.
fn point(file: &File, step: u64, sharding: &Sharding) -> (Point, usize) {
    let name = |what: &str| format!("step{step}.{what}");
    let timesteps = file.f64(&name("timestep"));
    let (index, shares) = sharding.share();
    let mine = part(timesteps.len(), shares, index);
    let (start, len) = (mine.start, mine.len());
    let latent =
        |what: &str| -> Tensor<5> { tensor(file, &name(what), DType::F32).narrow(0, start, len) };
    let times: Vec<f64> = timesteps[mine].iter().map(|t| 1.0 - t / 1000.0).collect();
    let times = TensorData::new(times, [len]);
    let text = tensor(file, &name("encoder_hidden_states"), DType::F32);
    let point = Point {
        at: latent("x_t"),
        time: Tensor::from_data(times, (&Device::flex(), DType::F64)),
        target: latent("target").neg(),
        given: Condition {
            texts: vec![without_padding(text.narrow(0, start, len))],
            ..Condition::default()
        },
    };
    (point, timesteps.len())
}

/// A parameter's path and whole shape.
type Params = Vec<(String, Vec<usize>)>;

/// Trains on the ranks of a cut and leaves a checkpoint in `folder`; what each rank reports.
fn trained(set: &Set, cut: &Cut, folder: &Path) -> Vec<(Vec<Report>, Params)> {
    let (set, folder) = (set.clone(), folder.to_owned());
    on_ranks(cut, move |transport, cut| {
        let sharding = Sharding::new(transport, cut.mesh, cut.plan.clone())?;
        let (config, sizes) = (config(&set), sizes(&set));
        let place = (&Device::flex(), DType::F32);
        let mut trainer = Trainer::try_new(&config, 0, place, &sharding, |cx| {
            model(cx, &set, WEIGHTS, &sizes)
        })?;
        let file = set.file("batches.safetensors").expect("batches of the set");
        let mut reports = vec![];
        for step in 0..config.steps {
            let (point, global) = point(&file, step, &sharding);
            let found = trainer.gradients_at(point, global);
            reports.push(trainer.step_along(found, 0)?);
        }
        trainer.save(&folder, &json!({}), 1)?;
        let specs = trainer.table().specs().iter();
        let params = specs.map(|spec| (spec.path.clone(), spec.layout.shape.clone()));
        Ok((reports, params.collect()))
    })
}

/// A tensor of a file of the reference, in our order of elements.
fn wanted(
    file: &File,
    prefix: &str,
    config: &WanConfig,
    (path, shape): (&str, &[usize]),
) -> Vec<f64> {
    let there = keys::diffusers(config, path, shape);
    let values = file.f64(&format!("{prefix}{}", there.name));
    if !there.transposed {
        return values;
    }
    let (from, to) = (shape[0], shape[1]);
    (0..from * to)
        .map(|i| values[i % to * from + i / to])
        .collect()
}

fn stored(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    assert_eq!(checkpoint.dtype(name).unwrap(), Dtype::F32);
    let bytes = checkpoint.read_whole(name).unwrap();
    let floats = bytes.as_chunks::<4>().0.iter();
    floats.map(|&b| f32::from_le_bytes(b).into()).collect()
}

fn is_the_references(cut: &Cut) {
    let Some(set) = set("wan_train") else { return };
    // Said here, once, if they are not there.
    let files = ["params_after", "ema_after", "adam_after", "batches"];
    let files = files.map(|name| set.file(&format!("{name}.safetensors")));
    let ([Some(params), Some(ema), Some(adam), Some(batches)], Some(start)) =
        (files, set.file(WEIGHTS))
    else {
        return;
    };
    let (name, folder) = (cut.name, tempfile::tempdir().unwrap());
    let ranks = trained(&set, cut, folder.path());
    let (reports, paths) = &ranks[0];
    let mut worst: Vec<(f64, String)> = vec![];
    for (rank, (other, _)) in ranks.iter().enumerate() {
        assert_eq!(other, reports, "{name}: what rank {rank} reports");
    }
    let clip = config(&set).optim.clip;
    let all_clipped = reports.iter().all(|report| report.norm > clip);
    assert!(all_clipped, "clipping has no part in it");
    let losses: Vec<f64> = reports.iter().map(|report| report.loss).collect();
    let norms: Vec<f64> = reports.iter().map(|report| report.norm).collect();
    for (what, got) in [("losses", losses), ("grad_norms", norms)] {
        for (i, (got, want)) in got.iter().zip(batches.f64(what)).enumerate() {
            worst.push(((got / want - 1.0).abs(), format!("{what}, step {i}")));
        }
    }

    let checkpoint = Checkpoint::open(&latest(folder.path()).unwrap().unwrap()).unwrap();
    let sizes = sizes(&set);
    let names = start.names().len();
    assert_eq!(paths.len(), names, "a parameter for each of the reference");
    for (path, shape) in paths {
        let within = path.strip_prefix("video.").expect("the transformer's");
        let want = |file, prefix| wanted(file, prefix, &sizes, (within, shape));
        for (ours, want) in [
            ("model", want(&params, "")),
            ("average", want(&ema, "")),
            ("adamw.first", want(&adam, "exp_avg.")),
            ("adamw.second", want(&adam, "exp_avg_sq.")),
        ] {
            let key = format!("{ours}/{path}");
            worst.push((rms(&stored(&checkpoint, &key), &want), key));
        }
        // Weights hardly move in five steps, so being near them says little of where they went.
        let before = want(&start, "");
        let moved = |after: Vec<f64>| -> Vec<f64> {
            after.iter().zip(&before).map(|(a, b)| a - b).collect()
        };
        let got = moved(stored(&checkpoint, &format!("model/{path}")));
        let far = rms(&got, &moved(want(&params, "")));
        assert!(far <= 1e-2, "{name}: {path} moved elsewhere, {far:e}");
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{name}: {:?}", &worst[..5]);
    assert!(worst[0].0 <= NEAR, "{name}: {:?}", &worst[..5]);
}

#[test]
fn five_steps_are_those_of_the_reference() {
    is_the_references(&cut("one rank", [1, 1, 1, 1], None));
}

#[test]
fn five_steps_of_all_plans_are_those_of_the_reference() {
    let hybrid = ContextAttention::hybrid(2, 2);
    for cut in [
        cut("tp 2", [1, 1, 1, 2], None),
        cut("ring 2", [1, 2, 1, 1], Some(ContextAttention::RING)),
        cut("ulysses 2 x ring 2", [1, 4, 1, 1], Some(hybrid)),
        cut("fsdp 2 x tp 2", [2, 1, 1, 2], None),
    ] {
        is_the_references(&cut);
    }
}
