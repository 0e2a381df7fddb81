//! Checkpoints cut one way and read another; and saves that are killed, damaged or wrong.

use std::fs;
use std::path::Path;

use kinora_ckpt::{Checkpoint, CkptError, Dtype, Piece, Saver, TensorSource, latest};
use proptest::prelude::*;
use serde_json::json;

/// Draws that depend on a seed alone (Knuth's multiplier; the high bits are the good ones).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

type Cut = (Vec<usize>, Vec<usize>);

/// Cuts a box in two, again and again, at random places: empty boxes and uneven ones included.
fn cut(draw: &mut Draw, offset: Vec<usize>, extent: Vec<usize>, depth: usize, out: &mut Vec<Cut>) {
    if depth == 0 || extent.is_empty() {
        out.push((offset, extent));
        return;
    }
    let d = draw.below(extent.len());
    let at = draw.below(extent[d] + 1);
    let (mut left, mut right) = (extent.clone(), extent);
    left[d] = at;
    right[d] -= at;
    let mut behind = offset.clone();
    behind[d] += at;
    cut(draw, offset, left, depth - 1, out);
    cut(draw, behind, right, depth - 1, out);
}

/// A whole tensor, to slice by walking over single elements.
#[derive(Clone)]
struct Whole {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Whole {
    fn draw(draw: &mut Draw, name: usize) -> Self {
        let dtypes = [
            Dtype::F64,
            Dtype::F32,
            Dtype::BF16,
            Dtype::F16,
            Dtype::I64,
            Dtype::I32,
            Dtype::U8,
        ];
        let dtype = dtypes[draw.below(dtypes.len())];
        let shape: Vec<usize> = (0..draw.below(5)).map(|_| draw.below(7)).collect();
        let n = shape.iter().product::<usize>() * dtype.size();
        let bytes = (0..n).map(|_| draw.below(256) as u8).collect();
        Self {
            name: format!("blocks.{name}.weight"),
            shape,
            dtype,
            bytes,
        }
    }

    fn slice(&self, offset: &[usize], extent: &[usize]) -> Vec<u8> {
        let size = self.dtype.size();
        let mut out = Vec::new();
        for flat in 0..extent.iter().product::<usize>() {
            let (mut rest, mut at, mut stride) = (flat, 0, 1);
            for d in (0..extent.len()).rev() {
                at += (offset[d] + rest % extent[d]) * stride;
                rest /= extent[d];
                stride *= self.shape[d];
            }
            out.extend(&self.bytes[at * size..(at + 1) * size]);
        }
        out
    }

