//! Weights in several files, their indexes and their hashes.

use std::fs;
use std::path::Path;

use kinora_ckpt::{CkptError, TensorSource, Weights};
use sha2::{Digest, Sha256};

use super::{assert_says, fixture, refusal, whole, write};

const ONE: &str = "w-00001-of-00002.safetensors";
const TWO: &str = "w-00002-of-00002.safetensors";
const INDEX: &str = "w.safetensors.index.json";

fn index(path: &Path, map: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> = map
        .iter()
        .map(|(name, file)| ((*name).to_owned(), (*file).into()))
        .collect();
    let text = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(path.join(INDEX), text.to_string()).unwrap();
}

fn two_files(path: &Path) {
    write(&path.join(ONE), &[("a", &[2]), ("b", &[1, 2])], 0);
    write(&path.join(TWO), &[("c", &[3])], 10);
}

#[test]
fn a_folder_and_its_index_are_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    two_files(path);
    let without = Weights::open(path).unwrap();
    index(path, &[("a", ONE), ("b", ONE), ("c", TWO)]);
    for weights in [
        without,
        Weights::open(path).unwrap(),
        Weights::open(&path.join(INDEX)).unwrap(),
    ] {
        assert_eq!(weights.names(), ["a", "b", "c"]);
        assert_eq!(whole(&weights, "b"), [0.0, 1.0]);
        assert_eq!(whole(&weights, "c"), [10.0, 11.0, 12.0]);
        assert_eq!(weights.files().len(), 2);
    }
}

#[test]
fn a_folder_with_one_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_says(&refusal(path), &["it is an empty folder"]);
    fs::write(path.join("config.json"), "{}").unwrap();
    assert_says(&refusal(path), &["without weights", "config.json"]);
    fs::copy(fixture("two.pth"), path.join("pytorch_model.bin")).unwrap();
    assert_eq!(Weights::open(path).unwrap().names().len(), 3);
    fs::copy(fixture("two.pth"), path.join("other.pt")).unwrap();
    assert_says(
        &refusal(path),
        &["other.pt and pytorch_model.bin", "name one of them"],
    );
    // Safetensors go before what has to be unpickled.
    write(&path.join("model.safetensors"), &[("a", &[2])], 0);
    assert_eq!(Weights::open(path).unwrap().names(), ["a"]);
}

#[test]
fn indexes_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    two_files(path);
    let says = |map: &[(&str, &str)], parts: &[&str]| {
        index(path, map);
        assert_says(&refusal(path), parts);
    };
    says(
        &[("a", ONE), ("b", ONE), ("c", "none.safetensors")],
        &["names none.safetensors, which is not there"],
    );
    says(
        &[("a", ONE), ("b", ONE), ("c", ONE)],
        &[&format!("says that {ONE} holds c, which it does not")],
    );
    says(
        &[("a", ONE), ("b", TWO), ("c", TWO)],
        &[&format!("says that {TWO} holds b, which it does not")],
    );
    says(
        &[("a", ONE), ("c", TWO)],
        &["its files hold b, which it does not name"],
    );
    for elsewhere in [
        "../w.safetensors",
        "/w.safetensors",
        "x/w.safetensors",
        "..",
        "",
    ] {
        says(&[("a", elsewhere)], &["which is no file beside it"]);
    }
    fs::write(path.join(INDEX), "{\"weight_map\": [1]}").unwrap();
    assert_says(&refusal(path), &["it is no index of weights"]);
    index(path, &[("a", ONE)]);
    fs::copy(path.join(INDEX), path.join("x.safetensors.index.json")).unwrap();
    assert_says(
        &refusal(path),
        &["w.safetensors.index.json and x.safetensors.index.json"],
    );
}

#[test]
fn names_in_two_files_and_missing_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    two_files(path);
    write(&path.join("w.fp16.safetensors"), &[("c", &[3])], 0);
    assert_says(&refusal(path), &["both hold c", "name one of the files"]);
    fs::remove_file(path.join("w.fp16.safetensors")).unwrap();
    fs::remove_file(path.join(ONE)).unwrap();
    assert_says(&refusal(path), &[&format!("it holds {TWO}, but not {ONE}")]);
}

#[test]
fn what_is_downloaded_by_mistake_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let files: [(&[u8], &str); 4] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS",
        ),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "GGUF"),
        (b"", "0 bytes"),
    ];
    for (bytes, part) in files {
        fs::write(&path, bytes).unwrap();
        assert_says(&refusal(&path), &[part, "help: "]);
    }
    assert_says(
        &refusal(&folder.path().join("none")),
        &["cannot open", "none"],
    );
}

fn sum(path: &Path) -> String {
    let hash = Sha256::digest(fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn sums_beside_the_files_are_checked_in_shares() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    two_files(path);
    let weights = Weights::open(path).unwrap();
    assert_eq!(weights.unhashed().unwrap().len(), 2);
    weights.verify_share(0, 1).unwrap();

    let right = sum(&path.join(ONE));
    let wrong = format!("{:064x}", 5);
    fs::write(
        path.join("SHA256SUMS"),
        format!("{right} *{ONE}\n\n{wrong}  ./{TWO}\n"),
    )
    .unwrap();
    assert!(weights.unhashed().unwrap().is_empty());
    // One share meets the wrong one, and only one.
    let results: Vec<_> = (0..3).map(|share| weights.verify_share(share, 3)).collect();
    let errors: Vec<&CkptError> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    let [
        error @ CkptError::Hash {
            expected, found, ..
        },
    ] = errors[..]
    else {
        panic!("{errors:?}");
    };
    assert_eq!((expected, found), (&wrong, &sum(&path.join(TWO))));
    assert_says(
        &error.to_string(),
        &[TWO, "SHA256SUMS", &wrong, found, "download it again"],
    );
    assert!(weights.verify_share(0, 1).is_err());

    fs::write(
        path.join("SHA256SUMS"),
        format!("{right}  {ONE}\nnonsense\n"),
    )
    .unwrap();
    assert_says(
        &weights.verify_share(0, 1).unwrap_err().to_string(),
        &["line 2 is \"nonsense\""],
    );
    fs::write(path.join("SHA256SUMS"), format!("{right}  {ONE}\n")).unwrap();
    weights.verify_share(0, 1).unwrap();
    assert_eq!(weights.unhashed().unwrap(), [path.join(TWO)]);
}

#[cfg(unix)]
#[test]
fn a_hugging_face_cache_tells_the_hash() {
    let folder = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (
        folder.path().join("blobs"),
        folder.path().join("snapshots/0a"),
    );
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let blob = blobs.join("new");
    write(&blob, &[("a", &[2])], 0);
    let named = blobs.join(sum(&blob));
    fs::rename(&blob, &named).unwrap();
    let link = snapshot.join("model.safetensors");
    std::os::unix::fs::symlink(
        Path::new("../../blobs").join(named.file_name().unwrap()),
        &link,
    )
    .unwrap();
    let weights = Weights::open(&snapshot).unwrap();
    assert!(weights.unhashed().unwrap().is_empty());
    weights.verify_share(0, 1).unwrap();
    write(&named, &[("a", &[2])], 1);
    let error = weights.verify_share(0, 1).unwrap_err();
    assert_says(
        &error.to_string(),
        &["model.safetensors", "blobs", "SHA-256"],
    );
}
