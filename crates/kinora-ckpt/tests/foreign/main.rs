//! Weights of other people's: files of PyTorch's, several files, damaged ones, and writing them.

mod damage;
mod export;
mod folders;
mod layouts;
mod pytorch;

use std::fs;
use std::path::{Path, PathBuf};

use kinora_ckpt::{TensorSource, Weights};
use safetensors::tensor::{TensorView, serialize};

/// A small file of PyTorch's; see the README beside them.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/files")
        .join(name)
}

/// Writes F32 tensors, whose numbers count up from `first`.
fn write(path: &Path, tensors: &[(&str, &[usize])], first: usize) {
    let values: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| numbers(shape.iter().product(), first))
        .collect();
    let views = tensors.iter().zip(&values).map(|((name, shape), bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// F32 numbers that count up.
fn numbers(count: usize, first: usize) -> Vec<u8> {
    (first..first + count)
        .flat_map(|i| (i as f32).to_le_bytes())
        .collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect()
}

fn whole(source: &impl TensorSource, name: &str) -> Vec<f32> {
    f32s(&source.read_whole(name).unwrap())
}

/// What opening ends in.
fn refusal(path: &Path) -> String {
    Weights::open(path)
        .expect_err("it should be refused")
        .to_string()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}
