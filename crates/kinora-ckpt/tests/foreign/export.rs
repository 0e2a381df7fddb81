//! Ours written as theirs, and read again.

use std::fs;
use std::path::Path;

use kinora_ckpt::{
    Checkpoint, CkptError, Dtype, Foreign, Piece, Prefixed, Renamed, Saver, TensorSource, Weights,
    Writer,
};

use super::{assert_says, f32s, numbers, whole};

/// Parameters that lie in every way that a layout knows.
fn params() -> Vec<(String, Vec<usize>)> {
    let params: [(&str, &[usize]); 9] = [
        ("query", &[4, 3]),
        ("key", &[4, 3]),
        ("value", &[4, 2]),
        ("left", &[3, 5]),
        ("right", &[2, 5]),
        ("patch", &[12, 5]),
        ("table", &[6, 4]),
        ("plain_left", &[3, 2]),
        ("plain_right", &[3, 1]),
    ];
    let mut params: Vec<_> = params
        .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
        .to_vec();
    params.push(("scale".to_owned(), vec![]));
    params
}

fn keys(path: &str, shape: &[usize]) -> Foreign {
    match path {
        "query" => Foreign::linear("qkv.weight", shape).rows(0, 8),
        "key" => Foreign::linear("qkv.weight", shape).rows(3, 8),
        "value" => Foreign::linear("qkv.weight", shape).rows(6, 8),
        "left" => Foreign::linear("out.weight", shape).columns(0, 5),
        "right" => Foreign::linear("out.weight", shape).columns(3, 5),
        "patch" => Foreign::linear("patch.weight", shape).shaped(&[5, 3, 1, 2, 2]),
        "table" => Foreign::same("table", shape).shaped(&[1, 6, 4]),
        "plain_left" => Foreign::same("plain", shape).columns(0, 3),
        "plain_right" => Foreign::same("plain", shape).columns(2, 3),
        _ => Foreign::same(path, shape),
    }
}

/// A checkpoint whose parameters, under `average/`, count up from 0, each from where the one before
/// it ended.
fn checkpoint(root: &Path) -> Checkpoint {
    let mut first = 0;
    let pieces: Vec<Piece> = params()
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let bytes = numbers(count, first);
            first += count;
            Piece {
                name: format!("average/{name}"),
                offset: vec![0; shape.len()],
                extent: shape.clone(),
                shape,
                dtype: Dtype::F32,
                bytes,
            }
        })
        .collect();
    let saver = Saver::begin(root, 5, 0).unwrap();
    saver.write_part(&pieces).unwrap();
    Checkpoint::open(&saver.commit(&serde_json::Value::Null, 1).unwrap()).unwrap()
}

fn write(writer: &Writer, source: &dyn TensorSource, to: &Path) -> Result<(), CkptError> {
    writer
        .write(source, &params(), keys, to, |_, _| ())
        .map(|_| ())
}

