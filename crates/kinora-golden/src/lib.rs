//! Reference tensors for tests: what other implementations computed, and how near to it is near.
//!
//! A set is a folder: `config.json`, weights and cases as safetensors. Small sets lie in
//! `tests/golden`; the environment variable `KINORA_GOLDEN` names another folder of sets, made from
//! other seeds or sizes, which the same tests then read.
//!
//! Separate because the tests of several crates read them. Nothing that ships depends on it.

use kinora_ckpt::{TensorSource, Weights};
use serde_json::Value;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of reference tensors.
#[derive(Clone, Debug)]
pub struct Set {
    path: PathBuf,
}

/// The set of a name; `None`, said on stderr, if there is none.
pub fn set(name: &str) -> Option<Set> {
    let root = env::var_os("KINORA_GOLDEN").map_or_else(copies, PathBuf::from);
    let path = root.join(name);
    if path.join("config.json").is_file() {
        return Some(Set { path });
    }
    eprintln!("SKIPPED: there is no reference set {}", path.display());
    None
}

fn copies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

impl Set {
    /// How the set was made.
    ///
    /// # Panics
    /// If `config.json` is damaged.
    pub fn config(&self) -> Value {
        let path = self.path.join("config.json");
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A file of the set.
    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// The weights in a file; `None`, said on stderr, if the set has no such file.
    ///
    /// # Panics
    /// If the file is damaged.
    pub fn weights(&self, file: &str) -> Option<Weights> {
        let path = self.path.join(file);
        if !path.is_file() {
            eprintln!("SKIPPED: the reference set has no {}", path.display());
            return None;
        }
        Some(Weights::open(&path).unwrap_or_else(|error| panic!("{error}")))
    }

    /// The tensors of a file; `None`, said on stderr, if the set has no such file.
    ///
    /// # Panics
    /// If the file is damaged.
    pub fn file(&self, file: &str) -> Option<File> {
        self.weights(file).map(|weights| File { weights })
    }
}

/// The tensors of one case.
#[derive(Debug)]
pub struct File {
    weights: Weights,
}

impl File {
    /// The tensors' names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.weights
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.weights.shape(tensor).is_ok()
    }

    /// A tensor's shape.
    ///
    /// # Panics
    /// If it is not there.
    pub fn shape(&self, tensor: &str) -> Vec<usize> {
        self.weights
            .shape(tensor)
            .expect("a tensor of the set")
            .to_vec()
    }

    /// A tensor's elements.
    ///
    /// # Panics
    /// If it is not there.
    pub fn f64(&self, tensor: &str) -> Vec<f64> {
        let bytes = self
            .weights
            .read_whole(tensor)
            .expect("a tensor of the set");
        let dtype = self.weights.dtype(tensor).expect("a tensor of the set");
        dtype.numbers(&bytes)
    }
}

/// The root mean square of the difference, relative to that of what is wanted.
///
/// # Panics
/// If there are not as many elements.
pub fn rms(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many elements as wanted");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let far = norm(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let size = norm(&mut want.iter().copied());
    // What should be zero is compared as it is.
    if size == 0.0 { far } else { far / size }
}
