//! Fine-tuning with the program: adapters beside the weights of a run, what they export to, and what
//! is refused.

use crate::clips::losses;
use crate::program::Place;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Checkpoint, CkptError, Prefixed, Renamed, TensorSource, Weights, latest};
use kinora_golden::rms;
use kinora_mesh::rng::Stream;
use kinora_models::wan::{Wan, WanConfig, keys};
use kinora_shard::{Adapters, Cx, Sharding, Source, load};
use kinora_train::{Weights as Trained, checkpoints, restore_weights};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const RANK: usize = 4;
// Unlike the rank, so that a forgotten scale shows.
const ALPHA: f64 = 10.0;
const TARGETS: [&str; 3] = ["attn", "cross.query", "mlp"];

/// The smoke run with a small Wan, and its fine-tuning, without previews.
fn write_configs(place: &Place) {
    let smoke = fs::read_to_string(place.at("smoke.toml")).unwrap();
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "smoke.toml has {from:?}");
        text.replace(from, to)
    };
    let (before, rest) = smoke.split_once("[preview]\n").expect("previews");
    let (_, sample) = rest.split_once("[sample]\n").expect("a sampler");
    let base = format!("{before}[sample]\n{sample}");
    let base = replaced(&base, "preview_every = 3\n", "preview_every = 0\n");
    let base = replaced(&base, "tp = 2\n", "tp = 1\n");
    let base = replaced(&base, "movie-gen-tiny", "wan-tiny");
    let base = replaced(&base, "dim = 32\nffn = 80\n\n[text]", "\n[text]");
    let base = replaced(&base, "runs/smoke", "runs/base");
    fs::write(place.at("base.toml"), &base).unwrap();
    let tuned = replaced(&base, "runs/base", "runs/tuned");
    let tuned = replaced(&tuned, "[model]\n", "[model]\nweights = \"runs/base\"\n");
    let tuned = format!(
        "{tuned}\n[lora]\nrank = {RANK}\nalpha = {ALPHA:?}\ntargets = {TARGETS:?}\nbase = \"f32\"\n"
    );
    fs::write(place.at("tuned.toml"), tuned).unwrap();
}

/// The model of `base.toml`.
fn config() -> WanConfig {
    WanConfig {
        layers: 2,
        text: 32,
        ..WanConfig::tiny()
    }
}

fn cx() -> Cx {
    Cx::new(&Device::flex(), DType::F32, 0, &Sharding::single())
}

fn newest(run: &Path) -> Checkpoint {
    Checkpoint::open(&latest(&checkpoints(run)).unwrap().unwrap()).unwrap()
}

/// The transformer of a run, or with `adapters` the same frozen and with new adapters beside it.
fn of_run(cx: &Cx, run: &Path) -> Wan {
    let open = |_: &[(String, Vec<usize>)]| -> Result<Source, CkptError> {
        Ok(Arc::new(Prefixed::new(newest(run), "average/video.")))
    };
    load(&cx.at("video"), open, |cx| Wan::new(cx, &config())).unwrap()
}

fn of_file(file: &Path, layout: &str) -> Wan {
    let config = config();
    let open = |params: &[(String, Vec<usize>)]| -> Result<Source, CkptError> {
        let keys = |path: &str, shape: &[usize]| match layout {
            "original" => keys::original(&config, path, shape),
            _ => keys::diffusers(&config, path, shape),
        };
        Ok(Arc::new(Renamed::new(Weights::open(file)?, params, keys)?))
    };
    load(&cx(), open, |cx| Wan::new(cx, &config)).unwrap()
}

/// What a model says of some noise.
fn velocity(model: &Wan) -> Vec<f64> {
    let normals = |label: &str, len: usize| Stream::new(5, label).normals(0..len as u64);
    let tensor = |label: &str, shape: &[usize]| {
        TensorData::new(normals(label, shape.iter().product()), shape.to_vec())
    };
    let place = (&Device::flex(), DType::F32);
    let latent: Tensor<5> = Tensor::from_data(tensor("latent", &[2, 16, 4, 4, 6]), place);
    let text: Tensor<3> = Tensor::from_data(tensor("text", &[2, 7, 32]), place);
    let time = Tensor::from_data(TensorData::new(vec![950.0, 125.0], [2, 1]), place);
    let velocity = model.forward(latent, time, text, None);
    velocity.into_data().iter::<f64>().collect()
}

/// All tensors of a file, of 32 bits: shape and elements.
fn floats(file: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let weights = Weights::open(file).unwrap();
    let one = |name: &str| {
        let bytes = weights.read_whole(name).unwrap();
        let floats = bytes.as_chunks::<4>().0.iter();
        let floats = floats.map(|&b| f32::from_le_bytes(b).into()).collect();
        (weights.shape(name).unwrap().to_vec(), floats)
    };
    let names = weights.names();
    names
        .into_iter()
        .map(|name| (name.to_owned(), one(name)))
        .collect()
}

