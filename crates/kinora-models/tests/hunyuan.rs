//! The HunyuanVideo transformer beside that of diffusers and of its own code, and cut over ranks.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use kinora_ckpt::Renamed;
use kinora_comm::local::{self, World};
use kinora_golden::{File, Set, rms, set};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan, part};
use kinora_models::hunyuan::{HunyuanConfig, HunyuanVideo, Prompt, keys};
use kinora_shard::{Cx, Gradients, ParamSpec, Recompute, ShardError, Sharding, load};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const LAYOUTS: [&str; 2] = [
    "weights.diffusers.safetensors",
    "weights.original.safetensors",
];

fn config(set: &Set) -> HunyuanConfig {
    let all = set.config();
    let config = &all["config"];
    let size = |key: &str| config[key].as_u64().expect(key) as usize;
    let dim = size("num_attention_heads") * size("attention_head_dim");
    let axes = config["rope_axes_dim"].as_array().expect("axes");
    let ratio = config["mlp_ratio"].as_f64().expect("a ratio");
    HunyuanConfig {
        double: size("num_layers"),
        single: size("num_single_layers"),
        refiner: size("num_refiner_layers"),
        dim,
        ffn: (dim as f64 * ratio) as usize,
        heads: size("num_attention_heads"),
        channels: size("in_channels"),
        out_channels: size("out_channels"),
        patch: [size("patch_size_t"), size("patch_size"), size("patch_size")],
        text: size("text_embed_dim"),
        pooled: size("pooled_projection_dim"),
        guidance: config["guidance_embeds"].as_bool().expect("guidance"),
        rotary: [0, 1, 2].map(|i| axes[i].as_u64().expect("a part") as usize),
        theta: config["rope_theta"].as_f64().expect("theta"),
    }
}

fn model(cx: &Cx, set: &Set, layout: &str) -> Option<HunyuanVideo> {
    let config = config(set);
    let weights = set.weights(layout)?;
    let open = |params: &[(String, Vec<usize>)]| {
        let keys = |path: &str, shape: &[usize]| {
            if layout == LAYOUTS[0] {
                keys::diffusers(&config, path, shape)
            } else {
                keys::original(&config, path, shape)
            }
        };
        Renamed::new(weights, params, keys).map(|renamed| Arc::new(renamed) as _)
    };
    let model = load(cx, open, |cx| HunyuanVideo::new(cx, &config));
    Some(model.unwrap_or_else(|error| panic!("{error}")))
}

fn cases(set: &Set) -> Vec<(String, File)> {
    let all = set.config();
    let cases = all["cases"].as_object().expect("cases");
    let mut files = vec![];
    for (name, case) in cases {
        if case["tensors"]["output_f64"].is_null() {
            continue;
        }
        if let Some(file) = set.file(&format!("{name}.safetensors")) {
            files.push((name.clone(), file));
        }
    }
    files
}

/// The samples of a case, over and over, so that there is one at every place of `samples`.
fn velocity(
    model: &HunyuanVideo,
    file: &File,
    samples: Range<usize>,
    (device, dtype): (&Device, DType),
) -> Tensor<5> {
    fn of<const D: usize>(
        file: &File,
        name: &str,
        samples: &Range<usize>,
        options: (&Device, DType),
    ) -> Tensor<D> {
        let mut shape = file.shape(name);
        let batch = shape[0];
        // One for each sample is a row for each sample.
        shape.resize(D.max(shape.len()), 1);
        if D == 3 && file.shape(name).len() == 2 {
            shape = vec![batch, 1, shape[1]];
        }
        let data = TensorData::new(file.f64(name), shape);
        let all = Tensor::<D>::from_data(data, options);
        let rows = samples.clone().map(|i| all.clone().narrow(0, i % batch, 1));
        Tensor::cat(rows.collect(), 0)
    }
    let options = (device, dtype);
    let mask: Tensor<2> = of(
        file,
        "encoder_attention_mask",
        &samples,
        (device, DType::F64),
    );
    let mask: Tensor<2, Bool> = mask.greater_elem(0.5);
    let prompt = Prompt {
        text: of(file, "encoder_hidden_states", &samples, options),
        mask,
        pooled: of(file, "pooled_projections", &samples, options),
    };
    let guidance = file
        .has("guidance")
        .then(|| of(file, "guidance", &samples, (device, DType::F64)));
    let time = of(file, "timestep", &samples, (device, DType::F64));
    model.forward(
        of(file, "hidden_states", &samples, options),
        time,
        prompt,
        guidance,
    )
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn all_cases(layout: &str, dtype: DType, tolerance: f64) {
    let Some(set) = set("hunyuan_video") else {
        return;
    };
    let device = Device::flex();
    let cx = Cx::new(&device, dtype, 0, &Sharding::single());
    let Some(model) = model(&cx, &set, layout) else {
        return;
    };
    for (name, file) in cases(&set) {
        let batch = file.shape("hidden_states")[0];
        let got = velocity(&model, &file, 0..batch, (&device, dtype));
        let far = rms(&values(got), &file.f64("output_f64"));
        println!("{name} {layout} {dtype:?}: {far:.2e}");
        assert!(far <= tolerance, "{name} {layout}: {far:e}");
    }
}

#[test]
fn velocities_are_those_of_the_reference_in_f32() {
    for layout in LAYOUTS {
        all_cases(layout, DType::F32, 1e-6);
    }
}

/// The angles of the reference's rotary positions are f32 where all else is f64.
#[test]
fn velocities_are_those_of_the_reference_in_f64() {
    all_cases(LAYOUTS[0], DType::F64, 1e-7);
}

fn plan([fsdp, cp, tp]: [usize; 3], over_tp: bool, how: Option<ContextAttention>) -> (Mesh, Plan) {
    let mesh = Mesh {
        fsdp,
        cp,
        tp,
        ..Mesh::default()
    };
    let mut seq = vec![MeshAxis::Cp];
    seq.extend(over_tp.then_some(MeshAxis::Tp));
    let plan = Plan {
        batch: vec![MeshAxis::Fsdp],
        seq,
        heads: vec![MeshAxis::Tp],
        hidden: vec![MeshAxis::Tp],
        params: vec![MeshAxis::Fsdp],
        attention: how,
    };
    (mesh, plan)
}

/// Velocities of the whole batch, and gradients of whole parameters.
type Ran = (Vec<f64>, BTreeMap<String, Vec<f64>>);

fn run((mesh, plan): (Mesh, Plan), case: &str, dtype: DType, recompute: Recompute) -> Ran {
    type Part = (Vec<f64>, Vec<(ParamSpec, Vec<f64>)>);
    let case = case.to_owned();
    let parts = local::run(&World::new(mesh.ranks(), 1), move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone())?;
        let device = Device::flex().autodiff();
        let cx = Cx::new(&device, dtype, 0, &sharding).recomputing(recompute);
        let set = set("hunyuan_video").expect("it was there");
        let model = model(&cx, &set, LAYOUTS[0]).expect("it was there");
        let file = set.file(&format!("{case}.safetensors")).expect("a case");
        let (index, shares) = sharding.share();
        let batch = 2;
        let mine = part(batch, shares, index);
        let out = velocity(&model, &file, mine, (&device, dtype));
        let mut gradients = (out.clone().square().sum() / batch as f64).backward();
        let table = cx.table();
        let flat = Gradients::take(&model, &table, &mut gradients).reduce(&table, &sharding);
        let specs = table.specs().iter().cloned();
        let flat = flat.flat().iter().map(|x| values(x.clone()));
        Ok::<Part, ShardError>((values(out.inner()), specs.zip(flat).collect()))
    });
    let parts = parts.unwrap_or_else(|error| panic!("{error}"));
    let mut params: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut velocity = vec![];
    for (rank, (out, boxes)) in parts.into_iter().enumerate() {
        for (spec, mine) in boxes {
            let empty = vec![f64::NAN; spec.layout.shape.iter().product()];
            let whole = params.entry(spec.path).or_insert(empty);
            let mut rest = &mine[..];
            spec.layout.runs(|start, len| {
                whole[start..start + len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
            });
        }
        if [MeshAxis::Cp, MeshAxis::Tp]
            .iter()
            .all(|&axis| mesh.coordinate(rank, axis) == 0)
        {
            velocity.extend(out);
        }
    }
    (velocity, params)
}

