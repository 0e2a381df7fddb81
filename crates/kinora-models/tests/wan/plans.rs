//! Velocities and gradients of models cut over ranks, for what the reference's gradients do not reach:
//! images, times of tokens, and sharp attention.

use crate::golden::{Inputs, Layout, cases, model};
use crate::job::{Job, Ran, rows, run, whole};
use crate::naive;
use burn::tensor::DType;
use kinora_golden::{rms, set};
use kinora_shard::Recompute;
use std::sync::Arc;

/// Every output and gradient of `got` beside that of `want`.
fn compare(name: &str, got: &Ran, want: &Ran, velocity: f64, gradient: f64) {
    let far = rms(&got.velocity, &want.velocity);
    assert!(far <= velocity, "{name}: velocity {far:e}");
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let sizes = want.params.values().map(|(_, gradient)| norm(gradient));
    let largest = sizes.fold(0.0, f64::max);
    let of = |got: &[f64], want: &[f64], path: &str| {
        // A query that has one key alone has no gradient: what is there is rounding, of any size
        // relative to itself, and is measured by the others.
        let far = if norm(want) < 1e-12 * largest {
            norm(got) / largest
        } else {
            rms(got, want)
        };
        (far, path.to_owned())
    };
    let mut all = vec![
        of(&got.of_latent, &want.of_latent, "latent"),
        of(&got.of_text, &want.of_text, "text"),
    ];
    for (path, (_, want)) in &want.params {
        all.push(of(&got.params[path].1, want, path));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (worst, path) = &all[0];
    println!("{name}: velocity {far:.1e}, worst gradient {worst:.1e}, {path}");
    assert!(*worst <= gradient, "{name}: {:?}", &all[..5]);
}

/// A case of a reference set; as many samples as the most ranks share.
fn job(name: &'static str, case: &str, dtype: DType) -> Option<Job> {
    let set = set(name)?;
    let file = set.file(&format!("{case}.safetensors"))?;
    set.weights(Layout::Diffusers.file())?;
    Some(Job {
        build: Arc::new(move |cx| model(cx, &set, Layout::Diffusers).expect("weights of the set")),
        inputs: Arc::new(move |device, dtype| {
            let one = Inputs::of(&file, "hidden_states", device, dtype);
            let two = Inputs {
                latent: one.latent.repeat_dim(0, 2),
                time: one.time.repeat_dim(0, 2),
                text: one.text.repeat_dim(0, 2),
                image: one.image.map(|image| image.repeat_dim(0, 2)),
            };
            (two, None)
        }),
        dtype,
        recompute: Recompute::None,
    })
}

/// In f32 gradients are as near as `gradient`, and in f64 but for the order of sums.
fn all_plans(name: &'static str, gradient: f64) {
    let Some(found) = set(name) else { return };
    for case in cases(&found, &["hidden_states", "output_f64"]) {
        let (Some(single), Some(double)) =
            (job(name, &case, DType::F32), job(name, &case, DType::F64))
        else {
            return;
        };
        let want = run(&whole(), &double);
        let file = found.file(&format!("{case}.safetensors"));
        let Some(file) = file else { return };
        let reference = file.f64("output_f64").repeat(2);
        for row in [whole()].into_iter().chain(rows()) {
            let got = run(&row, &single);
            let what = format!("{name} {case}, {}", row.name);
            let far = rms(&got.velocity, &reference);
            assert!(far <= 1e-6, "{what}: {far:e}");
            compare(&what, &got, &want, 1e-6, gradient);
            compare(&what, &run(&row, &double), &want, 1e-12, 1e-10);
        }
    }
}

#[test]
fn text_to_video_is_that_of_the_reference_under_all_plans() {
    all_plans("wan_t2v", 5e-6);
}

/// Of 512 keys that all say nearly the same, the gradients are small differences: in f32 one rank
/// alone is 1e-5 off.
#[test]
fn image_to_video_is_that_of_the_reference_under_all_plans() {
    all_plans("wan_i2v", 2e-5);
}

/// Two images, a time for each token, and scores so large that attention looks at few tokens: in f64
/// nothing but the order of sums differs. In f32 the scores, some nine times as large as those of the
/// reference sets, are nine times as far off.
#[test]
fn sharp_attention_is_that_of_one_rank_under_all_plans() {
    let job = |dtype, recompute| Job {
        build: Arc::new(naive::model),
        inputs: Arc::new(|device, dtype| (naive::inputs(device, dtype), None)),
        dtype,
        recompute,
    };
    let want = run(&whole(), &job(DType::F64, Recompute::None));
    for row in rows() {
        let name = row.name;
        let got = run(&row, &job(DType::F64, Recompute::None));
        compare(name, &got, &want, 1e-12, 1e-10);
        let got = run(&row, &job(DType::F64, Recompute::All));
        compare(name, &got, &want, 1e-12, 1e-10);
        let got = run(&row, &job(DType::F32, Recompute::None));
        compare(name, &got, &want, 9e-6, 4.5e-5);
    }
}
