//! Files with bytes changed, cut and inserted, and headers that lie: each ends in weights that can be
//! read or in an error, never in a panic or in memory without bounds.
//!
//! `KINORA_MUTATIONS` sets the number of mutations of each file (2000).

use std::fs;
use std::path::Path;

use kinora_ckpt::{Foreign, Renamed, TensorSource, Weights};

use super::pytorch::{archive, pickle};
use super::{assert_says, fixture, numbers, refusal, write};

/// Draws that depend on a seed alone (Knuth's multiplier; the high bits are the good ones).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }
}

/// One to three changes: a byte, a length of all ones, a cut, bytes twice.
fn mutate(draw: &mut Draw, bytes: &mut Vec<u8>) {
    for _ in 0..=draw.below(3) {
        let at = draw.below(bytes.len());
        match draw.below(6) {
            0 => bytes[at] ^= 1 << draw.below(8),
            1 => bytes[at] = draw.below(256) as u8,
            2 => {
                let end = bytes.len().min(at + [2, 4, 8][draw.below(3)]);
                let with = [0xff, 0x7f, 0][draw.below(3)];
                bytes[at..end].fill(with);
            }
            3 => bytes.truncate(at.max(1)),
            4 => {
                let end = bytes.len().min(at + 1 + draw.below(40));
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let end = bytes.len().min(at + 1 + draw.below(20));
                bytes.drain(at..end);
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
        }
    }
}

/// Megabytes of address space that this process ever had, where the system tells.
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? / 1024)
}

#[test]
fn mutated_files_end_in_weights_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write(
        &path,
        &[
            ("a.weight", &[2, 3]),
            ("b", &[]),
            ("c", &[0, 4]),
            ("d", &[7]),
        ],
        0,
    );
    let entries: &[(&str, &[u8])] = &[("w/data.pkl", &pickle(8, 2)), ("w/data/0", &numbers(8, 10))];
    let index = br#"{"metadata": {"total_size": 4}, "weight_map": {"a": "other.safetensors", "b": "other.safetensors"}}"#;
    write(
        &folder.path().join("other.safetensors"),
        &[("a", &[2]), ("b", &[2])],
        0,
    );
    let files = [
        ("w.safetensors", fs::read(&path).unwrap()),
        ("nested.pth", fs::read(fixture("nested.pth")).unwrap()),
        ("two.pth", fs::read(fixture("two.pth")).unwrap()),
        ("evil.pth", fs::read(fixture("evil.pth")).unwrap()),
        ("narrow.pth", archive(entries, false)),
        ("wide.pth", archive(entries, true)),
        ("w.safetensors.index.json", index.to_vec()),
    ];
    let count = std::env::var("KINORA_MUTATIONS").map_or(2000, |text| text.parse().unwrap());
    let before = peak();
    let (mut read, mut refused) = (0, 0);
    for (name, whole) in &files {
        let mut draw = Draw(name.len() as u64);
        for _ in 0..count {
            let mut bytes = whole.clone();
            mutate(&mut draw, &mut bytes);
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            match Weights::open(&path) {
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(
                        text.contains("help: ") || text.starts_with("cannot "),
                        "{text}"
                    );
                }
                Ok(weights) => {
                    read += 1;
                    for name in weights.names() {
                        let bytes = weights.read_whole(name).unwrap();
                        let n: usize = weights.shape(name).unwrap().iter().product();
                        assert_eq!(bytes.len(), n * weights.dtype(name).unwrap().size());
                    }
                }
            }
        }
    }
    assert!(
        read > count / 20 && refused > count,
        "{read} were read and {refused} refused"
    );
    match before.zip(peak()) {
        Some((before, after)) => assert!(after - before < 512, "{before} MB to {after} MB"),
        None => eprintln!("this system does not tell how much memory a process had: not checked"),
    }
}

/// A safetensors file of a header and so many bytes.
fn plain(path: &Path, header: &str, bytes: usize) {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + bytes, 0);
    fs::write(path, out).unwrap();
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensor = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let huge = u64::MAX;
    let headers = [
        // Overlap, a gap, the wrong length, more than the file has, and what overflows.
        (
            format!(
                "{{{},{}}}",
                tensor("a", "F32", "[2]", 0, 8),
                tensor("b", "F32", "[2]", 4, 12)
            ),
            12,
        ),
        (
            format!(
                "{{{},{}}}",
                tensor("a", "F32", "[2]", 0, 8),
                tensor("b", "F32", "[1]", 12, 16)
            ),
            16,
        ),
        (format!("{{{}}}", tensor("a", "F32", "[3]", 0, 8)), 8),
        (format!("{{{}}}", tensor("a", "F32", "[200]", 0, 800)), 8),
        (
            format!("{{{}}}", tensor("a", "U8", &format!("[{huge}]"), 0, huge)),
            8,
        ),
        (
            format!(
                "{{{}}}",
                tensor("a", "F32", "[4294967296,4294967296,4]", 0, 0)
            ),
            0,
        ),
        (format!("{{{}}}", tensor("a", "F32", "[-1]", 0, 4)), 4),
        ("[]".to_owned(), 0),
        ("{".to_owned(), 0),
    ];
    for (header, bytes) in headers {
        plain(&path, &header, bytes);
        assert_says(&refusal(&path), &["w.safetensors", "help: "]);
    }
    for dtype in ["F8_E4M3", "F8_E5M2"] {
        plain(
            &path,
            &format!("{{{}}}", tensor("a", dtype, "[2]", 0, 2)),
            2,
        );
        assert_says(
            &refusal(&path),
            &[&format!("tensor a is {dtype}"), "BF16 or F16 weights"],
        );
    }
    fs::write(&path, [0xff; 64]).unwrap();
    assert_says(
        &refusal(&path),
        &["its header would be 18446744073709551615 bytes of 64"],
    );
}

#[test]
fn integers_are_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    plain(
        &path,
        r#"{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#,
        8,
    );
    let weights = Weights::open(&path).unwrap();
    let params = [("a".to_owned(), vec![2])];
    let error = Renamed::new(weights, &params, |path, shape| Foreign::same(path, shape));
    assert_says(
        &error.unwrap_err().to_string(),
        &["a holds I32, which are no weights"],
    );
}
