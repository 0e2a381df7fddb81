//! CLIP's text encoder, with OpenAI's activation and with OpenCLIP's.

use crate::run::{NEAR, SAME, cases, compare, config, every_plan, ids, mask, read, values, whole};
use burn::tensor::DType;
use kinora_golden::{Set, rms, set};
use kinora_models::text::clip::{ClipEnd, ClipText, ClipTextConfig, keys};
use kinora_models::text::{TextEncoder, TokenBatch};
use kinora_shard::Cx;

const SETS: [&str; 2] = ["clip_text_gelu", "clip_text_quick_gelu"];

fn encoder(cx: &Cx, set: &Set) -> Option<ClipText> {
    let config = ClipTextConfig::from_hugging_face(config(set)).unwrap();
    let keys = |path: &str, shape: &[usize]| keys::hugging_face(&config, path, shape);
    let build = |cx: &Cx| ClipText::new(cx, &config);
    read(cx, set, "weights.hf.safetensors", keys, build)
}

#[test]
fn it_is_the_original_with_and_without_a_mask() {
    for name in SETS {
        let Some(set) = set(name) else { continue };
        for (dtype, near) in [(DType::F32, NEAR), (DType::F64, SAME)] {
            let Some(encoder) = encoder(&whole(dtype), &set) else {
                continue;
            };
            for case in cases(&set) {
                let Some(file) = set.file(&format!("{case}.safetensors")) else {
                    continue;
                };
                let mask = mask(&file, "attention_mask");
                let output = encoder.forward(ids(&file, "input_ids"), mask.as_ref());
                let got = [
                    ("last_hidden_state", values(output.last)),
                    ("penultimate", values(output.penultimate)),
                    (
                        "text_embeds",
                        values(output.projected.expect("a projection")),
                    ),
                ];
                compare(&format!("{name}, {case}, {dtype:?}"), &file, &got, near);
            }
        }
    }
}

#[test]
fn cut_over_ranks_it_is_that_of_one_rank() {
    for name in SETS {
        let Some(set) = set(name) else { continue };
        if set.file("mask.safetensors").is_none() {
            continue;
        }
        every_plan(name, move |cx| {
            let encoder = encoder(cx, &set).expect("weights");
            let file = set.file("mask.safetensors").expect("a case");
            let mask = mask(&file, "attention_mask");
            let output = encoder.forward(ids(&file, "input_ids"), mask.as_ref());
            let pooled = values(output.projected.expect("a projection"));
            [values(output.last), pooled].concat()
        });
    }
}

/// The text's vector is that of the first end mark, or of the highest number.
#[test]
fn the_pooled_token_is_the_end() {
    let cx = whole(DType::F64);
    let config = ClipTextConfig {
        vocabulary: 20,
        context: 6,
        width: 8,
        layers: 1,
        heads: 2,
        ffn: 9,
        end: ClipEnd::First(17),
        ..ClipTextConfig::clip_l()
    };
    for (end, place) in [(ClipEnd::First(17), 2), (ClipEnd::Highest, 4)] {
        let config = ClipTextConfig {
            end,
            ..config.clone()
        };
        let cx = cx.at(place);
        let encoder = ClipText::new(&cx, &config);
        let tokens = TokenBatch::new(&[vec![1, 5, 17, 17, 19, 17]], &[vec![true; 6]], cx.device());
        let pooled = values(encoder.pool(&tokens).expect("a pooled vector"));
        let all = encoder.encode(&tokens).embedding;
        for i in 0..6 {
            let far = rms(&pooled, &values(all.clone().narrow(1, i, 1)));
            assert_eq!(far < SAME, i == place, "{end:?} at {i}: {far}");
        }
        // What comes after a token does not change it.
        let ids = encoder.penultimate(tokens.ids.clone().narrow(1, 0, 3), None);
        let more = encoder
            .penultimate(tokens.ids.clone(), None)
            .narrow(1, 0, 3);
        assert!(rms(&values(ids), &values(more)) < SAME);
    }
}
