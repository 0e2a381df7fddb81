//! Weights of other people's under our names and in our shapes.

use std::collections::BTreeMap;
use std::fmt;

use super::{Foreign, Weights};
use crate::manifest::{Stored, TensorEntry};
use crate::read::Index;
use crate::region::Region;
use crate::{CkptError, Dtype, TensorSource};

/// Weights as a model of ours wants them.
#[derive(Debug)]
pub struct Renamed {
    // Under our names; what is transposed here has the shape that it has there.
    index: Index,
    params: BTreeMap<String, Param>,
}

#[derive(Debug)]
struct Param {
    /// Ours.
    shape: Vec<usize>,
    /// For a matrix that lies transposed there: its first column.
    transposed: Option<usize>,
}

/// How a model's parameters and a file's tensors differ, tensor by tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenameError {
    /// Names that the model needs and the file lacks.
    pub missing: Vec<String>,
    /// Names, or rows of them, that the file has and the model does not know.
    pub extra: Vec<String>,
    /// Name, shape that the model needs, shape in the file.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Name and dtype of what are no floats.
    pub not_floats: Vec<(String, Dtype)>,
}

impl RenameError {
    /// How many tensors differ.
    pub fn count(&self) -> usize {
        self.missing.len() + self.extra.len() + self.misshapen.len() + self.not_floats.len()
    }
}

impl fmt::Display for RenameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![];
        lines.extend(self.missing.iter().map(|name| format!("missing: {name}")));
        lines.extend(
            self.extra
                .iter()
                .map(|name| format!("not of this model: {name}")),
        );
        lines.extend(self.misshapen.iter().map(|(name, wanted, found)| {
            format!("{name} has shape {found:?}, but this model needs {wanted:?}")
        }));
        let floats = self.not_floats.iter();
        lines.extend(
            floats.map(|(name, dtype)| format!("{name} holds {dtype}, which are no weights")),
        );
        f.write_str(&lines.join("\n  "))
    }
}

impl Renamed {
    /// Looks up the parameters of a model, (path, shape) each, in `weights`, where `keys` says.
    ///
    /// # Errors
    /// [`CkptError::Names`] with every tensor that is missing, extra or of another shape.
    pub fn new(
        weights: Weights,
        params: &[(String, Vec<usize>)],
        keys: impl Fn(&str, &[usize]) -> Foreign,
    ) -> Result<Self, CkptError> {
        let mut wrong = RenameError::default();
        // The shape of each tensor there, and how many of its elements are some parameter's.
        let mut used: BTreeMap<String, (Vec<usize>, usize)> = BTreeMap::new();
        let mut renamed: BTreeMap<String, (Vec<usize>, Foreign)> = BTreeMap::new();
        for (path, ours) in params {
            let foreign = keys(path, ours);
            let volume: usize = ours.iter().product();
            let entry = used.entry(foreign.name.clone());
            let known = entry.or_insert_with(|| (foreign.shape.clone(), 0));
            assert_eq!(known.0, foreign.shape, "two shapes for {}", foreign.name);
            known.1 += volume;
            renamed.insert(path.clone(), (ours.clone(), foreign));
        }
        for (name, (shape, volume)) in &used {
            let Some(entry) = weights.index.tensors.get(name) else {
                wrong.missing.push(name.clone());
                continue;
            };
            if entry.shape != *shape {
                let found = entry.shape.clone();
                wrong.misshapen.push((name.clone(), shape.clone(), found));
            } else if *volume != shape.iter().product::<usize>() {
                wrong.extra.push(format!("part of {name}"));
            }
            if !entry.dtype.is_float() {
                wrong.not_floats.push((name.clone(), entry.dtype));
            }
        }
        let names = weights.index.tensors.keys();
        let extra = names.filter(|name| !used.contains_key(*name));
        wrong.extra.extend(extra.cloned());
        if wrong.count() > 0 {
            return Err(CkptError::Names {
                path: weights.index.path,
                count: wrong.count(),
                wrong: Box::new(wrong),
            });
        }
        let view = |(path, (ours, foreign)): (String, (Vec<usize>, Foreign))| {
            let entry = &weights.index.tensors[&foreign.name];
            let (entry, param) = view(entry, ours, &foreign);
            ((path.clone(), entry), (path, param))
        };
        let (tensors, params) = renamed.into_iter().map(view).unzip();
        let Index { path, files, .. } = weights.index;
        let index = Index {
            path,
            files,
            tensors,
        };
        Ok(Self { index, params })
    }

    fn find(&self, name: &str) -> Result<&Param, CkptError> {
        // The index says what is like a name that is not there.
        self.index.find(name)?;
        Ok(&self.params[name])
    }
}

/// The part of a foreign tensor that is a parameter of shape `ours`, as a tensor of its own.
fn view(entry: &TensorEntry, ours: Vec<usize>, foreign: &Foreign) -> (TensorEntry, Param) {
    let whole: usize = foreign.shape.iter().product();
    let row = whole / foreign.shape.first().copied().unwrap_or(1).max(1);
    let shape = match foreign.transposed {
        true => vec![foreign.rows.len(), row],
        false => ours.clone(),
    };
    // A tensor of a plain file is one box.
    let first = &entry.boxes[0];
    let begin = first.begin + (foreign.rows.start * row * entry.dtype.size()) as u64;
    let stored = Stored {
        file: first.file,
        begin,
        region: Region::whole(&shape),
    };
    let entry = TensorEntry {
        shape,
        dtype: entry.dtype,
        boxes: vec![stored],
    };
    let column = foreign.columns.as_ref().map_or(0, |columns| columns.start);
    let param = Param {
        shape: ours,
        transposed: foreign.transposed.then_some(column),
    };
    (entry, param)
}