fn listing(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&folder.path().join("run"));
    let source = Prefixed::new(&checkpoint, "average/");
    let to = folder.path().join("export");
    let mut heard = vec![];
    let writer = Writer::new(Dtype::F32).beside("config.json", "{}");
    writer
        .write(&source, &params(), keys, &to, |done, of| {
            heard.push((done, of))
        })
        .unwrap();
    assert_eq!(
        listing(&to),
        [
            "SHA256SUMS",
            "config.json",
            "diffusion_pytorch_model.safetensors"
        ]
    );
    assert_eq!(listing(folder.path()), ["export", "run"]);
    let total: usize = params()
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>() * 4)
        .sum();
    assert_eq!(heard.last(), Some(&(total as u64, total as u64)));
    assert!(heard.is_sorted());

    let weights = Weights::open(&to).unwrap();
    assert!(weights.unhashed().unwrap().is_empty());
    weights.verify_share(0, 1).unwrap();
    assert_eq!(
        weights.names(),
        [
            "out.weight",
            "patch.weight",
            "plain",
            "qkv.weight",
            "scale",
            "table"
        ]
    );
    assert_eq!(weights.shape("patch.weight").unwrap(), [5, 3, 1, 2, 2]);
    // Row 0 of the fused matrix is column 0 of the query, and row 3 that of the key.
    let qkv = whole(&weights, "qkv.weight");
    assert_eq!(qkv[..4], [0.0, 3.0, 6.0, 9.0]);
    assert_eq!(qkv[12..16], [12.0, 15.0, 18.0, 21.0]);

    let renamed = Renamed::new(weights, &params(), keys).unwrap();
    for (name, shape) in params() {
        assert_eq!(whole(&renamed, &name), whole(&source, &name), "{name}");
        assert_eq!(renamed.shape(&name).unwrap(), shape);
    }
    // A column of the right half is not one of the left.
    assert_eq!(
        f32s(&renamed.read("plain_right", &[1, 0], &[2, 1]).unwrap()).len(),
        2
    );
    assert!(renamed.read("plain_left", &[0, 2], &[1, 1]).is_err());
    assert!(renamed.read("left", &[3, 0], &[1, 1]).is_err());

    // What was read is a source to write too.
    let again = folder.path().join("again");
    write(&writer, &renamed, &again).unwrap();
    for name in listing(&to) {
        assert_eq!(
            fs::read(to.join(&name)).unwrap(),
            fs::read(again.join(&name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn several_files_have_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&folder.path().join("run"));
    let source = Prefixed::new(&checkpoint, "average/");
    let to = folder.path().join("export");
    let writer = Writer::new(Dtype::BF16).stem("model").largest_file(100);
    write(&writer, &source, &to).unwrap();
    assert_eq!(
        listing(&to),
        [
            "SHA256SUMS",
            "model-00001-of-00004.safetensors",
            "model-00002-of-00004.safetensors",
            "model-00003-of-00004.safetensors",
            "model-00004-of-00004.safetensors",
            "model.safetensors.index.json"
        ]
    );
    let weights = Weights::open(&to).unwrap();
    assert_eq!(weights.files().len(), 4);
    weights.verify_share(0, 1).unwrap();
    assert_eq!(weights.dtype("table").unwrap(), Dtype::BF16);
    let renamed = Renamed::new(weights, &params(), keys).unwrap();
    for (name, _) in params() {
        // Whole numbers below 256 are exact in BF16.
        let wanted: Vec<u8> = source
            .read_whole(&name)
            .unwrap()
            .chunks(4)
            .flat_map(|four| [four[2], four[3]])
            .collect();
        assert_eq!(renamed.read_whole(&name).unwrap(), wanted, "{name}");
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(to.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(
        index["metadata"]["total_size"],
        2 * (12 + 12 + 8 + 15 + 10 + 60 + 24 + 6 + 3 + 1)
    );
    assert_eq!(
        index["weight_map"]["table"],
        "model-00003-of-00004.safetensors"
    );
}

#[test]
fn a_single_file_has_metadata_and_a_line_in_the_sums() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&folder.path().join("run"));
    let source = Prefixed::new(&checkpoint, "average/");
    let to = folder.path().join("lora.safetensors");
    fs::write(
        folder.path().join("SHA256SUMS"),
        format!("{:064x}  other\n", 7),
    )
    .unwrap();
    let writer = Writer::new(Dtype::F16).metadata("lora_rank", "16");
    write(&writer, &source, &to).unwrap();
    let bytes = fs::read(&to).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(
        (metadata["format"].as_str(), metadata["lora_rank"].as_str()),
        ("pt", "16")
    );
    assert_eq!(
        safetensors::SafeTensors::deserialize(&bytes).unwrap().len(),
        6
    );
    Weights::open(&to).unwrap().verify_share(0, 1).unwrap();
    assert!(Weights::open(&to).unwrap().unhashed().unwrap().is_empty());
    let sums = fs::read_to_string(folder.path().join("SHA256SUMS")).unwrap();
    assert_says(&sums, &["  lora.safetensors\n", "7  other\n"]);

    let error = write(&writer, &source, &to).unwrap_err();
    assert_says(
        &error.to_string(),
        &["lora.safetensors is there already", "ask to overwrite"],
    );
    assert_eq!(fs::read(&to).unwrap(), bytes);
    write(
        &writer.clone().metadata("lora_rank", "8").overwrite(true),
        &source,
        &to,
    )
    .unwrap();
    assert_ne!(fs::read(&to).unwrap(), bytes);
    Weights::open(&to).unwrap().verify_share(0, 1).unwrap();
    assert_eq!(
        listing(folder.path()),
        ["SHA256SUMS", "lora.safetensors", "run"]
    );
}

#[test]
fn folders_of_others_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&folder.path().join("run"));
    let source = Prefixed::new(&checkpoint, "average/");
    let to = folder.path().join("export");
    let writer = Writer::new(Dtype::F32);
    fs::create_dir(&to).unwrap();
    // What a killed export left is in nobody's way.
    fs::create_dir(folder.path().join(".export.partial")).unwrap();
    fs::write(folder.path().join(".export.partial/w.safetensors"), "").unwrap();
    write(&writer, &source, &to).unwrap();
    assert!(matches!(
        write(&writer, &source, &to).unwrap_err(),
        CkptError::Exists { .. }
    ));
    write(&writer.clone().overwrite(true).stem("other"), &source, &to).unwrap();
    assert_eq!(listing(&to), ["SHA256SUMS", "other.safetensors"]);
    fs::write(to.join("thesis.tex"), "").unwrap();
    let error = write(&writer.overwrite(true), &source, &to).unwrap_err();
    assert_says(
        &error.to_string(),
        &["holds thesis.tex, which is not of an export"],
    );
    assert_eq!(listing(folder.path()), ["export", "run"]);
}

#[test]
fn exports_that_cannot_be_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&folder.path().join("run"));
    let source = Prefixed::new(&checkpoint, "average/");
    let to = folder.path().join("export");
    let writer = Writer::new(Dtype::F32);
    let failing = |params: &[(String, Vec<usize>)]| {
        writer
            .write(&source, params, keys, &to, |_, _| ())
            .unwrap_err()
            .to_string()
    };
    let mut less = params();
    less.retain(|(name, _)| name != "key");
    assert_says(
        &failing(&less),
        &[
            "[\"query\", \"value\"]",
            "qkv.weight [8, 4]",
            "20 of its 32",
        ],
    );
    let mut more = params();
    more.push(("other".to_owned(), vec![2]));
    assert_says(&failing(&more), &["tensor average/other is not in"]);
    let mut wide = params();
    wide[8].1 = vec![3, 4];
    assert_says(&failing(&wide), &["plain_right should have shape [3, 4]"]);
    let error = write(&writer, &checkpoint, &to).unwrap_err();
    assert!(matches!(error, CkptError::Missing { .. }), "{error}");
    assert_eq!(listing(folder.path()), ["run"]);
}
