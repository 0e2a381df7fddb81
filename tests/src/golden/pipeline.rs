//! A prompt to a video, umT5, Wan, a solver with guidance and the autoencoder, beside diffusers'
//! WanPipeline.

use super::{cut, model, on_ranks, read, tensor, values, wan};
use crate::fixture::Cut;
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use kinora_flow::{Schedule, Solver};
use kinora_generate::{Asked, SampleConfig, Sampler};
use kinora_golden::{File, Set, rms, set};
use kinora_mesh::MeshAxis;
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::wan::{WanVae, WanVaeConfig, keys as vae_keys};
use kinora_models::movie_gen::TextTokens;
use kinora_models::text::t5::{T5, T5Config, keys as text_keys};
use kinora_models::text::{TextEncoder, TokenBatch};
use kinora_models::{Condition, Denoiser, TextToVideo};
use kinora_shard::{Cx, Sharding};
use kinora_train::TrainError;
use serde_json::Value;
use std::sync::{Arc, Mutex};

const WEIGHTS: &str = "weights.transformer.diffusers.safetensors";
const ENCODER: &str = "weights.hf.safetensors";
/// The reference is in 32 bits, and the set does not say how far that is from 64.
const NEAR: f64 = 2e-5;

/// A model that remembers where it was asked, and what it said.
#[derive(Module, Debug)]
struct Heard {
    model: TextToVideo,
    #[module(skip)]
    passes: Arc<Mutex<Vec<Pass>>>,
}

/// A pass of the model: where and when it was asked, and what it said.
#[derive(Clone, Debug)]
struct Pass {
    at: Vec<f64>,
    times: Vec<f64>,
    said: Vec<f64>,
}

impl Denoiser for Heard {
    fn velocity(&self, latent: Tensor<5>, time: Tensor<1>, given: &Condition) -> Tensor<5> {
        let (at, times) = (values(latent.clone()), values(time.clone()));
        let velocity = self.model.velocity(latent, time, given);
        let said = values(velocity.clone());
        let pass = Pass { at, times, said };
        self.passes.lock().unwrap().push(pass);
        velocity
    }
}

/// The sets, and what is made of one case of them.
#[derive(Clone)]
struct Case {
    set: Set,
    encoder: Set,
    vae: Set,
    name: String,
    solver: Solver,
    schedule: Schedule,
}

/// What a rank made.
struct Made {
    texts: Vec<f64>,
    passes: Vec<Pass>,
    latents: Vec<f64>,
    video: Vec<f64>,
}

/// All cases of the set; none, said on stderr, if a part of them is not there.
fn cases() -> Vec<Case> {
    let (Some(set), Some(encoder), Some(vae)) = (set("pipeline"), set("umt5"), set("wan_vae"))
    else {
        return vec![];
    };
    let files = [(&set, WEIGHTS), (&encoder, ENCODER), (&vae, vae_file(&vae))];
    if files.iter().any(|(set, file)| set.weights(file).is_none()) {
        return vec![];
    }
    let all = set.config();
    let steps = all["steps"].as_u64().expect("a number of steps") as usize;
    let names = all["cases"].as_object().expect("cases").iter();
    let names = names.filter(|(_, case)| !case["tensors"]["latents"].is_null());
    let case = |(name, _): (&String, &Value)| {
        let (kind, shift) = name.split_once("_shift").expect("a solver and a shift");
        let solver = match kind {
            "euler" => Solver::EulerDiffusers {},
            "unipc" => Solver::Unipc {},
            _ => panic!("a reference of an unknown solver {kind}"),
        };
        let schedule = Schedule::Shift {
            steps,
            shift: shift.parse().expect("a shift"),
            terminal: None,
        };
        Case {
            set: set.clone(),
            encoder: encoder.clone(),
            vae: vae.clone(),
            name: name.clone(),
            solver,
            schedule,
        }
    };
    let cases: Vec<Case> = names.map(case).collect();
    assert!(!cases.is_empty(), "the set has cases");
    cases
}

impl Case {
    fn file(&self) -> File {
        let file = self.set.file(&format!("{}.safetensors", self.name));
        file.expect("the file of a case")
    }

