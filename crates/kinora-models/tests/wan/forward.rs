//! Velocities on one rank.

use crate::golden::{Inputs, Layout, cases, config, model, model_of, values};
use burn::tensor::{DType, Device, Tensor};
use kinora_golden::{Set, rms, set};
use kinora_models::wan::{Experts, Wan, WanConfig};
use kinora_shard::{Cx, Recompute, Sharding};

const LAYOUTS: [Layout; 2] = [Layout::Diffusers, Layout::Original];

/// Wan's own code is 3e-7 from the f64 values, and diffusers, with its sinusoids in f32, up to 5e-6.
const F32: f64 = 1e-6;
const F64: f64 = 1e-9;

fn cx(dtype: DType) -> Cx {
    Cx::new(&Device::flex(), dtype, 0, &Sharding::single())
}

fn all_cases(name: &str, layout: Layout, cx: &Cx, tolerance: f64) {
    let Some(set) = set(name) else { return };
    let Some(model) = model(cx, &set, layout) else {
        return;
    };
    let cases = cases(&set, &["hidden_states", "output_f64"]);
    assert!(!cases.is_empty(), "{name} has no cases");
    for case in cases {
        let Some(file) = set.file(&format!("{case}.safetensors")) else {
            continue;
        };
        let dtype = cx.precision().computed;
        let inputs = Inputs::of(&file, "hidden_states", cx.device(), dtype);
        let far = rms(&values(inputs.forward(&model)), &file.f64("output_f64"));
        println!("{name} {case} {layout:?} {dtype:?}: {far:.2e}");
        assert!(far <= tolerance, "{name} {case} {layout:?}: {far:e}");
    }
}

#[test]
fn text_to_video_is_that_of_the_reference_in_f32() {
    for layout in LAYOUTS {
        all_cases("wan_t2v", layout, &cx(DType::F32), F32);
    }
}

#[test]
fn text_to_video_is_that_of_the_reference_in_f64() {
    all_cases("wan_t2v", Layout::Diffusers, &cx(DType::F64), F64);
}

#[test]
fn image_to_video_is_that_of_the_reference_in_f32() {
    for layout in LAYOUTS {
        all_cases("wan_i2v", layout, &cx(DType::F32), F32);
    }
}

#[test]
fn image_to_video_is_that_of_the_reference_in_f64() {
    all_cases("wan_i2v", Layout::Original, &cx(DType::F64), F64);
}

#[test]
fn recomputed_blocks_give_the_same_velocities() {
    let cx = cx(DType::F32).recomputing(Recompute::All);
    all_cases("wan_t2v", Layout::Diffusers, &cx, F32);
}

/// In bfloat16 no two programs agree to more than its digits: what is asked is to be as near to the
/// f32 values as the reference's own bfloat16 is.
#[test]
fn bfloat16_is_as_near_to_f32_as_the_references() {
    let Some(set) = set("wan_t2v") else { return };
    let Some(file) = set.file("bf16.safetensors") else {
        return;
    };
    let cx = cx(DType::BF16);
    let Some(model) = model(&cx, &set, Layout::Diffusers) else {
        return;
    };
    let inputs = Inputs::of(&file, "hidden_states", cx.device(), DType::BF16);
    let far = rms(&values(inputs.forward(&model)), &file.f64("output_f32"));
    let theirs = rms(&file.f64("output_bf16"), &file.f64("output_f32"));
    println!("bf16: {far:.2e}, the reference {theirs:.2e}");
    assert!(far <= 1.5 * theirs, "{far:e}, the reference {theirs:e}");
}

#[test]
fn text_is_filled_up_with_zeros_that_are_attended_to() {
    let cx = cx(DType::F64);
    let Some((model, set, file)) = text_case(&cx) else {
        return;
    };
    let inputs = Inputs::of(&file, "hidden_states", cx.device(), DType::F64);
    let [b, l, width] = inputs.text.dims();
    let zeros = Tensor::zeros([b, 5, width], (cx.device(), DType::F64));
    let by_hand = Inputs {
        text: Tensor::cat(vec![inputs.text.clone(), zeros], 1),
        ..inputs.clone()
    };
    let config = WanConfig {
        text_tokens: l + 5,
        ..config(&set)
    };
    let filled = model_of(&self::cx(DType::F64), &set, Layout::Diffusers, &config);
    let Some(filled) = filled else { return };
    let short = values(inputs.clone().forward(&model));
    let want = values(by_hand.forward(&model));
    let got = values(inputs.forward(&filled));
    assert_eq!(rms(&got, &want), 0.0);
    assert!(rms(&short, &want) > 1e-6, "padding is not attended to");
}

fn text_case(cx: &Cx) -> Option<(Wan, Set, kinora_golden::File)> {
    let set = set("wan_t2v")?;
    let case = cases(&set, &["hidden_states", "output_f64"]).pop()?;
    let file = set.file(&format!("{case}.safetensors"))?;
    Some((model(cx, &set, Layout::Diffusers)?, set, file))
}

/// A time for each token that is the same for all is one time.
#[test]
fn times_of_tokens_that_are_all_alike_are_one_time() {
    let cx = cx(DType::F64);
    let Some((model, set, file)) = text_case(&cx) else {
        return;
    };
    let one = Inputs::of(&file, "hidden_states", cx.device(), DType::F64);
    let [_, _, t, h, w] = one.latent.dims();
    let tokens: usize = config(&set).grid([t, h, w]).iter().product();
    let time = one.time.clone().narrow(1, 0, 1);
    let first = Inputs {
        time: time.clone(),
        ..one.clone()
    };
    let each = Inputs {
        time: time.repeat_dim(1, tokens),
        ..one
    };
    let far = rms(
        &values(each.forward(&model)),
        &values(first.forward(&model)),
    );
    assert!(far < 1e-12, "{far:e}");
}

#[test]
fn a_pair_changes_over_at_its_boundary() {
    let cx = cx(DType::F32);
    let config = WanConfig {
        layers: 1,
        dim: 24,
        ffn: 8,
        heads: 2,
        text: 4,
        text_tokens: 3,
        ..WanConfig::wan_2_2_t2v_a14b()
    };
    let pair = Experts::new(&cx, &config);
    for (time, first) in [(1000.0, true), (875.0, true), (874.9, false), (0.0, false)] {
        let other = pair.at(if first { 1000.0 } else { 0.0 });
        assert!(std::ptr::eq(pair.at(time), other), "at {time}");
    }
    assert!(!std::ptr::eq(pair.at(1000.0), pair.at(0.0)));
    let paths = cx.table();
    let of = |half: &str| {
        let all = paths
            .specs()
            .iter()
            .filter(|spec| spec.path.starts_with(half));
        all.count()
    };
    assert_eq!(of("high."), of("low."));
    assert_eq!(of("high.") + of("low."), paths.specs().len());
}
