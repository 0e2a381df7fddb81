//! Saving: every rank writes its part, then rank 0 makes the checkpoint exist.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifest::{self, Manifest, Stored, TensorEntry};
use crate::part::{self, PartTable, Piece};
use crate::region::{Flaw, Region, flaw, volume};
use crate::{CkptError, folder};

/// A save under way, as one rank sees it. The crate's page shows the order of the calls.
///
/// Dropping it gives the save up; its hidden folder is removed by the next save.
#[derive(Debug)]
pub struct Saver {
    root: PathBuf,
    partial: PathBuf,
    step: u64,
    rank: usize,
}

impl Saver {
    /// Begins the save of a step. Every rank calls it, and a barrier follows.
    ///
    /// Only rank 0 touches the disk: it creates `root`, removes the leftovers of killed saves, and
    /// creates the folder of this one. So nobody's part can be swept away, as long as the barrier
    /// comes before the first [`write_part`](Self::write_part) and one run at a time saves to a root.
    ///
    /// # Errors
    /// [`CkptError::Io`] on rank 0, when the folders cannot be made.
    pub fn begin(root: &Path, step: u64, rank: usize) -> Result<Self, CkptError> {
        let partial = folder::partial(root, step);
        if rank == 0 {
            fs::create_dir_all(root).map_err(CkptError::io("create", root))?;
            folder::sweep(root)?;
            fs::create_dir(&partial).map_err(CkptError::io("create", &partial))?;
        }
        Ok(Self {
            root: root.to_path_buf(),
            partial,
            step,
            rank,
        })
    }

    /// Writes this rank's boxes and returns when the disk has them. Every rank calls it once, with
    /// no pieces if it owns none, and a barrier follows.
    ///
    /// # Errors
    /// [`CkptError::NotBegun`] when rank 0 has not created the folder; [`CkptError::Outside`],
    /// [`CkptError::PieceBytes`] and [`CkptError::Twice`] for pieces that cannot be;
    /// [`CkptError::Io`].
    pub fn write_part(&self, pieces: &[Piece]) -> Result<(), CkptError> {
        if !self.partial.is_dir() {
            return Err(CkptError::NotBegun {
                rank: self.rank,
                path: self.partial.clone(),
            });
        }
        part::write(&self.partial, self.rank, pieces)?;
        folder::sync(&self.partial)
    }

    /// Makes the checkpoint exist, on rank 0 after all parts are written; returns its folder.
    ///
    /// The parts must cover each tensor exactly once. `meta` is kept as it is, but for the last
    /// digit of floats, which JSON may round: what must be exact belongs in a tensor or an integer.
    /// A checkpoint of the same step is replaced. Then those of earlier steps are deleted, so that
    /// `keep` remain (this one included, and never deleted).
    ///
    /// # Errors
    /// [`CkptError::Disagree`], [`CkptError::Overlap`] and [`CkptError::Hole`] when the parts do not
    /// make whole tensors; [`CkptError::Truncated`] when a file is not as long as its rank wrote it;
    /// [`CkptError::Io`].
    ///
    /// # Panics
    /// On a rank other than 0.
    pub fn commit(self, meta: &Value, keep: usize) -> Result<PathBuf, CkptError> {
        assert_eq!(self.rank, 0, "only rank 0 commits a checkpoint");
        let parts = part::read_tables(&self.partial)?;
        for part in &parts {
            let path = self.partial.join(&part.file.name);
            let found = fs::metadata(&path)
                .map_err(CkptError::io("read", &path))?
                .len();
            let expected = part.file.bytes;
            if found != expected {
                return Err(CkptError::Truncated {
                    path,
                    expected,
                    found,
                });
            }
        }
        let tensors = join(&parts)?;
        let files = parts.iter().map(|part| part.file.clone()).collect();
        let manifest = Manifest::new(self.step, meta, files, tensors);
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is JSON");
        part::write_synced(&self.partial.join(manifest::FILE), &text)?;
        // The manifest holds all that the tables say.
        for part in &parts {
            let table = self.partial.join(part::table_name(part.rank));
            fs::remove_file(&table).map_err(CkptError::io("remove", &table))?;
        }
        folder::sync(&self.partial)?;
        let path = folder::publish(&self.root, self.step)?;
        folder::prune(&self.root, self.step, keep)?;
        Ok(path)
    }
}

/// Joins the parts' tables into one entry a tensor, and checks that each is covered exactly once.
fn join(parts: &[PartTable]) -> Result<BTreeMap<String, TensorEntry>, CkptError> {
    let mut tensors: BTreeMap<String, TensorEntry> = BTreeMap::new();
    for (file, part) in parts.iter().enumerate() {
        for found in &part.boxes {
            let stored = Stored {
                file,
                begin: found.begin,
                region: found.region.clone(),
            };
            let (shape, dtype) = (found.shape.clone(), found.dtype);
            match tensors.entry(found.name.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(TensorEntry {
                        shape,
                        dtype,
                        boxes: vec![stored],
                    });
                }
                Entry::Occupied(mut occupied) => {
                    let tensor = occupied.get_mut();
                    if (&tensor.shape, tensor.dtype) != (&shape, dtype) {
                        return Err(CkptError::Disagree {
                            name: found.name.clone(),
                            rank_one: parts[tensor.boxes[0].file].rank,
                            one: format!("{} {:?}", tensor.dtype, tensor.shape),
                            rank_other: part.rank,
                            other: format!("{dtype} {shape:?}"),
                        });
                    }
                    tensor.boxes.push(stored);
                }
            }
        }
    }
    for (name, tensor) in &tensors {
        check_cover(name, tensor, parts)?;
    }
    Ok(tensors)
}

fn check_cover(name: &str, tensor: &TensorEntry, parts: &[PartTable]) -> Result<(), CkptError> {
    let regions: Vec<&Region> = tensor.boxes.iter().map(|stored| &stored.region).collect();
    let (name, shape) = (name.to_owned(), tensor.shape.clone());
    match flaw(&tensor.shape, &regions) {
        None => Ok(()),
        Some(Flaw::Overlap(one, other)) => Err(CkptError::Overlap {
            name,
            shape,
            rank_one: parts[tensor.boxes[one].file].rank,
            one: regions[one].to_string(),
            rank_other: parts[tensor.boxes[other].file].rank,
            other: regions[other].to_string(),
        }),
        Some(Flaw::Hole(covered)) => Err(CkptError::Hole {
            name,
            covered,
            volume: volume(&shape),
            shape,
            pieces: regions.len(),
            ranks: parts.iter().map(|part| part.rank).collect(),
        }),
    }
}