    /// Prompt and negative prompt, a row each.
    fn texts(&self, cx: &Cx, file: &File) -> Result<TextTokens, TrainError> {
        let all = self.encoder.config();
        let mut config = all["config"].clone();
        config["architectures"] = Value::from(vec![all["model"].clone()]);
        let config = T5Config::from_hugging_face(config).unwrap();
        let keys = |path: &str, shape: &[usize]| text_keys::hugging_face(&config, path, shape);
        let build = |cx: &Cx| T5::new(cx, &config);
        let encoder = read(&cx.at("encoder"), &self.encoder, ENCODER, keys, build)?;
        let row = file.shape("input_ids")[1];
        let ids: Vec<u32> = file.f64("input_ids").iter().map(|&id| id as u32).collect();
        let mask = file.f64("attention_mask");
        let mask: Vec<bool> = mask.iter().map(|&there| there != 0.0).collect();
        let ids: Vec<Vec<u32>> = ids.chunks(row).map(<[u32]>::to_vec).collect();
        let mask: Vec<Vec<bool>> = mask.chunks(row).map(<[bool]>::to_vec).collect();
        Ok(encoder.encode(&TokenBatch::new(&ids, &mask, cx.device())))
    }

    /// The prompt's side of guidance and the other.
    fn asked(&self, texts: &TextTokens) -> Asked {
        let side = |row: usize| Condition {
            prompts: vec![String::new()],
            texts: vec![TextTokens {
                embedding: texts.embedding.clone().narrow(0, row, 1),
                mask: texts.mask.clone().narrow(0, row, 1),
            }],
            ..Condition::default()
        };
        Asked {
            with: side(0),
            without: side(1),
        }
    }

    fn make(&self, sharding: &Arc<Sharding>) -> Result<Made, TrainError> {
        let (device, all, file) = (Device::flex(), self.set.config(), self.file());
        let cx = Cx::new(&device, DType::F32, 0, sharding);
        let texts = self.texts(&cx, &file)?;
        let tokens = texts.embedding.dims()[1];
        let sizes = wan(&all["config"]["transformer"], tokens);
        let heard = Heard {
            model: model(&cx, &self.set, WEIGHTS, &sizes)?,
            passes: Arc::default(),
        };
        let config = SampleConfig {
            schedule: self.schedule,
            solver: self.solver,
            guidance: all["guidance_scale"].as_f64().expect("a guidance"),
            negative: String::new(),
            overlap: 1,
        };
        let sampler = Sampler {
            model: &heard,
            config: &config,
            device: &device,
            dtype: DType::F32,
            cfg: sharding.group(&[MeshAxis::Cfg]),
        };
        let noise = tensor(&file, "latents_init", DType::F32);
        let latents = sampler.follow(&self.asked(&texts), noise, |_| {});
        let video = vae(&cx, &self.vae)?.decode(latents.clone());
        // As the reference has it: frames before channels, from 0 to 1.
        let video = (video.permute([0, 2, 1, 3, 4]) + 1.0) / 2.0;
        let passes = heard.passes.lock().unwrap().clone();
        Ok(Made {
            texts: values(texts.embedding),
            passes,
            latents: values(latents),
            video: values(video),
        })
    }
}

fn vae_file(set: &Set) -> &'static str {
    let original = "weights.original.safetensors";
    match set.path(original).is_file() {
        true => original,
        false => "weights.diffusers.safetensors",
    }
}

fn vae(cx: &Cx, set: &Set) -> Result<WanVae, TrainError> {
    let all = set.config();
    let theirs = &all["config"];
    let number = |value: &Value| value.as_u64().expect("a size") as usize;
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let floats = |name: &str| -> Vec<f64> {
        let found = list(&all[name]);
        found.iter().map(|x| x.as_f64().expect(name)).collect()
    };
    let halves = list(&theirs["temperal_downsample"]);
    let config = WanVaeConfig {
        encoder_base: number(&theirs["base_dim"]),
        decoder_base: number(&theirs["base_dim"]),
        channels: number(&theirs["z_dim"]),
        multipliers: list(&theirs["dim_mult"]).iter().map(number).collect(),
        blocks: number(&theirs["num_res_blocks"]),
        halves_frames: halves.iter().map(|half| half == true).collect(),
        shortcuts: false,
        patch: 1,
        mean: floats("latents_mean"),
        std: floats("latents_std"),
    };
    let file = vae_file(set);
    let keys = |path: &str, shape: &[usize]| match file.contains("original") {
        true => vae_keys::original(&config, path, shape),
        false => vae_keys::diffusers(&config, path, shape),
    };
    let build = |cx: &Cx| WanVae::new(cx, &config);
    Ok(read(&cx.at("autoencoder"), set, file, keys, build)?)
}

