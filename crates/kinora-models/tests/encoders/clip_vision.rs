//! CLIP's image encoder, under Hugging Face's names and under Wan's.

use crate::run::{NEAR, SAME, compare, config, every_plan, read, values, whole};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::Foreign;
use kinora_golden::{File, Set, rms, set};
use kinora_models::vision::{ClipVision, ClipVisionConfig, keys, preprocess};
use kinora_shard::Cx;

type Keys = fn(&ClipVisionConfig, &str, &[usize]) -> Foreign;

const LAYOUTS: [(&str, Keys); 2] = [
    ("weights.hf.safetensors", keys::hugging_face),
    ("weights.wan_original.safetensors", keys::wan),
];

fn encoder(cx: &Cx, set: &Set, (file, names): (&str, Keys)) -> Option<ClipVision> {
    let config = ClipVisionConfig::from_hugging_face(config(set)).unwrap();
    let keys = |path: &str, shape: &[usize]| names(&config, path, shape);
    read(cx, set, file, keys, |cx| ClipVision::new(cx, &config))
}

fn images(file: &File, name: &str, dtype: DType) -> Tensor<4> {
    let data = TensorData::new(file.f64(name), file.shape(name));
    Tensor::from_data(data, (&Device::flex(), dtype))
}

#[test]
fn it_is_the_original_under_both_names() {
    let Some(set) = set("clip_vision") else {
        return;
    };
    let Some(file) = set.file("images.safetensors") else {
        return;
    };
    for layout in LAYOUTS {
        for (dtype, near) in [(DType::F32, NEAR), (DType::F64, SAME)] {
            let Some(encoder) = encoder(&whole(dtype), &set, layout) else {
                continue;
            };
            let output = encoder.forward(images(&file, "pixel_values", dtype));
            let got = [
                ("penultimate", values(output.penultimate)),
                ("last_hidden_state", values(output.last)),
                ("pooled", values(output.pooled)),
                (
                    "image_embeds",
                    values(output.projected.expect("a projection")),
                ),
            ];
            compare(&format!("{}, {dtype:?}", layout.0), &file, &got, near);
        }
    }
}

#[test]
fn images_are_scaled_as_wan_scales_them() {
    let Some(set) = set("clip_vision") else {
        return;
    };
    let Some(file) = set.file("preprocess.safetensors") else {
        return;
    };
    let want = file.f64("pixel_values_f64");
    let size = file.shape("pixel_values_f64")[3];
    // The means and deviations are given to 32 bits.
    for (dtype, near) in [(DType::F32, NEAR), (DType::F64, 1e-9)] {
        let got = preprocess(images(&file, "image", dtype), size);
        let far = rms(&values(got), &want);
        assert!(far < near, "{dtype:?}: {far:e}");
    }
}

#[test]
fn cut_over_ranks_it_is_that_of_one_rank() {
    let Some(set) = set("clip_vision") else {
        return;
    };
    every_plan("clip_vision", move |cx| {
        let encoder = encoder(cx, &set, LAYOUTS[1]).expect("weights");
        let file = set.file("images.safetensors").expect("a case");
        let output = encoder.forward(images(&file, "pixel_values", DType::F64));
        let pooled = values(output.projected.expect("a projection"));
        [values(output.penultimate), pooled].concat()
    });
}
