//! Which layout a file has, and what is said of files that have none.

use std::path::Path;

use kinora_ckpt::{CkptError, Foreign, TensorSource, Weights, which};

use super::{assert_says, write};

fn params() -> Vec<(String, Vec<usize>)> {
    let param = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
    (0..4)
        .flat_map(|i| {
            [
                param(&format!("blocks.{i}.query"), &[2, 3]),
                param(&format!("blocks.{i}.bias"), &[3]),
            ]
        })
        .collect()
}

fn short(path: &str, shape: &[usize]) -> Foreign {
    let name = path.replace("query", "q.weight").replace("bias", "q.bias");
    match shape {
        [_, _] => Foreign::linear(name, shape),
        _ => Foreign::same(name, shape),
    }
}

fn long(path: &str, shape: &[usize]) -> Foreign {
    Foreign {
        name: short(path, shape).name.replace("q.", "attn.to_q."),
        ..short(path, shape)
    }
}

/// Names and shapes as `keys` has them, each name changed.
fn file(
    path: &Path,
    keys: fn(&str, &[usize]) -> Foreign,
    change: impl Fn(usize, String) -> String,
) {
    let tensors: Vec<(String, Vec<usize>)> = params()
        .iter()
        .enumerate()
        .map(|(i, (path, shape))| {
            let foreign = keys(path, shape);
            (change(i, foreign.name), foreign.shape)
        })
        .collect();
    let tensors: Vec<(&str, &[usize])> = tensors
        .iter()
        .map(|(name, shape)| (name.as_str(), shape.as_slice()))
        .collect();
    write(path, &tensors, 0);
}

fn open(path: &Path) -> Result<&'static str, CkptError> {
    let weights = Weights::open(path).unwrap();
    let (name, renamed) = which(weights, &params(), &[("short", &short), ("long", &long)])?;
    assert_eq!(renamed.names().len(), 8);
    assert_eq!(renamed.shape("blocks.0.query").unwrap(), [2, 3]);
    renamed.read_whole("blocks.3.query").unwrap();
    Ok(name)
}

#[test]
fn the_layout_that_fits_is_taken_with_or_without_wrappers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let prefixes = [
        "",
        "model.diffusion_model.",
        "diffusion_model.",
        "module.",
        "model.",
        "module.model.",
    ];
    for prefix in prefixes {
        file(&path, short, |_, name| format!("{prefix}{name}"));
        assert_eq!(open(&path).unwrap(), "short", "{prefix}");
        file(&path, long, |_, name| format!("{prefix}{name}"));
        assert_eq!(open(&path).unwrap(), "long", "{prefix}");
    }
}

#[test]
fn the_nearest_layout_and_what_the_file_seems_to_be_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let told = || {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, CkptError::Layout { .. }), "{error}");
        error.to_string()
    };
    file(&path, long, |i, name| {
        if i == 3 {
            "blocks.1.odd".to_owned()
        } else {
            name
        }
    });
    assert_says(
        &told(),
        &[
            "nearest to long, from which 2 tensors differ",
            "missing: blocks.1.attn.to_q.bias",
            "not of this model: blocks.1.odd",
            "help: the file is nearly of this layout",
        ],
    );
    let lora = |i: usize, _| format!("blocks.{}.q.lora_{}.weight", i / 2, ["A", "B"][i % 2]);
    file(&path, short, lora);
    assert_says(&told(), &["help: these are LoRA weights"]);
    let lora = |i: usize, _| {
        format!(
            "diffusion_model.blocks.{}.q.lora_{}.weight",
            i / 2,
            ["up", "down"][i % 2]
        )
    };
    file(&path, short, lora);
    assert_says(&told(), &["help: these are LoRA weights"]);
    let both = |i: usize, name: String| match i {
        0..6 => format!("model.diffusion_model.{name}"),
        _ => format!("first_stage_model.{name}"),
    };
    file(&path, short, both);
    assert_says(
        &told(),
        &[
            "6 of 8 names begin with model.diffusion_model.",
            "Weights::under",
        ],
    );
    write(&path, &[("a", &[1])], 0);
    assert_says(&told(), &["help: name the file of this model"]);
    write(&path, &[], 0);
    assert_says(&told(), &["holds no tensor"]);
    let wide =
        |path: &str, shape: &[usize]| short(path, &shape.iter().map(|n| n * 2).collect::<Vec<_>>());
    file(&path, wide, |_, name| name);
    assert_says(
        &told(),
        &[
            "has shape [6, 4], but this model needs [3, 2]",
            "this model's size",
        ],
    );
}

#[test]
fn thousands_of_differences_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let names: Vec<String> = (0..300).map(|i| format!("other.{i}")).collect();
    let tensors: Vec<(&str, &[usize])> =
        names.iter().map(|name| (name.as_str(), &[1][..])).collect();
    write(&path, &tensors, 0);
    let text = open(&path).unwrap_err().to_string();
    assert_says(&text, &["308 tensors differ", "and 260 more like these"]);
    assert!(text.lines().count() < 60);
}