impl TensorSource for Renamed {
    fn names(&self) -> Vec<&str> {
        self.index.names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        Ok(&self.find(name)?.shape)
    }

    fn dtype(&self, name: &str) -> Result<Dtype, CkptError> {
        Ok(self.index.find(name)?.dtype)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        let Some(column) = self.find(name)?.transposed else {
            return self.index.read(name, offset, extent);
        };
        let (&[from, to], &[inputs, outputs]) = (offset, extent) else {
            unreachable!("only matrices are transposed, and the index checks boxes");
        };
        let there = self
            .index
            .read(name, &[to, column + from], &[outputs, inputs])?;
        Ok(transpose(
            &there,
            [outputs, inputs],
            self.dtype(name)?.size(),
        ))
    }
}

/// `[rows, columns]` elements of `size` bytes to `[columns, rows]`.
fn transpose(bytes: &[u8], [rows, columns]: [usize; 2], size: usize) -> Vec<u8> {
    // In squares, so that both sides stay within the processor's caches.
    const SIDE: usize = 32;
    let mut out = vec![0; bytes.len()];
    for top in (0..rows).step_by(SIDE) {
        for left in (0..columns).step_by(SIDE) {
            for row in top..rows.min(top + SIDE) {
                for column in left..columns.min(left + SIDE) {
                    let (from, to) = (
                        (row * columns + column) * size,
                        (column * rows + row) * size,
                    );
                    out[to..to + size].copy_from_slice(&bytes[from..from + size]);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use ::safetensors::tensor::{TensorView, serialize};

    fn weights(folder: &std::path::Path) -> Weights {
        let values = |n: u8| -> Vec<u8> { (0..n).flat_map(|i| [i, 100 + i]).collect() };
        let (qkv, out, conv) = (values(24), values(10), values(12));
        let dtype = ::safetensors::Dtype::BF16;
        let view = |shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let tensors = [
            ("qkv", view(&[6, 4], &qkv)),
            ("out", view(&[2, 5], &out)),
            ("conv", view(&[3, 2, 1, 2], &conv)),
        ];
        let path = folder.join("w.safetensors");
        fs::write(&path, serialize(tensors, None).unwrap()).unwrap();
        Weights::open(&path).unwrap()
    }

    fn params() -> Vec<(String, Vec<usize>)> {
        let params: [(&str, &[usize]); 6] = [
            ("q", &[4, 2]),
            ("k", &[4, 2]),
            ("v", &[4, 2]),
            ("left", &[3, 2]),
            ("right", &[2, 2]),
            ("patch", &[4, 3]),
        ];
        params
            .map(|(name, shape)| (name.to_owned(), shape.to_vec()))
            .to_vec()
    }

    fn keys(path: &str, shape: &[usize]) -> Foreign {
        match path {
            "q" => Foreign::linear("qkv", shape).rows(0, 6),
            "k" => Foreign::linear("qkv", shape).rows(2, 6),
            "v" => Foreign::linear("qkv", shape).rows(4, 6),
            "left" => Foreign::linear("out", shape).columns(0, 5),
            "right" => Foreign::linear("out", shape).columns(3, 5),
            _ => Foreign::linear("conv", shape).shaped(&[3, 2, 1, 2]),
        }
    }

    #[test]
    fn fused_transposed_and_folded_tensors_are_read_in_any_box() {
        let folder = tempfile::tempdir().unwrap();
        let renamed = Renamed::new(weights(folder.path()), &params(), keys).unwrap();
        let first = |bytes: Vec<u8>| bytes.into_iter().step_by(2).collect::<Vec<u8>>();
        // Row 2 and 3 there are columns here.
        assert_eq!(
            first(renamed.read_whole("k").unwrap()),
            [8, 12, 9, 13, 10, 14, 11, 15]
        );
        assert_eq!(
            first(renamed.read("v", &[1, 1], &[2, 1]).unwrap()),
            [21, 22]
        );
        assert_eq!(first(renamed.read_whole("right").unwrap()), [3, 8, 4, 9]);
        assert_eq!(
            first(renamed.read("left", &[1, 0], &[2, 2]).unwrap()),
            [1, 6, 2, 7]
        );
        assert_eq!(
            first(renamed.read("patch", &[3, 0], &[1, 3]).unwrap()),
            [3, 7, 11]
        );
        assert_eq!(renamed.shape("patch").unwrap(), [4, 3]);
        assert!(renamed.read("q", &[4, 0], &[1, 1]).is_err());
    }

    #[test]
    fn all_that_differs_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut params = params();
        params.retain(|(path, _)| path != "v" && path != "patch");
        params.push(("other".to_owned(), vec![2]));
        params[2].1 = vec![3, 1];
        params[3].1 = vec![2, 1];
        let keys = |path: &str, shape: &[usize]| match path {
            "other" => Foreign::same("other", shape),
            _ => keys(path, shape),
        };
        let error = Renamed::new(weights(folder.path()), &params, keys).unwrap_err();
        let text = error.to_string();
        for part in [
            "4 tensors",
            "missing: other",
            "not of this model: conv",
            "not of this model: part of qkv",
            "out has shape [2, 5], but this model needs [1, 5]",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let bytes: Vec<u8> = (0..70 * 41 * 2).map(|i| (i % 253) as u8).collect();
        let once = transpose(&bytes, [70, 41], 2);
        assert_eq!(once[2..4], bytes[82..84]);
        assert_eq!(transpose(&once, [41, 70], 2), bytes);
    }
}
