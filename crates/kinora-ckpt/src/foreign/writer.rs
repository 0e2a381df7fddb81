//! Writing our parameters as other people's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::layout::{self, Wanted, matrix};
use super::{Foreign, fill, hashes};
use crate::region::volume;
use crate::{CkptError, Dtype, TensorSource, folder, part};

/// What Hugging Face's libraries write into one file at most.
const LARGEST_FILE: u64 = 5_000_000_000;
/// Tensors are made and written in strips of about so many bytes.
const STRIP: usize = 32 << 20;

/// How to write a model under foreign names, in foreign shapes: safetensors, in one file or several.
#[derive(Clone, Debug)]
pub struct Writer {
    dtype: Dtype,
    stem: String,
    largest_file: u64,
    overwrite: bool,
    metadata: BTreeMap<String, String>,
    beside: BTreeMap<String, Vec<u8>>,
}

/// Bytes of a file on their way to the disk, and their hash.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Writer {
    /// Writes in a dtype of floats: BF16, F16, F32 or F64. Numbers are rounded to the nearest.
    ///
    /// # Panics
    /// If `dtype` is one of integers.
    pub fn new(dtype: Dtype) -> Self {
        assert!(dtype.is_float(), "weights are no {dtype}");
        Self {
            dtype,
            stem: "diffusion_pytorch_model".to_owned(),
            largest_file: LARGEST_FILE,
            overwrite: false,
            metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
            beside: BTreeMap::new(),
        }
    }

    /// What the files of a folder are called; `diffusion_pytorch_model` unless told, as diffusers looks
    /// for it; transformers looks for `model`.
    pub fn stem(mut self, stem: impl Into<String>) -> Self {
        self.stem = stem.into();
        self
    }

    /// How many bytes of tensors a file of a folder holds at most, unless one tensor has more:
    /// 5 GB unless told.
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.largest_file = bytes;
        self
    }

    /// Whether what is there may be replaced; it may not unless told.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Adds to the metadata in the header of each file, such as the rank of a LoRA. `format` is `pt`
    /// unless told.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a small file to a folder, such as `config.json`.
    pub fn beside(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.beside.insert(name.into(), bytes.into());
        self
    }

    /// Writes the parameters `params`, (path, shape) each, of `source` where `keys` says, and returns
    /// the file or folder. Tensors that hold several parameters are put together, those that lie
    /// transposed are turned.
    ///
    /// If `to` ends in `.safetensors` it is one file; otherwise a folder of files of at most
    /// [`largest_file`](Self::largest_file) bytes, with Hugging Face's index if there are several.
    /// `SHA256SUMS` lies beside. All is written under a hidden name and renamed when the disk has it.
    /// `progress` hears how many bytes of how many are written.
    ///
    /// # Errors
    /// [`CkptError::Exists`]; [`CkptError::Missing`] and [`CkptError::Shape`] when `source` is not of
    /// this model; [`CkptError::Joined`] when parameters of a tensor are left out; [`CkptError::Range`]
    /// for numbers that the dtype cannot hold; [`CkptError::Io`].
    ///
    /// # Panics
    /// If `keys` cannot be (see [`Renamed::new`](crate::Renamed::new)), a parameter holds no floats, or
    /// the stem or a file beside is not a plain name.
    pub fn write(
        &self,
        source: &dyn TensorSource,
        params: &[(String, Vec<usize>)],
        keys: impl Fn(&str, &[usize]) -> Foreign,
        to: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<PathBuf, CkptError> {
        for (path, shape) in params {
            source.expect_shape(path, shape)?;
            let dtype = source.dtype(path)?;
            assert!(
                dtype.is_float(),
                "{path} holds {dtype}, which are no weights"
            );
        }
        let wanted = layout::wanted(params, &keys);
        for (name, tensor) in &wanted {
            if let Some(what) = tensor.flaw() {
                return Err(CkptError::Joined {
                    name: name.clone(),
                    shape: tensor.shape.clone(),
                    parts: tensor.parts.iter().map(|part| part.path.clone()).collect(),
                    what,
                });
            }
        }
        let total = wanted.values().map(|tensor| self.bytes(tensor)).sum();
        let mut done = 0;
        let mut told = |bytes: u64| {
            done += bytes;
            progress(done, total);
        };
        if to.extension().is_some_and(|ending| ending == "safetensors") {
            self.write_file(source, &wanted, to, &mut told)?;
        } else {
            self.write_folder(source, &wanted, to, &mut told)?;
        }
        Ok(to.to_path_buf())
    }

    fn bytes(&self, tensor: &Wanted) -> u64 {
        (volume(&tensor.shape) * self.dtype.size()) as u64
    }

    fn write_file(
        &self,
        source: &dyn TensorSource,
        wanted: &BTreeMap<String, Wanted>,
        to: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), CkptError> {
        assert!(self.beside.is_empty(), "a single file has none beside it");
        if to.is_dir() || to.exists() && !self.overwrite {
            return Err(exists(to));
        }
        let (parent, hidden) = hidden(to)?;
        let tensors: Vec<(&String, &Wanted)> = wanted.iter().collect();
        let hash = self.tensors(source, &tensors, &hidden, told)?;
        // The old sum goes before the old file: a wrong sum would be worse than none.
        let list = parent.join(hashes::SUMS);
        let name = to
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut sums: BTreeMap<_, _> = hashes::read_sums(&list)?.into_iter().collect();
        if sums.remove(&name).is_some() {
            write_sums(&list, &sums)?;
        }
        fs::rename(&hidden, to).map_err(CkptError::io("rename", &hidden))?;
        sums.insert(name, hash);
        write_sums(&list, &sums)?;
        folder::sync(&parent)
    }

    fn write_folder(
        &self,
        source: &dyn TensorSource,
        wanted: &BTreeMap<String, Wanted>,
        to: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), CkptError> {
        let there = self.replaceable(to)?;
        let (parent, hidden) = hidden(to)?;
        fs::create_dir(&hidden).map_err(CkptError::io("create", &hidden))?;
        let files = self.divide(wanted);
        let mut sums = BTreeMap::new();
        let mut weight_map = Map::new();
        for (i, tensors) in files.iter().enumerate() {
            let name = match files.len() {
                1 => format!("{}.safetensors", self.stem),
                n => format!("{}-{:05}-of-{n:05}.safetensors", self.stem, i + 1),
            };
            let hash = self.tensors(source, tensors, &hidden.join(&name), told)?;
            for (tensor, _) in tensors {
                weight_map.insert((*tensor).clone(), json!(name));
            }
            sums.insert(name, hash);
        }
        let mut beside = self.beside.clone();
        if files.len() > 1 {
            let total: u64 = wanted.values().map(|tensor| self.bytes(tensor)).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            let text = format!("{index:#}\n").into_bytes();
            beside.insert(format!("{}.safetensors.index.json", self.stem), text);
        }
        for (name, bytes) in &beside {
            let plain = Path::new(name)
                .file_name()
                .is_some_and(|plain| plain == name.as_str());
            assert!(
                plain && !sums.contains_key(name),
                "{name} cannot lie beside the weights"
            );
            part::write_synced(&hidden.join(name), bytes)?;
            sums.insert(name.clone(), hashes::hex(Sha256::new_with_prefix(bytes)));
        }
        write_sums(&hidden.join(hashes::SUMS), &sums)?;
        folder::sync(&hidden)?;
        if there {
            let aside = hidden.with_extension("old");
            remove(&aside)?;
            fs::rename(to, &aside).map_err(CkptError::io("rename", to))?;
            fs::rename(&hidden, to).map_err(CkptError::io("rename", &hidden))?;
            remove(&aside)?;
        } else {
            fs::rename(&hidden, to).map_err(CkptError::io("rename", &hidden))?;
        }
        folder::sync(&parent)
    }

    /// Whether a folder is there, and may be replaced: if it holds anything but weights, somebody wants
    /// to keep it.
    fn replaceable(&self, to: &Path) -> Result<bool, CkptError> {
        if !to.exists() {
            return Ok(false);
        }
        if !to.is_dir() {
            return Err(exists(to));
        }
        let mut names = vec![];
        for entry in fs::read_dir(to).map_err(CkptError::io("list", to))? {
            let entry = entry.map_err(CkptError::io("list", to))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        if !names.is_empty() && !self.overwrite {
            return Err(exists(to));
        }
        let ours = |name: &String| {
            let ending = [".safetensors", ".safetensors.index.json"];
            ending.iter().any(|ending| name.ends_with(ending))
                || name == hashes::SUMS
                || name == "config.json"
                || self.beside.contains_key(name)
        };
        match names.iter().find(|name| !ours(name)) {
            None => Ok(true),
            Some(other) => Err(CkptError::Exists {
                path: to.to_path_buf(),
                what: format!(", and holds {other}, which is not of an export"),
                help: "name a folder that is not there yet",
            }),
        }
    }

    /// Fills file after file with tensors in the order of their names.
    fn divide<'a>(
        &self,
        wanted: &'a BTreeMap<String, Wanted>,
    ) -> Vec<Vec<(&'a String, &'a Wanted)>> {
        let mut files = vec![vec![]];
        let mut filled = 0;
        for (name, tensor) in wanted {
            let bytes = self.bytes(tensor);
            if filled > 0 && filled + bytes > self.largest_file {
                files.push(vec![]);
                filled = 0;
            }
            filled += bytes;
            files
                .last_mut()
                .expect("there is a first file")
                .push((name, tensor));
        }
        files
    }

    /// Writes one file and returns its hash.
    fn tensors(
        &self,
        source: &dyn TensorSource,
        tensors: &[(&String, &Wanted)],
        path: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<String, CkptError> {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!(self.metadata));
        let mut begin = 0;
        for (name, tensor) in tensors {
            let end = begin + self.bytes(tensor);
            let (dtype, shape) = (self.dtype, &tensor.shape);
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            entries.insert((*name).clone(), entry);
            begin = end;
        }
        let mut header = Value::Object(entries).to_string().into_bytes();
        // Spaces up to a multiple of eight keep the numbers behind the header aligned.
        header.resize(header.len().next_multiple_of(8), b' ');

        let write_error = |error| CkptError::io("write", path)(error);
        let file = File::create(path).map_err(CkptError::io("create", path))?;
        let mut out = Hashed {
            file,
            hash: Sha256::new(),
        };
        let length = (header.len() as u64).to_le_bytes();
        out.write(&length)
            .and_then(|()| out.write(&header))
            .map_err(write_error)?;
        for (_, tensor) in tensors {
            let [rows, width] = matrix(&tensor.shape);
            let row = width * self.dtype.size();
            let strip = (STRIP / row.max(1)).clamp(1, rows.max(1));
            for top in (0..rows).step_by(strip) {
                let end = rows.min(top + strip);
                let bytes = fill::rows(source, tensor, top..end, self.dtype)?;
                out.write(&bytes).map_err(write_error)?;
                told(bytes.len() as u64);
            }
        }
        out.file.sync_all().map_err(CkptError::io("sync", path))?;
        Ok(hashes::hex(out.hash))
    }
}

