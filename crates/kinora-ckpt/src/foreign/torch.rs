//! The tensors of a file of `torch.save`: a zip archive of `data.pkl`, which names them, and
//! `data/0`, `data/1` ..., which hold their storages. Nothing in the file is run.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::archive::Archive;
use super::pickle::{self, Fault, Id, Tensor, Value, Values};
use super::safetensors::other_dtype;
use crate::manifest::{Stored, TensorEntry};
use crate::read::Index;
use crate::region::{Region, volume};
use crate::{CkptError, Dtype};

/// The longest pickle that is believed; that of 1,000 tensors has 150 kB.
const LONGEST_PICKLE: u64 = 16 << 20;
/// Dicts within dicts.
const DEPTH: usize = 16;
const LONGEST_NAME: usize = 1024;
const VALUES: usize = 1_000_000;
const TENSORS: usize = 100_000;

/// Reads what a file holds, and where.
///
/// # Errors
/// [`CkptError::Format`] when it is damaged or holds anything but a state dict of contiguous tensors;
/// [`CkptError::Io`].
pub(super) fn index(path: &Path) -> Result<Index, CkptError> {
    let bad = |what: String, help: &str| CkptError::format(path, what, help);
    let archive = Archive::open(path)?;
    let roots: Vec<&str> = archive.names().filter_map(root).collect();
    let &[root] = &roots[..] else {
        let what = format!("it is a zip archive with {} files data.pkl", roots.len());
        return Err(bad(
            what,
            "name a file that torch.save wrote, or a safetensors file",
        ));
    };
    let constants = format!("{root}constants.pkl");
    if archive.names().any(|name| name == constants) {
        let what = "it is a TorchScript program".to_owned();
        return Err(bad(
            what,
            "in PyTorch, save torch.jit.load(path).state_dict() with torch.save",
        ));
    }
    if archive
        .read(&format!("{root}byteorder"), 16)?
        .is_some_and(|order| order == b"big")
    {
        let what = "its numbers are big endian".to_owned();
        return Err(bad(what, "save it on a machine that is little endian"));
    }
    let text = archive.read(&format!("{root}data.pkl"), LONGEST_PICKLE)?;
    let text = text.unwrap_or_default();
    let values = pickle::read(&text).map_err(|Fault { what, help }| bad(what, help))?;
    let named = tensors(&values).map_err(|Fault { what, help }| bad(what, help))?;

    let mut storages: HashMap<&str, (u64, u64)> = HashMap::new();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in named {
        let dtype = dtype(tensor.dtype).ok_or_else(|| {
            let kind = tensor.dtype.trim_end_matches("Storage");
            bad(format!("tensor {name} is {kind}"), &other_dtype(kind))
        })?;
        if !contiguous(tensor) {
            let what = format!(
                "tensor {name} {:?} lies with strides {:?}",
                tensor.shape, tensor.strides
            );
            return Err(bad(
                what,
                "in PyTorch, call contiguous() on it and save it again",
            ));
        }
        let place = match storages.get(tensor.storage) {
            Some(place) => *place,
            None => {
                let entry = format!("{root}data/{}", tensor.storage);
                let place = archive.place(&entry)?.ok_or_else(|| {
                    bad(
                        format!("tensor {name} lies in {entry}, which is not there"),
                        "download the file again",
                    )
                })?;
                storages.insert(tensor.storage, place);
                place
            }
        };
        let (begin, bytes) = place;
        let size = dtype.size() as u64;
        // Every storage that has no type counts bytes.
        let width = if tensor.dtype.ends_with("Storage") {
            size
        } else {
            1
        };
        let length = (tensor.length as u64)
            .checked_mul(width)
            .filter(|&length| length <= bytes);
        let first = (tensor.offset as u64).checked_mul(size);
        let all = (volume(&tensor.shape) as u64).checked_mul(size);
        let end = first
            .zip(all)
            .and_then(|(first, all)| first.checked_add(all));
        let fits = length.zip(end).is_some_and(|(length, end)| end <= length);
        let (Some(first), true) = (first, fits) else {
            let what = format!(
                "tensor {name} {:?} leaves its storage of {bytes} bytes",
                tensor.shape
            );
            return Err(bad(what, "download the file again"));
        };
        let stored = Stored {
            file: 0,
            begin: begin + first,
            region: Region::whole(&tensor.shape),
        };
        let entry = TensorEntry {
            shape: tensor.shape.clone(),
            dtype,
            boxes: vec![stored],
        };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(bad(
                format!("it has two tensors {name}"),
                "save the state dict again",
            ));
        }
    }
    let path = path.to_path_buf();
    Ok(Index {
        files: vec![path.clone()],
        path,
        tensors,
    })
}

