//! umT5, with relative positions in every layer, and ByT5, with one table for all.

use crate::run::{NEAR, SAME, cases, compare, config, every_plan, ids, mask, read, values, whole};
use burn::tensor::DType;
use kinora_ckpt::Foreign;
use kinora_golden::{Set, rms, set};
use kinora_models::text::t5::{T5, T5Config, keys};
use kinora_models::text::{TextEncoder, TokenBatch, zero_padded};
use kinora_shard::Cx;

type Keys = fn(&T5Config, &str, &[usize]) -> Foreign;

fn encoder(cx: &Cx, set: &Set, file: &str, names: Keys) -> Option<T5> {
    let config = T5Config::from_hugging_face(config(set)).unwrap();
    let keys = |path: &str, shape: &[usize]| names(&config, path, shape);
    read(cx, set, file, keys, |cx| T5::new(cx, &config))
}

fn batch(set: &Set, case: &str) -> Option<TokenBatch> {
    let file = set.file(&format!("{case}.safetensors"))?;
    Some(TokenBatch {
        ids: ids(&file, "input_ids"),
        mask: mask(&file, "attention_mask").expect("a mask"),
    })
}

fn is_the_original(set: &Set, file: &str, names: Keys) {
    for (dtype, near) in [(DType::F32, NEAR), (DType::F64, SAME)] {
        let Some(encoder) = encoder(&whole(dtype), set, file, names) else {
            return;
        };
        for case in cases(set) {
            let Some(tokens) = batch(set, &case) else {
                continue;
            };
            let want = set.file(&format!("{case}.safetensors")).unwrap();
            let text = encoder.encode(&tokens);
            let got = [("last_hidden_state", values(text.embedding.clone()))];
            compare(&format!("{file}, {case}, {dtype:?}"), &want, &got, near);
            // Wan's zeros, and some more.
            let [b, l, width] = text.embedding.dims();
            let padded = zero_padded(text, l + 3);
            assert_eq!(padded.dims(), [b, l + 3, width]);
            let rest = values(padded.clone().narrow(1, l, 3));
            assert!(rest.iter().all(|&x| x == 0.0));
            let got = [("last_hidden_state_zeroed", values(padded.narrow(1, 0, l)))];
            if want.has("last_hidden_state_zeroed") {
                compare(&format!("{file}, {case}, {dtype:?}"), &want, &got, near);
            }
        }
    }
}

#[test]
fn umt5_is_the_original_under_both_names() {
    let Some(set) = set("umt5") else { return };
    is_the_original(&set, "weights.hf.safetensors", keys::hugging_face);
    if set.path("weights.wan_original.safetensors").is_file() {
        is_the_original(&set, "weights.wan_original.safetensors", keys::wan);
    } else {
        eprintln!("SKIPPED: the set has no weights under Wan's names");
    }
}

#[test]
fn byt5_is_the_original() {
    let Some(set) = set("byt5") else { return };
    is_the_original(&set, "weights.hf.safetensors", keys::hugging_face);
}

#[test]
fn cut_over_ranks_it_is_that_of_one_rank() {
    for name in ["umt5", "byt5"] {
        let Some(set) = set(name) else { continue };
        let Some(case) = cases(&set).pop() else {
            continue;
        };
        every_plan(name, move |cx| {
            let names: Keys = keys::hugging_face;
            let encoder = encoder(cx, &set, "weights.hf.safetensors", names);
            let tokens = batch(&set, &case).expect("a case");
            let text = encoder.expect("weights").encode(&tokens);
            values(text.embedding)
        });
    }
}

/// Padding has no say in what is not padding.
#[test]
fn padding_is_not_attended_to() {
    let cx = whole(DType::F64);
    let config = T5Config {
        vocabulary: 20,
        width: 12,
        layers: 2,
        heads: 2,
        head_dim: 5,
        ffn: 9,
        ..T5Config::umt5_xxl()
    };
    let encoder = T5::new(&cx, &config);
    let encode = |row: Vec<u32>, long: usize| {
        let mask = (0..row.len()).map(|i| i < long).collect();
        let tokens = TokenBatch::new(&[row], &[mask], cx.device());
        values(encoder.encode(&tokens).embedding.narrow(1, 0, 3))
    };
    let alone = encode(vec![3, 4, 1], 3);
    assert!(rms(&encode(vec![3, 4, 1, 0, 0], 3), &alone) < SAME);
    assert!(rms(&encode(vec![3, 4, 1, 7, 8], 3), &alone) < SAME);
    assert!(rms(&encode(vec![3, 4, 1, 7, 8], 5), &alone) > 1e-3);
    assert!(rms(&encode(vec![4, 3, 1], 3), &alone) > 1e-3);
}
