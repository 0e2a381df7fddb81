//! Checkpoints: weights, their average, the optimizer's moments, and the step, which is also the
//! position in the data.

use crate::trainer::{Load, Trainer, flat_params};
use crate::{AdamW, TrainError};
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Checkpoint, CkptError, Dtype, Piece, Saver, TensorSource};
use kinora_mesh::MeshAxis;
use kinora_shard::{ParamSpec, ParamTable, Sharding};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Which of a checkpoint's weights to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Those in training.
    Raw,
    /// Their average.
    Average,
}

impl Weights {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Weights::Raw => "model",
            Weights::Average => "average",
        }
    }
}

const FIRST: &str = "adamw.first";
const SECOND: &str = "adamw.second";

impl<M: Module> Trainer<M> {
    /// Writes a checkpoint under `root`, whole or not at all; every rank calls it. Rank 0 gets its
    /// path.
    ///
    /// # Errors
    /// Those of the disk, or of a peer.
    pub fn save(
        &self,
        root: &Path,
        meta: &Value,
        keep: usize,
    ) -> Result<Option<PathBuf>, TrainError> {
        let (rank, world) = (self.sharding.rank(), self.sharding.world());
        self.check_finite()?;
        let saver = world.busy(|| Saver::begin(root, self.step, rank))?;
        world.barrier("checkpoint begun")?;
        let params = flat_params(&self.model, &self.table);
        let [first, second] = self.optimizer.moments();
        let mut pieces = vec![];
        for (prefix, tensors) in [
            (Weights::Raw.prefix(), params.as_slice()),
            (Weights::Average.prefix(), &self.average),
            (FIRST, first),
            (SECOND, second),
        ] {
            for (spec, tensor) in self.table.specs().iter().zip(tensors) {
                if owns(spec, &self.sharding) {
                    pieces.push(piece(prefix, spec, tensor));
                }
            }
            world.heartbeat();
        }
        world.busy(|| saver.write_part(&pieces))?;
        world.barrier("checkpoint written")?;
        let path = if rank == 0 {
            Some(world.busy(|| saver.commit(meta, keep))?)
        } else {
            None
        };
        world.barrier("checkpoint committed")?;
        Ok(path)
    }

    /// Weights that are no numbers must not replace a checkpoint that can be gone on from.
    fn check_finite(&self) -> Result<(), TrainError> {
        let mut sum = 0.0;
        for param in flat_params(&self.model, &self.table) {
            sum += param.cast(DType::F64).sum().into_scalar::<f64>();
        }
        let broken = f64::from(u8::from(!sum.is_finite()));
        let broken = self
            .sharding
            .world()
            .sum(vec![broken], "weights are numbers")?[0];
        if broken > 0.0 {
            return Err(TrainError::NotNumbers { step: self.step });
        }
        Ok(())
    }

    /// Goes on from a checkpoint, of any mesh.
    ///
    /// # Errors
    /// If a tensor is missing, or has another shape than the model's.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let read = |prefix| read_all(checkpoint, prefix, &self.table, &self.device, self.dtype);
        let params = read(Weights::Raw.prefix())?;
        let average = read(Weights::Average.prefix())?;
        let optimizer = AdamW::from_moments(read(FIRST)?, read(SECOND)?);
        let mut load = Load {
            table: &self.table,
            flat: &params,
            train: true,
        };
        self.model = self.model.clone().map(&mut load);
        self.average = average;
        self.optimizer = optimizer;
        self.step = checkpoint.step();
        Ok(())
    }
}

/// Puts a checkpoint's weights into a model without gradients, for generation.
///
/// # Errors
/// If a tensor is missing, or has another shape than the model's.
pub fn restore_weights<M: Module>(
    model: M,
    table: &ParamTable,
    checkpoint: &Checkpoint,
    weights: Weights,
    (device, dtype): (&Device, DType),
) -> Result<M, CkptError> {
    let flat = read_all(checkpoint, weights.prefix(), table, device, dtype)?;
    Ok(model.map(&mut Load {
        table,
        flat: &flat,
        train: false,
    }))
}

/// Of the ranks that hold the same box, the first along every axis writes it.
fn owns(spec: &ParamSpec, sharding: &Sharding) -> bool {
    let cut = spec.layout.cut_axes();
    MeshAxis::ALL
        .into_iter()
        .filter(|axis| !cut.contains(axis))
        .all(|axis| sharding.mesh().coordinate(sharding.rank(), axis) == 0)
}

fn piece(prefix: &str, spec: &ParamSpec, tensor: &Tensor<1>) -> Piece {
    let data = tensor.to_data();
    let dtype = match data.dtype() {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        other => panic!("parameters are f32 or f64, not {other:?}"),
    };
    Piece {
        name: format!("{prefix}/{}", spec.path),
        shape: spec.layout.shape.clone(),
        offset: spec.layout.offset(),
        extent: spec.layout.local_shape(),
        dtype,
        bytes: data.as_bytes().to_vec(),
    }
}

fn read_all(
    checkpoint: &Checkpoint,
    prefix: &str,
    table: &ParamTable,
    device: &Device,
    dtype: DType,
) -> Result<Vec<Tensor<1>>, CkptError> {
    let read = |spec: &ParamSpec| {
        let name = format!("{prefix}/{}", spec.path);
        checkpoint.expect_shape(&name, &spec.layout.shape)?;
        let bytes = checkpoint.read(&name, &spec.layout.offset(), &spec.layout.local_shape())?;
        let stored = match checkpoint.dtype(&name)? {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            other => panic!("{name} holds {other:?}, which are no weights"),
        };
        let data = TensorData::from_bytes_vec(bytes, [spec.local_len()], stored);
        Ok(Tensor::from_data(
            data.convert_dtype(dtype),
            (device, dtype),
        ))
    };
    table.specs().iter().map(read).collect()
}