/// The folder of an archive, if the name is that of its pickle.
fn root(name: &str) -> Option<&str> {
    let root = name.strip_suffix("data.pkl")?;
    let inside = root
        .strip_suffix('/')
        .is_some_and(|folder| !folder.contains('/'));
    (root.is_empty() || inside).then_some(root)
}

fn dtype(name: &str) -> Option<Dtype> {
    match name {
        "DoubleStorage" | "float64" => Some(Dtype::F64),
        "FloatStorage" | "float32" => Some(Dtype::F32),
        "BFloat16Storage" | "bfloat16" => Some(Dtype::BF16),
        "HalfStorage" | "float16" => Some(Dtype::F16),
        "LongStorage" | "int64" => Some(Dtype::I64),
        "IntStorage" | "int32" => Some(Dtype::I32),
        "ByteStorage" | "uint8" => Some(Dtype::U8),
        _ => None,
    }
}

/// Whether the elements follow each other in row-major order.
fn contiguous(tensor: &Tensor<'_>) -> bool {
    if tensor.shape.contains(&0) {
        return true;
    }
    let mut step = 1_usize;
    for (&n, &stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        // A single step is never taken, and may be of any length.
        if n != 1 && stride != step {
            return false;
        }
        step = step.saturating_mul(n);
    }
    true
}

/// The tensors of a state dict by name. Where one key holds all of them, such as `module` or
/// `state_dict`, it is not part of their names; the keys of other nested dicts are joined by dots.
fn tensors<'a>(values: &'a Values<'_>) -> Result<Vec<(String, &'a Tensor<'a>)>, Fault> {
    let mut root = values.root;
    let mut search = Search {
        values,
        met: 0,
        found: vec![],
    };
    search.visit(root, &mut String::new(), 0)?;
    if search.found.is_empty() {
        return Err(Fault {
            what: "it holds no tensor".to_owned(),
            help: "name the file that holds the model's weights",
        });
    }
    let mut found = search.found;
    for _ in 0..DEPTH {
        // The key that all names begin with is one of this dict's.
        let Value::Dict(items) = &values.all[root as usize] else {
            break;
        };
        let mut holder = None;
        for &(key, value) in items {
            let (Value::Text(key), Value::Dict(_)) =
                (&values.all[key as usize], &values.all[value as usize])
            else {
                continue;
            };
            let start = format!("{key}.");
            if found.iter().all(|(name, _)| name.starts_with(&start)) {
                holder = Some((start.len(), value));
            }
        }
        let Some((length, value)) = holder else {
            break;
        };
        for (name, _) in &mut found {
            name.drain(..length);
        }
        root = value;
    }
    Ok(found)
}

struct Search<'a, 'v> {
    values: &'a Values<'v>,
    /// Values met so far: parts that lie in several places, again and again, could be without end.
    met: usize,
    found: Vec<(String, &'a Tensor<'a>)>,
}

impl<'a, 'v: 'a> Search<'a, 'v> {
    fn visit(&mut self, id: Id, name: &mut String, depth: usize) -> Result<(), Fault> {
        let fault = |what: String| Fault {
            what,
            help: "in PyTorch, save only the model's state dict: torch.save(model.state_dict(), path)",
        };
        let values = self.values;
        let value = &values.all[id as usize];
        self.met += 1;
        if depth > DEPTH || self.met > VALUES {
            let start: String = name.chars().take(100).collect();
            let what =
                format!("{start} lies more than {DEPTH} deep, or it has more than {VALUES} values");
            return Err(fault(what));
        }
        let length = name.len();
        let mut enter = |key: &dyn std::fmt::Display, value: Id| {
            use std::fmt::Write as _;
            let dot = if length == 0 { "" } else { "." };
            write!(name, "{dot}{key}").expect("a text takes what is written");
            if name.len() > LONGEST_NAME {
                return Err(fault(format!("a name in it has {} letters", name.len())));
            }
            self.visit(value, name, depth + 1)?;
            name.truncate(length);
            Ok(())
        };
        match value {
            Value::Tensor(tensor) => {
                if self.found.len() >= TENSORS {
                    return Err(fault(format!("it holds more than {TENSORS} tensors")));
                }
                self.found.push((name.clone(), tensor));
            }
            Value::Dict(items) => {
                for &(key, value) in items {
                    match &values.all[key as usize] {
                        Value::Text(key) => enter(key, value)?,
                        Value::Number(key) => enter(key, value)?,
                        _ => {}
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (i, &value) in items.iter().enumerate() {
                    enter(&i, value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
