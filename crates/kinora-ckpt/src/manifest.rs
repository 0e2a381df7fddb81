//! `manifest.json`: what a checkpoint holds and where; written last, read first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Dtype;
use crate::region::{Region, flaw};

pub(crate) const FILE: &str = "manifest.json";
const FORMAT: &str = "kinora-checkpoint";
const VERSION: u32 = 1;

/// The whole of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: String,
    version: u32,
    pub(crate) step: u64,
    pub(crate) meta: Value,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
}

/// A safetensors file of the folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32: u32,
}

/// A tensor and the boxes that it is stored in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TensorEntry {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) boxes: Vec<Stored>,
}

/// A box of a tensor, row-major from byte `begin` of file number `file`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) file: usize,
    pub(crate) begin: u64,
    #[serde(flatten)]
    pub(crate) region: Region,
}

impl Manifest {
    pub(crate) fn new(
        step: u64,
        meta: &Value,
        files: Vec<FileEntry>,
        tensors: BTreeMap<String, TensorEntry>,
    ) -> Self {
        let format = FORMAT.to_owned();
        Self {
            format,
            version: VERSION,
            step,
            meta: meta.clone(),
            files,
            tensors,
        }
    }

    /// What is wrong with a manifest that was read, if anything: another format, a box outside its
    /// tensor or its file, a tensor that is not covered exactly once.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.format != FORMAT || self.version != VERSION {
            return Some(format!(
                "its manifest is {} version {}, and this program reads {FORMAT} version {VERSION}",
                self.format, self.version
            ));
        }
        for (name, tensor) in &self.tensors {
            for stored in &tensor.boxes {
                let region = &stored.region;
                if !region.fits(&tensor.shape) {
                    let shape = &tensor.shape;
                    return Some(format!(
                        "its manifest puts box {region} into {name} {shape:?}"
                    ));
                }
                let bytes = (region.volume() as u64).saturating_mul(tensor.dtype.size() as u64);
                let end = stored.begin.saturating_add(bytes);
                if self
                    .files
                    .get(stored.file)
                    .is_none_or(|file| end > file.bytes)
                {
                    let file = stored.file;
                    return Some(format!(
                        "its manifest puts {name} {region} outside file {file}"
                    ));
                }
            }
            let boxes: Vec<&Region> = tensor.boxes.iter().map(|stored| &stored.region).collect();
            if let Some(flaw) = flaw(&tensor.shape, &boxes) {
                let shape = &tensor.shape;
                return Some(format!(
                    "its manifest does not cover {name} {shape:?}: {flaw:?}"
                ));
            }
        }
        None
    }
}
