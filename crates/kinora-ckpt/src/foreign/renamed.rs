//! Weights of other people's under our names and in our shapes.

use std::collections::BTreeMap;
use std::fmt;

use super::layout::{self, Part, Place, Wanted, matrix};
use super::transpose::transpose;
use super::{Foreign, Weights};
use crate::manifest::{Stored, TensorEntry};
use crate::read::{Index, Opened};
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
    place: Place,
    /// Its first column there, unless it is the same.
    column: usize,
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
        let missing = self.missing.iter().map(|name| format!("missing: {name}"));
        some(&mut lines, missing);
        let extra = self.extra.iter();
        some(
            &mut lines,
            extra.map(|name| format!("not of this model: {name}")),
        );
        let misshapen = self.misshapen.iter().map(|(name, wanted, found)| {
            format!("{name} has shape {found:?}, but this model needs {wanted:?}")
        });
        some(&mut lines, misshapen);
        let floats = self.not_floats.iter();
        let floats =
            floats.map(|(name, dtype)| format!("{name} holds {dtype}, which are no weights"));
        some(&mut lines, floats);
        f.write_str(&lines.join("\n  "))
    }
}

/// Adds the first lines, and how many more of the same kind there are: another model differs in
/// thousands of tensors.
fn some(lines: &mut Vec<String>, kind: impl ExactSizeIterator<Item = String>) {
    const LINES: usize = 40;
    let more = kind.len().saturating_sub(LINES);
    lines.extend(kind.take(LINES));
    if more > 0 {
        lines.push(format!("and {more} more like these"));
    }
}

impl Renamed {
    /// Looks up the parameters of a model, (path, shape) each, in `weights`, where `keys` says.
    ///
    /// # Errors
    /// [`CkptError::Names`] with every tensor that is missing, extra or of another shape.
    ///
    /// # Panics
    /// If `keys` cannot be: two shapes for one tensor, or a place of another size than its parameter.
    pub fn new(
        weights: Weights,
        params: &[(String, Vec<usize>)],
        keys: impl Fn(&str, &[usize]) -> Foreign,
    ) -> Result<Self, CkptError> {
        let wanted = layout::wanted(params, &keys);
        let wrong = differences(&weights, &wanted);
        if wrong.count() > 0 {
            return Err(CkptError::Names {
                path: weights.index.path,
                count: wrong.count(),
                wrong: Box::new(wrong),
            });
        }
        Ok(Self::of(weights, wanted))
    }

    /// The parameters of a layout from which no tensor differs.
    pub(super) fn of(weights: Weights, wanted: BTreeMap<String, Wanted>) -> Self {
        let Index {
            path,
            files,
            tensors: found,
        } = weights.index;
        let (mut tensors, mut params) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in wanted {
            let entry = &found[&name];
            for part in tensor.parts {
                tensors.insert(part.path.clone(), view(entry, &tensor.shape, &part));
                let Part {
                    path,
                    ours,
                    place,
                    region,
                } = part;
                let column = region.offset[1];
                let param = Param {
                    shape: ours,
                    place,
                    column,
                };
                params.insert(path, param);
            }
        }
        let index = Index {
            path,
            files,
            tensors,
        };
        Self { index, params }
    }

    fn find(&self, name: &str) -> Result<&Param, CkptError> {
        // The index says what is like a name that is not there.
        self.index.find(name)?;
        Ok(&self.params[name])
    }

    /// Reads a box of a transposed matrix in strips of rows there, so that what is read waits in the
    /// processor's cache until it is turned.
    fn read_transposed(
        &self,
        name: &str,
        column: usize,
        offset: &[usize],
        extent: &[usize],
    ) -> Result<Vec<u8>, CkptError> {
        const STRIP: usize = 1 << 20;
        let shape = &self.params[name].shape;
        let wanted = Region::new(offset, extent);
        if !wanted.fits(shape) {
            return Err(CkptError::Outside {
                name: name.to_owned(),
                region: wanted.to_string(),
                shape: shape.clone(),
            });
        }
        let size = self.dtype(name)?.size();
        let (&[from, to], &[inputs, outputs]) = (offset, extent) else {
            unreachable!("only matrices are transposed, and the box fits");
        };
        let mut out = vec![0; wanted.volume() * size];
        if out.is_empty() {
            return Ok(out);
        }
        // Whole tiles; see transpose.rs.
        let strip = (STRIP / (inputs * size)).next_multiple_of(32).min(outputs);
        let mut there = vec![0; strip * inputs * size];
        let mut opened = Opened::default();
        for top in (0..outputs).step_by(strip) {
            let rows = strip.min(outputs - top);
            let there = &mut there[..rows * inputs * size];
            let region = Region::new(&[to + top, column + from], &[rows, inputs]);
            self.index.read_into(name, &region, there, &mut opened)?;
            transpose(there, rows, &mut out, (outputs, top), size);
        }
        Ok(out)
    }
}

/// How the tensors of a file differ from those of a layout.
pub(super) fn differences(weights: &Weights, wanted: &BTreeMap<String, Wanted>) -> RenameError {
    let mut wrong = RenameError::default();
    for (name, tensor) in wanted {
        let Some(entry) = weights.index.tensors.get(name) else {
            wrong.missing.push(name.clone());
            continue;
        };
        if entry.shape != tensor.shape {
            let (wanted, found) = (tensor.shape.clone(), entry.shape.clone());
            wrong.misshapen.push((name.clone(), wanted, found));
        } else if let Some(flaw) = tensor.flaw() {
            wrong.extra.push(format!("part of {name} ({flaw})"));
        }
        if !entry.dtype.is_float() {
            wrong.not_floats.push((name.clone(), entry.dtype));
        }
    }
    let names = weights.index.tensors.keys();
    let extra = names.filter(|name| !wanted.contains_key(*name));
    wrong.extra.extend(extra.cloned());
    wrong
}

/// The part of a foreign tensor that is a parameter of ours, as a tensor of its own: in our shape, or
/// as a matrix of whole rows, of which the parameter is some columns.
fn view(entry: &TensorEntry, shape: &[usize], part: &Part) -> TensorEntry {
    let [_, width] = matrix(shape);
    let shape = match part.place {
        Place::Same => part.ours.clone(),
        Place::Columns | Place::Transposed => vec![part.region.extent[0], width],
    };
    // A tensor of a foreign file is one box.
    let first = &entry.boxes[0];
    let before = part.region.offset[0] * width * entry.dtype.size();
    let stored = Stored {
        file: first.file,
        begin: first.begin + before as u64,
        region: Region::whole(&shape),
    };
    TensorEntry {
        shape,
        dtype: entry.dtype,
        boxes: vec![stored],
    }
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
        let param = self.find(name)?;
        match (param.place, offset) {
            (Place::Columns, &[row, column]) => {
                // The index would let a box of the neighbours' columns pass.
                let wanted = Region::new(offset, extent);
                if !wanted.fits(&param.shape) {
                    return Err(CkptError::Outside {
                        name: name.to_owned(),
                        region: wanted.to_string(),
                        shape: param.shape.clone(),
                    });
                }
                self.index.read(name, &[row, param.column + column], extent)
            }
            (Place::Transposed, _) => self.read_transposed(name, param.column, offset, extent),
            _ => self.index.read(name, offset, extent),
        }
    }
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
}