#[test]
fn all_plans_are_one_rank() {
    let Some(set) = set("hunyuan_video") else {
        return;
    };
    if set.weights(LAYOUTS[0]).is_none() {
        return;
    }
    let one = || plan([1, 1, 1], true, None);
    let plans = [
        ("tp 2, tokens over tp", plan([1, 1, 2], true, None)),
        ("tp 2, tokens whole", plan([1, 1, 2], false, None)),
        (
            "cp 2, ring",
            plan([1, 2, 1], true, Some(ContextAttention::RING)),
        ),
        (
            "cp 4, ulysses 2 x ring 2",
            plan([1, 4, 1], true, Some(ContextAttention::hybrid(2, 2))),
        ),
        ("fsdp 2 x tp 2", plan([2, 1, 2], true, None)),
        (
            "cp 2 x tp 2",
            plan([1, 2, 2], true, Some(ContextAttention::Gather)),
        ),
    ];
    for (case, file) in cases(&set) {
        let reference = file.f64("output_f64");
        let sample = reference.len() / file.shape("output_f64")[0];
        let reference: Vec<f64> = reference.iter().cycle().take(2 * sample).copied().collect();
        let want = run(one(), &case, DType::F64, Recompute::None);
        for (path, gradient) in &want.1 {
            assert!(gradient.iter().any(|&x| x != 0.0), "{path} has no gradient");
        }
        for (name, plan) in &plans {
            for (dtype, recompute, velocity, gradient) in [
                (DType::F64, Recompute::None, 1e-12, 1e-10),
                (DType::F64, Recompute::All, 1e-12, 1e-10),
                (DType::F32, Recompute::None, 1e-6, 5e-6),
            ] {
                let got = run(plan.clone(), &case, dtype, recompute);
                let far = rms(&got.0, &want.0);
                let off = rms(&got.0, &reference);
                assert!(off <= 1e-6, "{case}, {name}, {dtype:?}: {off:e}");
                assert!(far <= velocity, "{case}, {name}, {dtype:?}: {far:e}");
                let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
                let largest = want.1.values().map(|x| norm(x)).fold(0.0, f64::max);
                let of = |(path, want): (&String, &Vec<f64>)| {
                    let got = &got.1[path];
                    // The bias of keys that no norm follows moves all scores alike, and has no
                    // gradient: what is there is rounding, and is measured by the others.
                    let far = if norm(want) < 1e-12 * largest {
                        norm(got) / largest
                    } else {
                        rms(got, want)
                    };
                    (far, path.clone())
                };
                let mut all: Vec<(f64, String)> = want.1.iter().map(of).collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                let (worst, path) = &all[0];
                println!(
                    "{case}, {name}, {dtype:?}: velocity {far:.1e}, gradient {worst:.1e}, {path}"
                );
                assert!(
                    *worst <= gradient,
                    "{case}, {name}, {dtype:?}: {:?}",
                    &all[..5]
                );
            }
        }
    }
}