    fn piece(&self, offset: &[usize], extent: &[usize]) -> Piece {
        Piece {
            name: self.name.clone(),
            shape: self.shape.clone(),
            offset: offset.to_vec(),
            extent: extent.to_vec(),
            dtype: self.dtype,
            bytes: self.slice(offset, extent),
        }
    }
}

/// Saves as a run does, rank after rank where ranks would meet at barriers.
fn save(
    root: &Path,
    step: u64,
    parts: &[Vec<Piece>],
    keep: usize,
) -> Result<Checkpoint, CkptError> {
    let savers: Vec<Saver> = (0..parts.len())
        .map(|rank| Saver::begin(root, step, rank))
        .collect::<Result<_, _>>()?;
    // The ranks write in no particular order.
    for (saver, part) in savers.iter().zip(parts).rev() {
        saver.write_part(part)?;
    }
    let first = savers.into_iter().next().expect("a run has a rank");
    Checkpoint::open(&first.commit(&json!({ "seed": 7, "samples": 1234 }), keep)?)
}

fn matrix(rows: usize, columns: usize) -> Whole {
    let bytes = (0..rows * columns * 4)
        .map(|i| (i * 7 % 253) as u8)
        .collect();
    Whole {
        name: "w".into(),
        shape: vec![rows, columns],
        dtype: Dtype::F32,
        bytes,
    }
}

/// A matrix cut into as many row bands as there are ranks.
fn bands(whole: &Whole, ranks: usize) -> Vec<Vec<Piece>> {
    let [rows, columns] = whole.shape[..] else {
        panic!("bands of a matrix")
    };
    (0..ranks)
        .map(|rank| {
            let (begin, end) = (rank * rows / ranks, (rank + 1) * rows / ranks);
            vec![whole.piece(&[begin, 0], &[end - begin, columns])]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_n_ranks_save_m_ranks_read(seed in any::<u64>(), ranks in 1..6usize, readers in 1..4usize) {
        let mut draw = Draw(seed);
        let tensors: Vec<Whole> = (0..1 + draw.below(4)).map(|i| Whole::draw(&mut draw, i)).collect();
        let mut parts = vec![Vec::new(); ranks];
        for tensor in &tensors {
            let mut cuts = Vec::new();
            let depth = draw.below(4);
            cut(&mut draw, vec![0; tensor.shape.len()], tensor.shape.clone(), depth, &mut cuts);
            // Equal empty boxes would be the same piece twice.
            cuts.sort();
            cuts.dedup();
            for (offset, extent) in &cuts {
                parts[draw.below(ranks)].push(tensor.piece(offset, extent));
            }
        }
        let root = tempfile::tempdir().unwrap();
        let read = save(root.path(), 500, &parts, 1).unwrap();
        read.verify().unwrap();
        prop_assert_eq!(read.names().len(), tensors.len());
        for tensor in &tensors {
            read.expect_shape(&tensor.name, &tensor.shape).unwrap();
            prop_assert_eq!(read.dtype(&tensor.name).unwrap(), tensor.dtype);
            prop_assert_eq!(&read.read_whole(&tensor.name).unwrap(), &tensor.bytes);
            let mut cuts = Vec::new();
            cut(&mut draw, vec![0; tensor.shape.len()], tensor.shape.clone(), readers, &mut cuts);
            for (offset, extent) in &cuts {
                let bytes = read.read(&tensor.name, offset, extent).unwrap();
                prop_assert_eq!(bytes, tensor.slice(offset, extent), "{:?} {:?}", offset, extent);
            }
        }
    }
}

#[test]
fn meta_step_and_summary_come_back() {
    let root = tempfile::tempdir().unwrap();
    let read = save(root.path(), 500, &bands(&matrix(5, 6), 2), 1).unwrap();
    assert_eq!(read.step(), 500);
    assert_eq!(read.meta()["samples"], 1234);
    assert!(root.path().join("step-00000500").is_dir());
    let summary = read.summary();
    assert!(
        summary.starts_with("step 500: 1 tensors (30 F32), 0.0 MB in 2 files"),
        "{summary}"
    );
    let mut files: Vec<_> = fs::read_dir(root.path().join("step-00000500"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "manifest.json",
            "rank-00000.safetensors",
            "rank-00001.safetensors"
        ]
    );
}

#[test]
fn a_killed_save_is_ignored_and_swept_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let parts = bands(&matrix(4, 4), 2);
    save(root.path(), 100, &parts, 9).unwrap();
    {
        let killed = Saver::begin(root.path(), 200, 0).unwrap();
        killed.write_part(&parts[0]).unwrap();
    }
    let partial = root.path().join(".step-00000200.partial");
    assert!(partial.join("rank-00000.safetensors").is_file());
    assert_eq!(
        latest(root.path()).unwrap(),
        Some(root.path().join("step-00000100"))
    );
    // The killed rank's part of step 200 must not enter the next save of step 200.
    let read = save(root.path(), 200, &[vec![], parts.concat()], 9).unwrap();
    assert_eq!(read.read_whole("w").unwrap(), matrix(4, 4).bytes);
    assert!(!partial.exists());
    assert_eq!(
        latest(root.path()).unwrap(),
        Some(root.path().join("step-00000200"))
    );
}

#[test]
fn saving_a_step_again_replaces_it() {
    let root = tempfile::tempdir().unwrap();
    save(root.path(), 100, &bands(&matrix(4, 4), 4), 1).unwrap();
    let mut other = matrix(4, 4);
    other.bytes.reverse();
    let read = save(root.path(), 100, &bands(&other, 2), 1).unwrap();
    assert_eq!(read.read_whole("w").unwrap(), other.bytes);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn only_so_many_checkpoints_are_kept() {
    let root = tempfile::tempdir().unwrap();
    for step in [100, 200, 300, 400] {
        save(root.path(), step, &bands(&matrix(4, 4), 2), 2).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000300", "step-00000400"]);
}

#[test]
fn damage_is_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("step-00000500");
    let file = path.join("rank-00001.safetensors");
    save(root.path(), 500, &bands(&matrix(4, 4), 2), 1).unwrap();
    let bytes = fs::read(&file).unwrap();

    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&file, &flipped).unwrap();
    let read = Checkpoint::open(&path).unwrap();
    let error = read.verify().unwrap_err();
    assert!(
        matches!(&error, CkptError::Corrupt { path, .. } if *path == file),
        "{error}"
    );
    read.verify_share(0, 2).unwrap();
    read.verify_share(1, 2).unwrap_err();

    fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    let expected = bytes.len() as u64;
    assert!(
        matches!(error, CkptError::Truncated { expected: e, found, .. } if e == expected && found == e - 3),
        "{error}"
    );

    fs::remove_file(&file).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("rank-00001.safetensors is missing"),
        "{error}"
    );

    fs::write(&file, &bytes).unwrap();
    let manifest = path.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for (from, to, says) in [
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"dtype\": \"F32\"", "\"dtype\": \"F64\"", "outside file"),
        ("\"step\"", "\"stop\"", "cannot be read"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&manifest, text.replace(from, to)).unwrap();
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{from}: {error}");
    }