/// What each rank of a cut makes of a case.
fn made(case: &Case, cut: &Cut) -> Vec<Made> {
    let case = case.clone();
    on_ranks(cut, move |transport, cut| {
        case.make(&Sharding::new(transport, cut.mesh, cut.plan.clone())?)
    })
}

/// Of each step: the latents that it makes, and the velocities with and without the prompt, as far as
/// this rank computes them, beside the reference's. Its velocities lead from data to noise.
fn compare(case: &Case, what: &str, made: &Made, sides: &[&str]) {
    let file = case.file();
    let (embeds, negative) = ("prompt_embeds", "negative_prompt_embeds");
    let points = case.solver.points(&case.schedule, 0);
    assert_eq!(points.sigmas, file.f64("sigmas"), "{what}: levels");
    assert_eq!(points.timesteps, file.f64("timesteps"), "{what}: timesteps");

    let mut far: Vec<(String, f64)> = vec![];
    // The reference has zeros where a prompt has ended.
    let mask = file.f64("attention_mask");
    let want = [file.f64(embeds), file.f64(negative)].concat();
    let width = want.len() / mask.len();
    let kept = made.texts.iter().enumerate();
    let got: Vec<f64> = kept.map(|(i, x)| x * mask[i / width]).collect();
    far.push(("texts".into(), rms(&got, &want)));

    let steps = case.schedule.steps();
    assert_eq!(made.passes.len(), steps, "{what}: a pass for each step");
    let of = |name: &str, step: usize| -> Vec<f64> {
        let all = file.f64(name);
        let each = all.len() / steps;
        all[step * each..(step + 1) * each].to_vec()
    };
    for (step, (pass, time)) in made.passes.iter().zip(points.times()).enumerate() {
        // To the last bit: a model makes a thousandfold of it, and sines of that.
        let exact = pass.times.iter().all(|&given| given == time);
        assert!(exact, "{what}: {:?} instead of {time}", pass.times);
        let said = &pass.said;
        let each = said.len() / sides.len();
        for (side, said) in sides.iter().zip(said.chunks(each)) {
            let theirs: Vec<f64> = said.iter().map(|x| -x).collect();
            far.push((format!("{side} {step}"), rms(&theirs, &of(side, step))));
        }
        let after = match made.passes.get(step + 1) {
            Some(Pass { at, .. }) => &at[..at.len() / sides.len()],
            None => &made.latents[..],
        };
        far.push((format!("latents {step}"), rms(after, &of("latents", step))));
    }
    far.push(("video".into(), rms(&made.video, &file.f64("video_0_1"))));
    let mut worst = far.clone();
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    let last = &far[far.len() - 2..];
    println!(
        "{what}: texts {:.1e}, {last:?}, worst {:?}",
        far[0].1,
        &worst[..3]
    );
    assert!(worst[0].1 <= NEAR, "{what}: {worst:?}");
}

#[test]
fn a_prompt_becomes_the_video_of_the_reference() {
    let whole = cut("one rank", [1, 1, 1, 1], None);
    for case in cases() {
        let made = &made(&case, &whole)[0];
        compare(&case, &case.name, made, &["cond", "uncond"]);
    }
}

/// The two passes of guidance on two ranks, and each of them on two.
#[test]
fn a_prompt_becomes_the_video_of_the_reference_on_four_ranks() {
    let four = cut("cfg 2 x tp 2", [1, 1, 2, 2], None);
    for case in cases() {
        let ranks = made(&case, &four);
        for (rank, made) in ranks.iter().enumerate() {
            let side = ["cond", "uncond"][four.mesh.coordinate(rank, MeshAxis::Cfg)];
            let what = format!("{}, rank {rank}", case.name);
            compare(&case, &what, made, &[side]);
        }
    }
}