#[test]
fn a_run_is_fine_tuned_and_exported() {
    let place = Place::new();
    write_configs(&place);
    place.succeed(&["train", "base.toml", "-q"]);
    let base = place.at("runs/base");
    let before = velocity(&of_run(&cx(), &base));
    place.succeed(&["train", "tuned.toml", "-q"]);
    let tuned = place.at("runs/tuned");
    only_adapters_are_trained(&tuned);
    let untouched = velocity(&of_run(&cx(), &base));
    assert_eq!(untouched, before, "the run that was tuned has changed");

    let adapters = Adapters {
        rank: RANK,
        alpha: ALPHA,
        targets: TARGETS.map(String::from).to_vec(),
        within: "video",
        frozen: DType::F32,
    };
    let cx = cx().adapting(adapters);
    let fresh = of_run(&cx, &base);
    // A new adapter adds nothing, so this is the model with its adapters left out.
    assert_eq!(velocity(&fresh), before, "frozen weights are others");
    let (table, place_of) = (cx.table().clone(), (&Device::flex(), DType::F32));
    let adapted = restore_weights(fresh, &table, &newest(&tuned), Trained::Average, place_of);
    let after = velocity(&adapted.unwrap());
    let moved = rms(&after, &before);
    assert!(moved > 1e-3, "adapters have hardly an effect: {moved:e}");

    let convert = |from: &str, out: &str, more: &[&str]| {
        let args = ["convert", from, "-q", "--dtype", "f32", "-o", out];
        let said = place.succeed(&[&args[..], more].concat());
        assert!(said.contains(&format!("wrote {out}")), "{said}");
        place.at(out)
    };
    for names in ["diffusers", "original"] {
        let out = format!("merged-{names}.safetensors");
        let merged = convert("runs/tuned", &out, &["--merge", "--names", names]);
        let far = rms(&velocity(&of_file(&merged, names)), &after);
        println!("{names}, merged: {far:.1e}; adapters moved velocities by {moved:.1e}");
        assert!(far <= 1e-6, "{names}: {far:e}");
        let out = format!("base-{names}.safetensors");
        let whole = convert("runs/base", &out, &["--names", names]);
        let got = velocity(&of_file(&whole, names));
        assert_eq!(got, before, "{names}: exported weights are others");
    }
    exported_adapters_add_up(&place, &convert);
    from_released_weights(&place);
    // A whole model again, which can be tuned in turn.
    let args = ["--set", "model.weights=merged-original.safetensors"];
    let args = [&args[..], &["--set", "run.out=runs/again"]].concat();
    place.succeed(&[&["train", "tuned.toml", "-q"], &args[..]].concat());
    let prompt = ["-p", "a red circle", "-o", "tuned.mp4"];
    place.succeed(&[&["generate", "runs/tuned", "-q"], &prompt[..]].concat());
    what_cannot_be_tuned_is_refused(&place);
}

/// Whatever a checkpoint holds is a factor of an adapter.
fn only_adapters_are_trained(run: &Path) {
    let checkpoint = newest(run);
    let names = checkpoint.names();
    let of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    // Two factors beside each layer, with their averages and two moments.
    let layers = 2 * (4 + 1 + 2);
    assert_eq!(of("/video."), names.len(), "{names:?}");
    assert_eq!(of(".lora_up"), 4 * layers, "{names:?}");
    assert_eq!(of(".lora_down"), 4 * layers, "{names:?}");
    assert_eq!(names.len(), 8 * layers, "{names:?}");
}

/// Files of adapters, under both kinds of names: a layer's weight and the product of its factors are
/// the merged weight.
fn exported_adapters_add_up(
    place: &Place,
    convert: &dyn Fn(&str, &str, &[&str]) -> std::path::PathBuf,
) {
    let endings = [
        ("diffusers", "transformer.", ["lora_A", "lora_B"]),
        ("original", "diffusion_model.", ["lora_down", "lora_up"]),
    ];
    for (names, prefix, [down, up]) in endings {
        let out = format!("lora-{names}.safetensors");
        let lora = floats(&convert("runs/tuned", &out, &["--names", names]));
        let base = floats(&place.at(&format!("base-{names}.safetensors")));
        let merged = floats(&place.at(&format!("merged-{names}.safetensors")));
        let mut left = lora.len();
        for (name, (shape, weight)) in &base {
            let Some(layer) = name.strip_suffix(".weight") else {
                assert_eq!(merged[name].1, *weight, "{name}");
                continue;
            };
            let factor = |kind| lora.get(&format!("{prefix}{layer}.{kind}.weight"));
            let (Some((a, down)), Some((b, up))) = (factor(down), factor(up)) else {
                assert_eq!(merged[name].1, *weight, "{name}");
                continue;
            };
            left -= 2;
            let (to, from) = (shape[0], shape[1]);
            assert_eq!(
                (&a[..], &b[..]),
                (&[RANK, from][..], &[to, RANK][..]),
                "{name}"
            );
            let sum = |i: usize| -> f64 {
                let ranks = (0..RANK).map(|r| up[i / from * RANK + r] * down[r * from + i % from]);
                weight[i] + ranks.sum::<f64>()
            };
            let sum: Vec<f64> = (0..from * to).map(sum).collect();
            let far = rms(&merged[name].1, &sum);
            assert!(far <= 1e-6, "{name}: {far:e}");
        }
        assert_eq!(left, 0, "{names}: adapters of layers that are not there");
    }
}