    fs::remove_file(&manifest).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(matches!(error, CkptError::Torn { .. }), "{error}");
}

#[test]
fn the_root_of_checkpoints_is_not_one_and_the_error_says_which_is() {
    let root = tempfile::tempdir().unwrap();
    save(root.path(), 500, &bands(&matrix(4, 4), 1), 1).unwrap();
    let error = Checkpoint::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("step-00000500"), "{error}");
}

#[test]
fn holes_overlaps_and_quarrels_do_not_become_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let whole = matrix(4, 6);

    let error = save(
        root.path(),
        1,
        &[vec![whole.piece(&[0, 0], &[3, 6])], vec![]],
        1,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            CkptError::Hole {
                covered: 18,
                volume: 24,
                ..
            }
        ),
        "{error}"
    );

    let twice = [
        vec![whole.piece(&[0, 0], &[3, 6])],
        vec![whole.piece(&[2, 0], &[2, 6])],
    ];
    let error = save(root.path(), 1, &twice, 1).unwrap_err();
    assert!(
        matches!(
            error,
            CkptError::Overlap {
                rank_one: 0,
                rank_other: 1,
                ..
            }
        ),
        "{error}"
    );

    let mut quarrel = bands(&whole, 2);
    quarrel[1][0].dtype = Dtype::I32;
    let error = save(root.path(), 1, &quarrel, 1).unwrap_err();
    assert!(
        matches!(
            error,
            CkptError::Disagree {
                rank_one: 0,
                rank_other: 1,
                ..
            }
        ),
        "{error}"
    );

    assert_eq!(latest(root.path()).unwrap(), None);
}

#[test]
fn a_rank_that_does_not_wait_for_rank_0_is_told_so() {
    let root = tempfile::tempdir().unwrap();
    let early = Saver::begin(root.path(), 1, 3).unwrap();
    let error = early.write_part(&[]).unwrap_err();
    assert!(
        matches!(error, CkptError::NotBegun { rank: 3, .. }),
        "{error}"
    );
}

#[test]
fn wrong_names_shapes_and_boxes_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut whole = matrix(4, 6);
    whole.name = "blocks.0.attn.query".into();
    let read = save(root.path(), 1, &bands(&whole, 2), 1).unwrap();

    let error = read.read_whole("blocks.0.attn.qeury").unwrap_err();
    assert!(matches!(error, CkptError::Missing { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("nearest name is blocks.0.attn.query"),
        "{error}"
    );

    let error = read
        .expect_shape("blocks.0.attn.query", &[4, 8])
        .unwrap_err();
    assert!(
        matches!(&error, CkptError::Shape { wanted, found, .. } if wanted[1] == 8 && found[1] == 6),
        "{error}"
    );

    for (offset, extent) in [
        (vec![0, 1], vec![4, 6]),
        (vec![0], vec![4]),
        (vec![5, 0], vec![0, 0]),
    ] {
        let error = read
            .read("blocks.0.attn.query", &offset, &extent)
            .unwrap_err();
        assert!(matches!(error, CkptError::Outside { .. }), "{error}");
    }
}
