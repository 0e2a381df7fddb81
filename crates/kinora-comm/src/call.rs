//! Collectives on flat buffers, and the signature by which ranks know that they mean the same one.

use crate::{Buffer, CommError, Dtype};
use std::borrow::Cow;
use std::fmt;

/// How buffers are combined, element by element, in the order of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The sum.
    Sum,
    /// The largest; NaN if one is NaN.
    Max,
    /// The smallest; NaN if one is NaN.
    Min,
}

/// What the ranks of a communicator do together. Lengths are in elements; they may differ from rank
/// to rank, and may be zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collective {
    /// `n` elements to `n` elements: the reduction over all ranks.
    AllReduce {
        /// How.
        reduce: Reduce,
    },
    /// `lens[rank]` elements to the concatenation over ranks.
    AllGather {
        /// Each rank's length.
        lens: Vec<usize>,
    },
    /// The concatenation of parts for each rank to the reduction of this rank's part.
    ReduceScatter {
        /// How.
        reduce: Reduce,
        /// Each rank's length.
        lens: Vec<usize>,
    },
    /// The concatenation of parts for each rank to the concatenation of parts from each.
    AllToAll {
        /// `lens[from][to]`.
        lens: Vec<Vec<usize>>,
    },
    /// The root's buffer, of any length, to all; the others pass an empty one of the same dtype.
    Broadcast {
        /// The rank that sends.
        root: usize,
    },
    /// This rank's buffer to rank `to`, and `len` elements from rank `from`.
    Exchange {
        /// Who receives this rank's buffer; nobody if `None`, and then it is empty.
        to: Option<usize>,
        /// Whose buffer this rank receives.
        from: Option<usize>,
        /// How long that buffer is.
        len: usize,
    },
    /// Nothing, once all ranks are there.
    Barrier,
}

/// One call of a collective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What to do.
    pub collective: Collective,
    /// What it is for, as errors name it; the same on all ranks.
    pub label: Cow<'static, str>,
    /// The dtype that a reduction sums and returns, if not that which travels.
    pub accumulate: Option<Dtype>,
}

impl Call {
    /// A call that keeps its buffer's dtype.
    pub fn new(collective: Collective, label: impl Into<Cow<'static, str>>) -> Self {
        Self {
            collective,
            label: label.into(),
            accumulate: None,
        }
    }

    /// Checks a buffer against the call, as rank `rank` of `size`.
    ///
    /// # Errors
    /// [`CommError::BadLength`] and [`CommError::BadCall`].
    pub fn check(&self, buffer: &Buffer, rank: usize, size: usize) -> Result<(), CommError> {
        let wrong = |what: String| CommError::BadCall {
            operation: self.to_string(),
            what,
        };
        let wanted = match &self.collective {
            Collective::AllReduce { .. } => None,
            Collective::AllGather { lens } | Collective::ReduceScatter { lens, .. }
                if lens.len() != size =>
            {
                return Err(wrong(format!("{} lengths for {size} ranks", lens.len())));
            }
            Collective::AllGather { lens } => Some(lens[rank]),
            Collective::ReduceScatter { lens, .. } => Some(lens.iter().sum()),
            Collective::AllToAll { lens } => {
                if lens.len() != size || lens.iter().any(|row| row.len() != size) {
                    return Err(wrong(format!("lengths that are not {size} x {size}")));
                }
                Some(lens[rank].iter().sum())
            }
            Collective::Broadcast { root } => {
                if *root >= size {
                    return Err(wrong(format!("root {root} of {size} ranks")));
                }
                (*root != rank).then_some(0)
            }
            Collective::Exchange { to, from, .. } => {
                if let Some(peer) = [to, from].into_iter().flatten().find(|&&peer| peer >= size) {
                    return Err(wrong(format!("peer {peer} of {size} ranks")));
                }
                to.is_none().then_some(0)
            }
            Collective::Barrier => Some(0),
        };
        match wanted {
            Some(wanted) if wanted != buffer.len() => Err(CommError::BadLength {
                operation: self.to_string(),
                rank,
                wanted,
                found: buffer.len(),
            }),
            _ => Ok(()),
        }
    }

    /// What all ranks must agree on. Of an exchange each rank has its own view, so only that it is
    /// one is compared; of a reduction the length too, which `len` gives.
    pub fn signature(&self, dtype: Dtype, len: usize) -> String {
        let what = match &self.collective {
            Collective::AllReduce { reduce } => format!("all-reduce {reduce:?} of {len}"),
            Collective::AllGather { lens } => format!("all-gather of {lens:?}"),
            Collective::ReduceScatter { reduce, lens } => {
                format!("reduce-scatter {reduce:?} to {lens:?}")
            }
            Collective::AllToAll { lens } => format!("all-to-all of {lens:?}"),
            Collective::Broadcast { root } => format!("broadcast from {root}"),
            Collective::Exchange { .. } => "exchange".to_string(),
            Collective::Barrier => return format!("barrier \"{}\"", self.label),
        };
        let sums = self
            .accumulate
            .map_or(String::new(), |sum| format!(" summed in {sum:?}"));
        format!("{what} x {dtype:?}{sums} \"{}\"", self.label)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.collective {
            Collective::AllReduce { .. } => "all-reduce",
            Collective::AllGather { .. } => "all-gather",
            Collective::ReduceScatter { .. } => "reduce-scatter",
            Collective::AllToAll { .. } => "all-to-all",
            Collective::Broadcast { .. } => "broadcast",
            Collective::Exchange { .. } => "exchange",
            Collective::Barrier => "barrier",
        };
        write!(f, "{kind} \"{}\"", self.label)
    }
}