impl Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

fn exists(path: &Path) -> CkptError {
    CkptError::Exists {
        path: path.to_path_buf(),
        what: String::new(),
        help: "name a file or folder that is not there yet, or ask to overwrite weights that are",
    }
}

/// The parent of what will be written, made if it is not there, and the hidden name beside it, free of
/// what a killed export left.
fn hidden(to: &Path) -> Result<(PathBuf, PathBuf), CkptError> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let parent = match to.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(CkptError::io("create", &parent))?;
    let hidden = parent.join(format!(".{name}.partial"));
    remove(&hidden)?;
    Ok((parent, hidden))
}

/// Deletes a file or a folder of files, if it is there.
fn remove(path: &Path) -> Result<(), CkptError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(CkptError::io("remove", path)),
    }
}

/// Writes a list of sums, whole or not at all.
fn write_sums(path: &Path, sums: &BTreeMap<String, String>) -> Result<(), CkptError> {
    let lines: String = sums
        .iter()
        .map(|(name, hash)| format!("{hash}  {name}\n"))
        .collect();
    let hidden = path.with_file_name(format!(".{}.partial", hashes::SUMS));
    part::write_synced(&hidden, lines.as_bytes())?;
    fs::rename(&hidden, path).map_err(CkptError::io("rename", &hidden))
}
