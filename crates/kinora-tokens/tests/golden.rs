//! Texts and their numbers, as the models' own tokenizers made them.

use kinora_ckpt::{TensorSource, Weights};
use kinora_tokens::{Clean, Length, Tokenizer, TokensError};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the set `tokenizers`, under `$KINORA_GOLDEN` or the copies in tests/golden.
fn golden(name: &str) -> Option<PathBuf> {
    let copies = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let root = std::env::var_os("KINORA_GOLDEN").map_or_else(copies, PathBuf::from);
    there(root.join("tokenizers").join(name))
}

/// A vocabulary that is too large to be kept here, under `$KINORA_TOKENIZERS`.
fn vocabulary(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KINORA_TOKENIZERS").map(PathBuf::from);
    there(
        root.unwrap_or_else(|| "$KINORA_TOKENIZERS".into())
            .join(name),
    )
}

fn there(path: PathBuf) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn texts(json: &Value) -> Vec<String> {
    let texts = json["texts"].as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn rows(json: &Value) -> Vec<Vec<u32>> {
    let number = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    let row = |row: &Value| row.as_array().unwrap().iter().map(number).collect();
    let rows: Vec<Vec<u32>> = json.as_array().unwrap().iter().map(row).collect();
    assert!(rows.iter().any(|row| row.len() > 3), "texts of some length");
    rows
}

fn each(tokenizer: &Tokenizer, json: &Value, ids: &str) {
    for (text, want) in texts(json).iter().zip(rows(&json[ids])) {
        assert_eq!(tokenizer.ids(text).unwrap(), want, "{text:?}");
    }
}

#[test]
fn bytes_are_byt5s() {
    let Some(path) = golden("byt5.json") else {
        return;
    };
    let json = json(&path);
    for (text, want) in texts(&json).iter().zip(rows(&json["ids"])) {
        let tokens = Tokenizer::byt5().encode(&[text], Length::AtMost(1 << 20));
        assert_eq!(tokens.unwrap().ids, [want], "{text:?}");
    }
}

#[test]
fn pieces_are_sentencepieces() {
    let (Some(model), Some(path)) = (
        golden("seqio_sentencepiece.model"),
        golden("sentencepiece.json"),
    ) else {
        return;
    };
    let (tokenizer, json) = (Tokenizer::open(&model).unwrap(), json(&path));
    each(&tokenizer, &json, "ids");
    let end = u32::try_from(json["eos"].as_u64().unwrap()).unwrap();
    let tokens = tokenizer.encode(&["", "a"], Length::AtMost(9)).unwrap();
    assert_eq!(tokens.ids[0][0], end);
    assert_eq!(u64::from(tokens.ids[0][1]), json["pad"].as_u64().unwrap());
    assert_eq!(tokens.ids[1].last(), Some(&end));
}

/// Models with bytes for unknown characters, with pieces of their own, and with blanks left as they are.
#[test]
fn pieces_are_sentencepieces_with_all_options() {
    let Some(set) = kinora_golden::set("sentencepiece") else {
        return;
    };
    let json = set.config();
    for name in json["ids"].as_object().unwrap().keys() {
        let tokenizer = Tokenizer::open(&set.path(&format!("{name}.model"))).unwrap();
        for (text, want) in texts(&json).iter().zip(rows(&json["ids"][name])) {
            assert_eq!(tokenizer.ids(text).unwrap(), want, "{name}: {text:?}");
        }
    }
}

#[test]
fn prompts_are_cleaned_as_wan_cleans_them() {
    let Some(set) = kinora_golden::set("cleaning") else {
        return;
    };
    let json = set.config();
    let all = json["texts"].as_array().unwrap();
    for (clean, key) in [(Clean::Whitespace, "cleaned"), (Clean::Lower, "lower")] {
        let cleaned = json[key].as_array().unwrap();
        assert_eq!(all.len(), cleaned.len());
        for (text, want) in all.iter().zip(cleaned) {
            let text = text.as_str().unwrap();
            assert_eq!(clean.apply(text), want.as_str().unwrap(), "{text:?}");
        }
    }
}

#[test]
fn merges_are_open_clips() {
    let (Some(merges), Some(path)) = (
        vocabulary("bpe_simple_vocab_16e6.txt.gz"),
        golden("clip_bpe.json"),
    ) else {
        return;
    };
    let (tokenizer, json) = (Tokenizer::open(&merges).unwrap(), json(&path));
    each(&tokenizer, &json, "ids_no_special");
    let length = usize::try_from(json["context_length"].as_u64().unwrap()).unwrap();
    let tokens = tokenizer.encode(&texts(&json), Length::Exactly(length));
    assert_eq!(tokens.unwrap().ids, rows(&json["ids_77"]));
}

#[test]
fn pipelines_are_hugging_faces() {
    let (Some(pipeline), Some(path), Some(ids)) = (
        vocabulary("minilm/tokenizer.json"),
        golden("minilm.json"),
        golden("minilm.safetensors"),
    ) else {
        return;
    };
    let (tokenizer, json) = (Tokenizer::open(&pipeline).unwrap(), json(&path));
    let ids = Weights::open(&ids).unwrap();
    let read = |name: &str| -> Vec<i64> {
        let bytes = ids.read_whole(name).unwrap();
        let (numbers, _) = bytes.as_chunks::<8>();
        numbers.iter().map(|x| i64::from_le_bytes(*x)).collect()
    };
    let tokens = tokenizer
        .encode(&texts(&json), Length::AtMost(512))
        .unwrap();
    let got: Vec<i64> = tokens.ids.concat().into_iter().map(i64::from).collect();
    let mask: Vec<i64> = tokens.mask.concat().into_iter().map(i64::from).collect();
    assert_eq!(got, read("input_ids"));
    assert_eq!(mask, read("attention_mask"));
    // What is cut keeps its closing mark.
    let short = tokenizer.encode(&texts(&json), Length::Exactly(5)).unwrap();
    for (whole, cut) in tokens.ids.iter().zip(&short.ids) {
        let len = whole.iter().filter(|&&id| id != tokenizer.pad()).count();
        assert_eq!(cut[..len.min(5) - 1], whole[..len.min(5) - 1]);
        assert_eq!(cut[len.min(5) - 1], whole[len - 1]);
    }
}

/// A vocabulary in Hugging Face's files, small enough to be merged by hand.
#[test]
fn byte_pairs_are_merged_in_the_order_of_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = r#"{"a":0,"b":1,"c":2,"a</w>":3,"b</w>":4,"c</w>":5,
        "ab":6,"abc</w>":7,"bc</w>":8,"<|startoftext|>":9,"<|endoftext|>":10}"#;
    fs::write(folder.path().join("vocab.json"), vocabulary).unwrap();
    let merges = "#version: 0.2\nb c</w>\na b\nab c</w>\n";
    fs::write(folder.path().join("merges.txt"), merges).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    // In "abc", b and c meet first, so that a stays alone; in "abb" a and b do.
    let ids = tokenizer.ids(" ABC  a&#98;b\tb<|endoftext|>").unwrap();
    assert_eq!(ids, [0, 8, 6, 4, 4, 10]);
    let tokens = tokenizer.encode(&["abc abc", "a"], Length::Exactly(5));
    let tokens = tokens.unwrap();
    assert_eq!(tokens.ids, [[9, 0, 8, 0, 10], [9, 3, 10, 10, 10]]);
    assert_eq!(tokens.mask[1], [true, true, true, false, false]);
    let zeros = tokenizer.padding_with(0).cleaning(Clean::None);
    let tokens = zeros.encode(&["a"], Length::Exactly(4)).unwrap();
    assert_eq!(tokens.ids, [[9, 3, 10, 0]]);
}

#[test]
fn what_is_no_tokenizer_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, TokensError::Unknown { .. }), "{error}");
    for name in [
        "tokenizer.json",
        "spiece.model",
        "bpe_simple_vocab_16e6.txt.gz",
    ] {
        let path = folder.path().join(name);
        fs::write(&path, "\x1f\u{8b}{\"half\":").unwrap();
        let error = Tokenizer::open(&path).unwrap_err();
        assert!(matches!(error, TokensError::Format { .. }), "{error}");
    }
    let error = Tokenizer::byt5()
        .encode(&["a"], Length::Exactly(1))
        .unwrap_err();
    assert!(error.to_string().contains("at least 2"), "{error}");
}
