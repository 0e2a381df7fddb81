//! Collectives on known inputs, and a plain reference for what must come out.

use super::{Outcome, Wrong, same};
use crate::{Buffer, Call, Collective, Dtype, HostBuffer, Reduce, Transport};
use half::{bf16, f16};
use std::sync::Arc;

/// A collective as all ranks together see it. Lengths are in elements.
#[derive(Clone, Debug)]
pub enum Task {
    /// See [`Collective::AllReduce`].
    AllReduce {
        /// How.
        reduce: Reduce,
        /// Each rank's length.
        len: usize,
    },
    /// See [`Collective::AllGather`].
    AllGather {
        /// Each rank's length.
        lens: Vec<usize>,
    },
    /// See [`Collective::ReduceScatter`].
    ReduceScatter {
        /// How.
        reduce: Reduce,
        /// Each rank's length.
        lens: Vec<usize>,
    },
    /// See [`Collective::AllToAll`].
    AllToAll {
        /// `lens[from][to]`.
        lens: Vec<Vec<usize>>,
    },
    /// See [`Collective::Broadcast`].
    Broadcast {
        /// Who sends.
        root: usize,
        /// How much.
        len: usize,
    },
    /// See [`Collective::Exchange`].
    Exchange {
        /// Whom each rank sends to; no two the same.
        to: Vec<Option<usize>>,
        /// How much each rank sends, if it does.
        lens: Vec<usize>,
    },
    /// See [`Collective::Barrier`].
    Barrier,
}

/// One call of all ranks, on inputs that follow from its place in the list, the rank and the dtype:
/// integers from -10 to 10, of bytes from 0 to 20, so that every dtype sums them exactly.
#[derive(Clone, Debug)]
pub struct Step {
    /// What they do.
    pub task: Task,
    /// What travels.
    pub dtype: Dtype,
    /// See [`Call::accumulate`].
    pub accumulate: Option<Dtype>,
}

impl Step {
    /// A step that keeps its dtype.
    pub fn new(task: Task, dtype: Dtype) -> Self {
        Self {
            task,
            dtype,
            accumulate: None,
        }
    }

    fn call(&self, rank: usize) -> Call {
        let collective = match self.task.clone() {
            Task::AllReduce { reduce, .. } => Collective::AllReduce { reduce },
            Task::AllGather { lens } => Collective::AllGather { lens },
            Task::ReduceScatter { reduce, lens } => Collective::ReduceScatter { reduce, lens },
            Task::AllToAll { lens } => Collective::AllToAll { lens },
            Task::Broadcast { root, .. } => Collective::Broadcast { root },
            Task::Exchange { to, lens } => {
                let from = to.iter().position(|&to| to == Some(rank));
                let len = from.map_or(0, |from| lens[from]);
                Collective::Exchange {
                    to: to[rank],
                    from,
                    len,
                }
            }
            Task::Barrier => Collective::Barrier,
        };
        Call {
            collective,
            label: "conformance".into(),
            accumulate: self.accumulate,
        }
    }

    /// How many elements a rank passes.
    fn input_len(&self, rank: usize) -> usize {
        match &self.task {
            Task::AllReduce { len, .. } => *len,
            Task::AllGather { lens } => lens[rank],
            Task::ReduceScatter { lens, .. } => lens.iter().sum(),
            Task::AllToAll { lens } => lens[rank].iter().sum(),
            Task::Broadcast { root, len } => {
                if rank == *root {
                    *len
                } else {
                    0
                }
            }
            Task::Exchange { to, lens } => to[rank].map_or(0, |_| lens[rank]),
            Task::Barrier => 0,
        }
    }

    fn input(&self, place: usize, rank: usize) -> Vec<i64> {
        let shift = if self.dtype == Dtype::U8 { 0 } else { 10 };
        let value = |i: usize| ((i * 13 + i / 21 + rank * 17 + place * 5) % 21) as i64 - shift;
        (0..self.input_len(rank)).map(value).collect()
    }

    fn expected(&self, rank: usize, inputs: &[Vec<i64>]) -> Vec<i64> {
        let reduced = |how: Reduce, i: usize| {
            let column = inputs.iter().map(|input| input[i]);
            match how {
                Reduce::Sum => column.sum(),
                Reduce::Max => column.max().unwrap_or_default(),
                Reduce::Min => column.min().unwrap_or_default(),
            }
        };
        match &self.task {
            Task::AllReduce { reduce, len } => (0..*len).map(|i| reduced(*reduce, i)).collect(),
            Task::AllGather { .. } => inputs.concat(),
            Task::ReduceScatter { reduce, lens } => {
                let start: usize = lens[..rank].iter().sum();
                (start..start + lens[rank])
                    .map(|i| reduced(*reduce, i))
                    .collect()
            }
            Task::AllToAll { lens } => {
                let part = |from: usize| {
                    let start: usize = lens[from][..rank].iter().sum();
                    inputs[from][start..start + lens[from][rank]].to_vec()
                };
                (0..inputs.len()).flat_map(part).collect()
            }
            Task::Broadcast { root, .. } => inputs[*root].clone(),
            Task::Exchange { to, .. } => match to.iter().position(|&to| to == Some(rank)) {
                Some(from) => inputs[from].clone(),
                None => vec![],
            },
            Task::Barrier => vec![],
        }
    }
}

/// Starts all steps, waits for them in the order that `order` gives (a permutation of their places,
/// which may differ from rank to rank), and compares every result with the reference.
///
/// # Errors
/// The first call that fails, and the first result that is wrong.
pub fn exercise(transport: &Arc<dyn Transport>, steps: &[Step], order: &[usize]) -> Outcome {
    let (rank, size) = (transport.rank(), transport.size());
    let mut pending = vec![];
    for (place, step) in steps.iter().enumerate() {
        let input = host(step.dtype, &step.input(place, rank));
        pending.push(Some(transport.start(step.call(rank), input.into())?));
    }
    for &place in order {
        let step = &steps[place];
        let what = format!("result of {step:?} (step {place})");
        let Some(Buffer::Host(found)) = pending[place].take().map(|it| it.wait()).transpose()?
        else {
            return Err(Wrong(format!("{what} is not in host memory")));
        };
        let inputs: Vec<_> = (0..size).map(|rank| step.input(place, rank)).collect();
        let dtype = step.accumulate.unwrap_or(step.dtype);
        same(&what, &found, &host(dtype, &step.expected(rank, &inputs)))?;
    }
    Ok(())
}

/// Small integers as elements of any kind.
pub(super) fn host(dtype: Dtype, values: &[i64]) -> HostBuffer {
    let values = values.iter().copied();
    match dtype {
        Dtype::F64 => values.map(|x| x as f64).collect::<Vec<_>>().into(),
        Dtype::F32 => values.map(|x| x as f32).collect::<Vec<_>>().into(),
        Dtype::F16 => values
            .map(|x| f16::from_f32(x as f32))
            .collect::<Vec<_>>()
            .into(),
        Dtype::BF16 => values
            .map(|x| bf16::from_f32(x as f32))
            .collect::<Vec<_>>()
            .into(),
        Dtype::I64 => values.collect::<Vec<_>>().into(),
        Dtype::I32 => values.map(|x| x as i32).collect::<Vec<_>>().into(),
        Dtype::U8 => values.map(|x| x as u8).collect::<Vec<_>>().into(),
    }
}
