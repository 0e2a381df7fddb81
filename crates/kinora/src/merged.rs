//! Weights with what adapters add to them.

use kinora_ckpt::{CkptError, Dtype, TensorSource};
use kinora_shard::Source;

/// Frozen weights, and beside some of them the two factors of an adapter: read as their sum, in 32
/// bits.
pub(crate) struct Merged {
    frozen: Source,
    adapters: Source,
    scale: f64,
}

impl Merged {
    /// Both under the same paths: `attn.query.weight` here, `attn.query.lora_down` there.
    pub(crate) fn new(frozen: Source, adapters: Source, scale: f64) -> Self {
        Self {
            frozen,
            adapters,
            scale,
        }
    }
}

impl TensorSource for Merged {
    fn names(&self) -> Vec<&str> {
        self.frozen.names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        self.frozen.shape(name)
    }

    fn dtype(&self, _: &str) -> Result<Dtype, CkptError> {
        Ok(Dtype::F32)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        let frozen = self.frozen.read(name, offset, extent)?;
        let mut sum = self.frozen.dtype(name)?.numbers(&frozen);
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        let (down, up) = (format!("{layer}.lora_down"), format!("{layer}.lora_up"));
        let there = self.adapters.names().contains(&down.as_str());
        if let (true, &[from, to], &[inputs, outputs]) = (there, offset, extent) {
            let rank = self.adapters.shape(&down)?[1];
            let part = |name: &str, offset: [usize; 2], extent: [usize; 2]| {
                let bytes = self.adapters.read(name, &offset, &extent)?;
                Ok::<_, CkptError>(self.adapters.dtype(name)?.numbers(&bytes))
            };
            let down = part(&down, [from, 0], [inputs, rank])?;
            let up = part(&up, [0, to], [rank, outputs])?;
            for (row, down) in sum.chunks_mut(outputs).zip(down.chunks(rank)) {
                for (down, up) in down.iter().zip(up.chunks(outputs)) {
                    let factor = down * self.scale;
                    for (sum, up) in row.iter_mut().zip(up) {
                        *sum += factor * up;
                    }
                }
            }
        }
        Ok(bytes(&sum))
    }
}

/// Tensors of which some are read multiplied by a number, in 32 bits.
pub(crate) struct Scaled<S> {
    source: S,
    ending: &'static str,
    factor: f64,
}

impl<S: TensorSource> Scaled<S> {
    /// Those whose names end in `ending`.
    pub(crate) fn new(source: S, ending: &'static str, factor: f64) -> Self {
        Self {
            source,
            ending,
            factor,
        }
    }
}

impl<S: TensorSource> TensorSource for Scaled<S> {
    fn names(&self) -> Vec<&str> {
        self.source.names()
    }

    fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
        self.source.shape(name)
    }

    fn dtype(&self, _: &str) -> Result<Dtype, CkptError> {
        Ok(Dtype::F32)
    }

    fn read(&self, name: &str, offset: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
        let read = self.source.read(name, offset, extent)?;
        let mut values = self.source.dtype(name)?.numbers(&read);
        if name.ends_with(self.ending) {
            values.iter_mut().for_each(|value| *value *= self.factor);
        }
        Ok(bytes(&values))
    }
}

fn bytes(values: &[f64]) -> Vec<u8> {
    let values = values.iter();
    values
        .flat_map(|&value| (value as f32).to_le_bytes())
        .collect()
}
