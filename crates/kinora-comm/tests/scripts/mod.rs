//! Random collectives, for the tests of all transports.

use kinora_comm::conformance::{Step, Task};
use kinora_comm::{Dtype, Reduce};
use proptest::prelude::*;

fn dtypes() -> impl Strategy<Value = Dtype> {
    use Dtype::{BF16, F16, F32, F64, I32, I64, U8};
    prop::sample::select(vec![F64, F32, F16, BF16, I64, I32, U8])
}

fn reduces() -> impl Strategy<Value = Reduce> {
    prop::sample::select(vec![Reduce::Sum, Reduce::Max, Reduce::Min])
}

fn tasks(ranks: usize) -> impl Strategy<Value = Task> {
    let lens = move || prop::collection::vec(prop_oneof![1 => Just(0), 4 => 0..40_usize], ranks);
    let to = Just((0..ranks).collect::<Vec<_>>()).prop_shuffle();
    let keep = prop::collection::vec(any::<bool>(), ranks);
    prop_oneof![
        (
            reduces(),
            prop_oneof![9 => 0..60_usize, 1 => 4000..9000_usize]
        )
            .prop_map(|(reduce, len)| Task::AllReduce { reduce, len }),
        lens().prop_map(|lens| Task::AllGather { lens }),
        (reduces(), lens()).prop_map(|(reduce, lens)| Task::ReduceScatter { reduce, lens }),
        prop::collection::vec(lens(), ranks).prop_map(|lens| Task::AllToAll { lens }),
        (0..ranks, 0..50_usize).prop_map(|(root, len)| Task::Broadcast { root, len }),
        (to, keep, lens()).prop_map(|(to, keep, lens)| {
            let to = to
                .into_iter()
                .zip(keep)
                .map(|(to, keep)| keep.then_some(to))
                .collect();
            Task::Exchange { to, lens }
        }),
        Just(Task::Barrier),
    ]
}

fn steps(ranks: usize) -> impl Strategy<Value = Step> {
    (tasks(ranks), dtypes(), any::<bool>()).prop_map(|(task, dtype, wide)| {
        let reduces = matches!(task, Task::AllReduce { .. } | Task::ReduceScatter { .. });
        let accumulate = match dtype {
            _ if !wide || !reduces => None,
            Dtype::F16 | Dtype::BF16 => Some(Dtype::F32),
            Dtype::F32 => Some(Dtype::F64),
            Dtype::I32 => Some(Dtype::I64),
            other => Some(other),
        };
        Step {
            task,
            dtype,
            accumulate,
        }
    })
}

/// At most so many ranks, steps, and the order in which each rank waits for them.
pub(crate) fn scripts(most: usize) -> impl Strategy<Value = (usize, Vec<Step>, Vec<Vec<usize>>)> {
    (1..=most, 1..12_usize).prop_flat_map(|(ranks, count)| {
        let order = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        let steps = prop::collection::vec(steps(ranks), count);
        (Just(ranks), steps, prop::collection::vec(order, ranks))
    })
}