/// The file of a model does as well as the run that it came from.
fn from_released_weights(place: &Place) {
    let first = losses(&place.at("runs/tuned"));
    for names in ["original", "diffusers"] {
        let weights = format!("model.weights=base-{names}.safetensors");
        let out = format!("run.out=runs/{names}");
        // Of a run, the text encoder is read too; of a file, it is drawn, and trained.
        let args = [
            "train",
            "tuned.toml",
            "-q",
            "--set",
            &weights,
            "--set",
            &out,
        ];
        place.succeed(&args);
        let found = losses(&place.at(&format!("runs/{names}")));
        assert_eq!(found.len(), first.len());
        assert!(found.iter().all(|(_, loss)| loss.is_finite()), "{found:?}");
        let checkpoint = newest(&place.at(&format!("runs/{names}")));
        let text = checkpoint
            .names()
            .into_iter()
            .filter(|name| name.contains("/text."));
        assert!(
            text.count() > 0,
            "{names}: a text encoder stays as it was drawn"
        );
    }
}

#[test]
fn adapters_on_two_ranks_are_those_of_one() {
    let place = Place::new();
    write_configs(&place);
    let wide = ["--set", "run.dtype=f64"];
    place.succeed(&[&["train", "base.toml", "-q"], &wide[..]].concat());
    let train = |out: &str, more: &[&str]| {
        let out_is = format!("run.out=runs/{out}");
        let args = ["train", "tuned.toml", "-q", "--set", &out_is];
        let wide = [&wide[..], &["--set", "lora.base=f64"], more].concat();
        place.succeed(&[&args[..], &wide[..]].concat());
        losses(&place.at(&format!("runs/{out}")))
    };
    let one = train("one", &[]);
    let two = train("two", &["--set", "mesh.tp=2"]);
    assert_eq!(one.len(), 6);
    for ((step, one), (_, two)) in one.iter().zip(&two) {
        let far = (two / one - 1.0).abs();
        println!("step {step}: {one}, {far:.1e} from it on two ranks");
        assert!(far < 1e-12, "step {step}: {one} and {two}");
    }
}

fn what_cannot_be_tuned_is_refused(place: &Place) {
    let refuse = |changes: &[&str], words: &[&str]| {
        let mut args = vec!["train", "tuned.toml", "-q", "--set", "run.out=runs/bad"];
        for change in changes {
            args.extend(["--set", change]);
        }
        place.refuse(&args, &[words, &["help: "]].concat());
    };
    // Weights of another model.
    let file = "model.weights=base-original.safetensors";
    refuse(
        &[file, "model.layers=3"],
        &["base-original.safetensors", "missing: blocks.2."],
    );
    refuse(
        &[file, "model.ffn=128"],
        &["has shape [256, 96]", "[128, 96]", "not the sizes"],
    );
    refuse(
        &["model.layers=3"],
        &["runs/base is a run with another [model]"],
    );
    refuse(
        &["model.weights=runs/tuned"],
        &["trained adapters", "--merge"],
    );
    // What is no model's weights.
    for names in ["original", "diffusers"] {
        let lora = format!("model.weights=lora-{names}.safetensors");
        refuse(&[&lora], &["these are LoRA weights"]);
    }
    refuse(
        &["model.weights=nowhere.safetensors"],
        &["nowhere.safetensors"],
    );
    let whole = fs::read(place.at("base-original.safetensors")).unwrap();
    for (name, len) in [("half", whole.len() / 2), ("header", 1000), ("nothing", 0)] {
        let file = format!("{name}.safetensors");
        fs::write(place.at(&file), &whole[..len]).unwrap();
        refuse(&[&format!("model.weights={file}")], &[&file]);
    }
    // All of that was refused before anything was made.
    assert!(!place.at("runs/bad").exists());
    // Adapters of nothing, and beside nothing.
    refuse(&["lora.targets=[\"attention\"]"], &["names \"attention\""]);
    refuse(&["lora.targets=[]"], &["nothing would be trained"]);
    refuse(&["lora.rank=0"], &["lora.rank = 0"]);
    let tuned = fs::read_to_string(place.at("tuned.toml")).unwrap();
    let (line, free) = ("weights = \"runs/base\"\n", place.at("free.toml"));
    assert!(tuned.contains(line));
    fs::write(free, tuned.replace(line, "")).unwrap();
    let words = [
        "[lora] trains adapters beside frozen weights",
        "set model.weights",
    ];
    place.refuse(
        &["train", "free.toml", "-q", "--set", "run.out=runs/bad"],
        &words,
    );
    place.refuse(
        &[
            "convert",
            "runs/base",
            "-q",
            "--merge",
            "-o",
            "x.safetensors",
        ],
        &["trained no adapters", "help: "],
    );
}
