//! Which calls of NCCL make up a collective. NCCL knows only equal parts; uneven ones are groups of
//! calls with one root each, and what goes from rank to rank are groups of sends and receives.

use crate::{Collective, Reduce};

/// One call of NCCL. `at` is the first element, in the input of what is sent or reduced, and in the
/// output of what is received or broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    AllReduce { len: usize },
    AllGather { len: usize },
    ReduceScatter { len: usize },
    Reduce { root: usize, at: usize, len: usize },
    Broadcast { root: usize, at: usize, len: usize },
    Send { to: usize, at: usize, len: usize },
    Receive { from: usize, at: usize, len: usize },
}

/// A collective as one rank takes part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// One group of calls; none if nothing travels.
    pub(super) ops: Vec<Op>,
    /// How the calls reduce, if they do.
    pub(super) reduce: Reduce,
    /// Elements of the result.
    pub(super) output: usize,
    /// Whether the result is the input itself.
    pub(super) in_place: bool,
}

/// The plan of rank `rank` of `size`, for an input of `len` elements. `root_len` is the length of a
/// broadcast, which only its root knows beforehand.
pub(super) fn plan(
    collective: &Collective,
    rank: usize,
    size: usize,
    len: usize,
    root_len: usize,
) -> Plan {
    let mut plan = Plan {
        ops: vec![],
        reduce: Reduce::Sum,
        output: len,
        in_place: false,
    };
    match collective {
        Collective::AllReduce { reduce } => {
            plan.reduce = *reduce;
            plan.ops.push(Op::AllReduce { len });
        }
        Collective::AllGather { lens } => {
            plan.output = lens.iter().sum();
            plan.ops = match even(lens) {
                Some(len) => vec![Op::AllGather { len }],
                None => parts(lens)
                    .map(|(root, at, len)| Op::Broadcast { root, at, len })
                    .collect(),
            };
        }
        Collective::ReduceScatter { reduce, lens } => {
            plan.reduce = *reduce;
            plan.output = lens[rank];
            plan.ops = match even(lens) {
                Some(len) => vec![Op::ReduceScatter { len }],
                None => parts(lens)
                    .map(|(root, at, len)| Op::Reduce { root, at, len })
                    .collect(),
            };
        }
        Collective::AllToAll { lens } => {
            let column: Vec<usize> = (0..size).map(|from| lens[from][rank]).collect();
            plan.output = column.iter().sum();
            let sends = parts(&lens[rank]).map(|(to, at, len)| Op::Send { to, at, len });
            let receives = parts(&column).map(|(from, at, len)| Op::Receive { from, at, len });
            plan.ops = sends.chain(receives).collect();
        }
        Collective::Broadcast { root } => {
            let (root, len) = (*root, root_len);
            plan.output = len;
            // NCCL leaves the root's buffer as it is.
            plan.in_place = rank == root;
            plan.ops.push(Op::Broadcast { root, at: 0, len });
        }
        Collective::Exchange {
            to,
            from,
            len: arriving,
        } => {
            plan.output = *arriving;
            plan.ops.extend(to.map(|to| Op::Send { to, at: 0, len }));
            plan.ops.extend(from.map(|from| Op::Receive {
                from,
                at: 0,
                len: *arriving,
            }));
        }
        Collective::Barrier => plan.in_place = true,
    }
    plan.ops.retain(|op| op.len() > 0);
    plan
}

impl Op {
    fn len(self) -> usize {
        match self {
            Op::AllReduce { len }
            | Op::AllGather { len }
            | Op::ReduceScatter { len }
            | Op::Reduce { len, .. }
            | Op::Broadcast { len, .. }
            | Op::Send { len, .. }
            | Op::Receive { len, .. } => len,
        }
    }
}

fn even(lens: &[usize]) -> Option<usize> {
    lens.iter().all(|len| *len == lens[0]).then_some(lens[0])
}

/// Each part's rank, first element and length.
fn parts(lens: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    lens.iter().enumerate().scan(0, |at, (rank, &len)| {
        let start = *at;
        *at += len;
        Some((rank, start, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_parts_are_one_call_and_uneven_ones_a_group() {
        let gather = |lens: &[usize]| {
            let lens = lens.to_vec();
            plan(
                &Collective::AllGather { lens: lens.clone() },
                1,
                3,
                lens[1],
                0,
            )
        };
        assert_eq!(gather(&[4, 4, 4]).ops, [Op::AllGather { len: 4 }]);
        let uneven = gather(&[4, 0, 2]);
        let part = |root, at, len| Op::Broadcast { root, at, len };
        assert_eq!(
            (uneven.output, uneven.ops),
            (6, vec![part(0, 0, 4), part(2, 4, 2)])
        );
        assert_eq!(gather(&[0, 0, 0]).ops, []);
    }

    #[test]
    fn an_all_to_all_sends_by_row_and_receives_by_column() {
        let lens = vec![vec![1, 2], vec![3, 0]];
        let found = plan(&Collective::AllToAll { lens }, 0, 2, 3, 0);
        let ops = vec![
            Op::Send {
                to: 0,
                at: 0,
                len: 1,
            },
            Op::Send {
                to: 1,
                at: 1,
                len: 2,
            },
            Op::Receive {
                from: 0,
                at: 0,
                len: 1,
            },
            Op::Receive {
                from: 1,
                at: 1,
                len: 3,
            },
        ];
        assert_eq!((found.output, found.ops), (4, ops));
    }
}
