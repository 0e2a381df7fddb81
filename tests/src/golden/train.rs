//! Five steps of AdamW with clipping and an average of weights, beside those of PyTorch.

use super::{cut, model, on_ranks, tensor, wan, without_padding};
use crate::fixture::Cut;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Checkpoint, Dtype, TensorSource, latest};
use kinora_golden::{File, Set, rms};
use kinora_mesh::{ContextAttention, part};
use kinora_models::Condition;
use kinora_models::wan::{WanConfig, keys};
use kinora_shard::Sharding;
use kinora_train::{Decay, Decays, OptimConfig, Point, Report, TrainConfig, Trainer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const WEIGHTS: &str = "weights.diffusers.safetensors";
/// How far from a set in 32 bits, which does not say how far that is from 64, all weights or moments
/// together may be. One by one they would be judged by the set's own rounding: its sinusoids of times
/// alone move the moments of queries and keys by 5e-5.
const NEAR_F32: f64 = 2e-5;
/// How far from a set in 64 bits each tensor may be, in 32 bits and in 64.
const NEAR_F64: f64 = 5e-6;
const SAME: f64 = 1e-9;

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
fn point(file: &File, step: u64, dtype: DType, sharding: &Sharding) -> (Point, usize) {
    let name = |what: &str| format!("step{step}.{what}");
    let timesteps = file.f64(&name("timestep"));
    let (index, shares) = sharding.share();
    let mine = part(timesteps.len(), shares, index);
    let (start, len) = (mine.start, mine.len());
    let latent =
        |what: &str| -> Tensor<5> { tensor(file, &name(what), dtype).narrow(0, start, len) };
    let times: Vec<f64> = timesteps[mine].iter().map(|t| 1.0 - t / 1000.0).collect();
    let times = TensorData::new(times, [len]);
    let text = tensor(file, &name("encoder_hidden_states"), dtype);
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
fn trained(set: &Set, cut: &Cut, dtype: DType, folder: &Path) -> Vec<(Vec<Report>, Params)> {
    let (set, folder) = (set.clone(), folder.to_owned());
    on_ranks(cut, move |transport, cut| {
        let sharding = Sharding::new(transport, cut.mesh, cut.plan.clone())?;
        let (config, sizes) = (config(&set), sizes(&set));
        let place = (&Device::flex(), dtype);
        let mut trainer = Trainer::try_new(&config, 0, place, &sharding, |cx| {
            model(cx, &set, WEIGHTS, &sizes)
        })?;
        let file = set.file("batches.safetensors").expect("batches of the set");
        let mut reports = vec![];
        for step in 0..config.steps {
            let (point, global) = point(&file, step, dtype, &sharding);
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
    let bytes = checkpoint.read_whole(name).unwrap();
    match checkpoint.dtype(name).unwrap() {
        Dtype::F64 => {
            let floats = bytes.as_chunks::<8>().0.iter();
            floats.map(|&b| f64::from_le_bytes(b)).collect()
        }
        Dtype::F32 => {
            let floats = bytes.as_chunks::<4>().0.iter();
            floats.map(|&b| f32::from_le_bytes(b).into()).collect()
        }
        other => panic!("{name} holds {other}"),
    }
}

/// What was reached and what should have been, of a number or a tensor.
struct Pair {
    kind: String,
    name: String,
    got: Vec<f64>,
    want: Vec<f64>,
}

fn is_the_references(set: &str, cut: &Cut, dtype: DType) {
    let Some(set) = kinora_golden::set(set) else {
        return;
    };
    let what = format!("{}, {dtype:?}", cut.name);
    let Some(pairs) = pairs(&set, cut, dtype) else {
        return;
    };
    let far = |pair: &Pair| (rms(&pair.got, &pair.want), pair.name.clone());
    let mut each: Vec<(f64, String)> = pairs.iter().map(far).collect();
    let mut together: BTreeMap<&str, [Vec<f64>; 2]> = BTreeMap::new();
    for pair in &pairs {
        let [got, want] = together.entry(&pair.kind).or_default();
        got.extend(&pair.got);
        want.extend(&pair.want);
    }
    let mut kinds: Vec<(f64, String)> = together
        .iter()
        .map(|(kind, [got, want])| (rms(got, want), kind.to_string()))
        .collect();
    each.sort_by(|a, b| b.0.total_cmp(&a.0));
    kinds.sort_by(|a, b| b.0.total_cmp(&a.0));
    let in_f64 = set.config()["computed"] == "float64";
    println!("{what}, set in f64: {in_f64}: {kinds:?}, {:?}", &each[..3]);
    if in_f64 {
        let near = if dtype == DType::F64 { SAME } else { NEAR_F64 };
        assert!(each[0].0 <= near, "{what}: {:?}", &each[..5]);
    } else {
        assert!(kinds[0].0 <= NEAR_F32, "{what}: {kinds:?}");
    }
}

/// Everything that five steps lead to; `None`, said on stderr, if a part of the set is not there.
fn pairs(set: &Set, cut: &Cut, dtype: DType) -> Option<Vec<Pair>> {
    let start = set.file(WEIGHTS)?;
    let params = set.file("params_after.safetensors")?;
    let ema = set.file("ema_after.safetensors")?;
    let adam = set.file("adam_after.safetensors")?;
    let batches = set.file("batches.safetensors")?;
    let (name, folder) = (cut.name, tempfile::tempdir().unwrap());
    let ranks = trained(set, cut, dtype, folder.path());
    let (reports, paths) = &ranks[0];
    for (rank, (other, _)) in ranks.iter().enumerate() {
        assert_eq!(other, reports, "{name}: what rank {rank} reports");
    }
    let clip = config(set).optim.clip;
    let all_clipped = reports.iter().all(|report| report.norm > clip);
    assert!(all_clipped, "clipping has no part in it: {reports:?}");
    let mut pairs = vec![];
    for (kind, of) in [
        ("losses", (|report| report.loss) as fn(&Report) -> f64),
        ("grad_norms", |report| report.norm),
    ] {
        for (step, (report, want)) in reports.iter().zip(batches.f64(kind)).enumerate() {
            pairs.push(Pair {
                kind: kind.into(),
                name: format!("{kind}, step {step}"),
                got: vec![of(report)],
                want: vec![want],
            });
        }
    }
    let checkpoint = Checkpoint::open(&latest(folder.path()).unwrap().unwrap()).unwrap();
    let sizes = sizes(set);
    let names = start.names().len();
    assert_eq!(paths.len(), names, "a parameter for each of the reference");
    for (path, shape) in paths {
        let within = path.strip_prefix("video.").expect("the transformer's");
        let want = |file, prefix| wanted(file, prefix, &sizes, (within, shape));
        for (kind, file, prefix) in [
            ("model", &params, ""),
            ("average", &ema, ""),
            ("adamw.first", &adam, "exp_avg."),
            ("adamw.second", &adam, "exp_avg_sq."),
        ] {
            let name = format!("{kind}/{path}");
            pairs.push(Pair {
                kind: kind.into(),
                got: stored(&checkpoint, &name),
                want: want(file, prefix),
                name,
            });
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
    Some(pairs)
}

const SETS: [&str; 2] = ["wan_train", "wan_train_f64"];

#[test]
fn five_steps_are_those_of_the_reference() {
    let whole = cut("one rank", [1, 1, 1, 1], None);
    for set in SETS {
        is_the_references(set, &whole, DType::F32);
        is_the_references(set, &whole, DType::F64);
    }
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
        for set in SETS {
            is_the_references(set, &cut, DType::F32);
            is_the_references(set, &cut, DType::F64);
        }
    }
}
