//! What comes out of each collective.

use super::step::host;
use super::{Check, Outcome, Step, Task, Wrong, exercise, same};
use crate::{Buffer, Call, Collective, Dtype, Element, HostBuffer, Reduce, Transport};
use half::{bf16, f16};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: &[usize] = &[1, 2, 3, 5];

pub(super) const CHECKS: &[Check] = &[
    Check::new("all-reduce", SIZES, all_reduce),
    Check::new(
        "all-gather, also of uneven and empty parts",
        SIZES,
        all_gather,
    ),
    Check::new(
        "reduce-scatter, also to uneven and empty parts",
        SIZES,
        reduce_scatter,
    ),
    Check::new(
        "all-to-all, also of uneven and empty parts",
        SIZES,
        all_to_all,
    ),
    Check::new("broadcast from every root", SIZES, broadcast),
    Check::new("exchange along rings, chains and pairs", SIZES, exchange),
    Check::new(
        "nobody leaves a barrier before all have come",
        &[2, 3],
        barrier,
    ),
    Check::new("large buffers", &[1, 2, 4], large),
    Check::new("sums in a wider dtype come back in it", &[2, 3], accumulate),
    Check::new(
        "half precision adds up in single and is rounded once",
        &[3],
        half_sums,
    ),
    Check::new("sums add in the order of ranks", &[3, 5], rank_order),
    Check::new(
        "sums have the same bits on all ranks and in all runs",
        &[3, 4],
        same_bits,
    ),
    Check::new(
        "the largest and the smallest are NaN if one is",
        &[2, 3],
        nan,
    ),
];

const DTYPES: [Dtype; 7] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::U8,
];
const REDUCES: [Reduce; 3] = [Reduce::Sum, Reduce::Max, Reduce::Min];

/// Lengths for each rank: uneven, with some that are zero.
fn uneven(size: usize) -> [Vec<usize>; 4] {
    [
        (0..size).map(|i| i * 3).collect(),
        (0..size).map(|i| 7 * usize::from(i % 2 == 1)).collect(),
        vec![4; size],
        vec![0; size],
    ]
}

/// Makes the tasks for every dtype, one after the other.
fn in_turn(world: &Arc<dyn Transport>, tasks: impl IntoIterator<Item = Task>) -> Outcome {
    for task in tasks {
        let steps = DTYPES.map(|dtype| Step::new(task.clone(), dtype));
        for step in steps {
            exercise(world, &[step], &[0])?;
        }
    }
    Ok(())
}

fn all_reduce(world: &Arc<dyn Transport>) -> Outcome {
    let tasks = |len| REDUCES.map(|reduce| Task::AllReduce { reduce, len });
    in_turn(world, [0, 1, 7, 1000].into_iter().flat_map(tasks))
}

fn all_gather(world: &Arc<dyn Transport>) -> Outcome {
    in_turn(
        world,
        uneven(world.size()).map(|lens| Task::AllGather { lens }),
    )
}

fn reduce_scatter(world: &Arc<dyn Transport>) -> Outcome {
    let tasks = |lens: Vec<usize>| {
        REDUCES.map(|reduce| Task::ReduceScatter {
            reduce,
            lens: lens.clone(),
        })
    };
    in_turn(world, uneven(world.size()).into_iter().flat_map(tasks))
}

fn all_to_all(world: &Arc<dyn Transport>) -> Outcome {
    let size = world.size();
    let square = |len: fn(usize, usize) -> usize| {
        let row = |from| (0..size).map(|to| len(from, to)).collect();
        Task::AllToAll {
            lens: (0..size).map(row).collect(),
        }
    };
    let tasks = [
        square(|from, to| from * 3 + to),
        square(|from, to| 5 * usize::from(from > to)),
        square(|_, _| 2),
        square(|_, _| 0),
    ];
    in_turn(world, tasks)
}

fn broadcast(world: &Arc<dyn Transport>) -> Outcome {
    let tasks = |root| [0, 1, 50].map(|len| Task::Broadcast { root, len });
    in_turn(world, (0..world.size()).flat_map(tasks))
}

fn exchange(world: &Arc<dyn Transport>) -> Outcome {
    let size = world.size();
    let task = |to: Vec<Option<usize>>, lens| Task::Exchange { to, lens };
    let ring = |shift| (0..size).map(|i| Some((i + shift) % size)).collect();
    let tasks = [
        // A shift by nothing, too: a rank may send to itself.
        task(ring(0), vec![3; size]),
        task(ring(1), vec![3; size]),
        task(ring(size - 1), (0..size).collect()),
        task(
            (0..size).map(|i| (i + 1 < size).then_some(i + 1)).collect(),
            vec![5; size],
        ),
        // The first two swap, and the others look on.
        task(
            (0..size)
                .map(|i| (i < 2 && size > 1).then(|| 1 - i))
                .collect(),
            vec![4; size],
        ),
        task(vec![None; size], vec![0; size]),
    ];
    in_turn(world, tasks)
}

fn barrier(world: &Arc<dyn Transport>) -> Outcome {
    let pause = Duration::from_millis(80);
    for late in 0..world.size() {
        world.barrier("together")?;
        let start = Instant::now();
        if world.rank() == late {
            std::thread::sleep(pause);
        }
        world.barrier("apart")?;
        // Ranks leave the first barrier within a moment of one another.
        if start.elapsed() < pause / 2 {
            return Err(Wrong(format!("left a barrier before rank {late} had come")));
        }
    }
    Ok(())
}

fn large(world: &Arc<dyn Transport>) -> Outcome {
    let (size, len) = (world.size(), 100_003);
    let lens: Vec<usize> = (0..size).map(|i| 20_000 + 777 * i).collect();
    let reduce = Reduce::Sum;
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::U8] {
        let steps = [
            Task::AllReduce { reduce, len },
            Task::ReduceScatter {
                reduce,
                lens: lens.clone(),
            },
            Task::AllGather { lens: lens.clone() },
            Task::AllToAll {
                lens: vec![lens.clone(); size],
            },
            Task::Broadcast {
                root: size - 1,
                len,
            },
        ];
        let steps = steps.map(|task| Step::new(task, dtype));
        exercise(world, &steps, &[0, 1, 2, 3, 4])?;
    }
    Ok(())
}

/// A sum over the world of these elements.
fn sum(
    world: &Arc<dyn Transport>,
    input: HostBuffer,
    accumulate: Option<Dtype>,
) -> Result<HostBuffer, Wrong> {
    let collective = Collective::AllReduce {
        reduce: Reduce::Sum,
    };
    let call = Call {
        collective,
        label: "sum".into(),
        accumulate,
    };
    match world.start(call, input.into())?.wait()? {
        Buffer::Host(buffer) => Ok(buffer),
        Buffer::Device(buffer) => Err(Wrong(format!("a host buffer came back as {buffer:?}"))),
    }
}

fn accumulate(world: &Arc<dyn Transport>) -> Outcome {
    use Dtype::{BF16, F16, F32, F64, I32, I64};
    let size = world.size();
    let wider = [
        (F32, F64),
        (F16, F32),
        (F16, F64),
        (BF16, F32),
        (BF16, F64),
        (I32, I64),
    ];
    for (dtype, accumulate) in wider {
        let all_reduces = REDUCES.map(|reduce| Task::AllReduce { reduce, len: 30 });
        let lens = &uneven(size)[0];
        let scatters = REDUCES.map(|reduce| Task::ReduceScatter {
            reduce,
            lens: lens.clone(),
        });
        for task in all_reduces.into_iter().chain(scatters) {
            let step = Step {
                task,
                dtype,
                accumulate: Some(accumulate),
            };
            exercise(world, &[step], &[0])?;
        }
    }
    // What the narrow dtype cannot hold.
    let n = size as i64;
    let big = i64::from(i32::MAX);
    same(
        "i32 in i64",
        &sum(world, host(I32, &[big]), Some(I64))?,
        &host(I64, &[big * n]),
    )?;
    let odd = [if world.rank() == 0 { 256 } else { 1 }];
    same(
        "bf16 in f32",
        &sum(world, host(BF16, &odd), Some(F32))?,
        &host(F32, &[255 + n]),
    )?;
    let large = [60_000];
    same(
        "f16 in f32",
        &sum(world, host(F16, &[60_000]), Some(F32))?,
        &{
            let rounded = f64::from(f16::from_f64(large[0] as f64)) as i64;
            host(F32, &[rounded * n])
        },
    )
}

fn half_sums(world: &Arc<dyn Transport>) -> Outcome {
    // Three summands: one after the other would be rounded down to the first twice over.
    let first = world.rank() == 0;
    let brain = [bf16::from_f32(if first { 256.0 } else { 1.0 })].to_vec();
    let expected = vec![bf16::from_f32(258.0)].into();
    same(
        "256 + 1 + 1 in bf16",
        &sum(world, brain.into(), None)?,
        &expected,
    )?;
    let half = [f16::from_f32(if first { 2048.0 } else { 1.0 })].to_vec();
    let expected = vec![f16::from_f32(2050.0)].into();
    same(
        "2048 + 1 + 1 in f16",
        &sum(world, half.into(), None)?,
        &expected,
    )
}

/// Numbers of very different size, so that no two orders of adding them agree.
fn wild(rank: usize, len: usize) -> Vec<f64> {
    let value = |i: usize| {
        let bits = (i * 31 + rank * 7 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
        let mantissa = bits as f64 / (1_u64 << 53) as f64 - 0.5;
        mantissa * 10_f64.powi((bits % 9) as i32)
    };
    (0..len).map(value).collect()
}

fn rank_order(world: &Arc<dyn Transport>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let single = |rank| -> Vec<f32> { wild(rank, 30_000).into_iter().map(|x| x as f32).collect() };
    let mut expected = single(0);
    let mut wide: Vec<f64> = wild(0, 30_000);
    for other in 1..size {
        expected
            .iter_mut()
            .zip(single(other))
            .for_each(|(sum, x)| *sum += x);
        wide.iter_mut()
            .zip(wild(other, 30_000))
            .for_each(|(sum, x)| *sum += x);
    }
    for len in [100, 30_000] {
        let found = sum(world, single(rank)[..len].to_vec().into(), None)?;
        same(
            "f32 in the order of ranks",
            &found,
            &expected[..len].to_vec().into(),
        )?;
        let found = sum(world, wild(rank, len).into(), None)?;
        same(
            "f64 in the order of ranks",
            &found,
            &wide[..len].to_vec().into(),
        )?;
    }
    Ok(())
}

fn same_bits(world: &Arc<dyn Transport>) -> Outcome {
    let len = 30_000;
    let input: Vec<f32> = wild(world.rank(), len)
        .into_iter()
        .map(|x| x as f32)
        .collect();
    let first = sum(world, input.clone().into(), None)?;
    same("the second run", &sum(world, input.into(), None)?, &first)?;
    let lens = vec![len; world.size()];
    let all = world.all_gather(first.clone().into(), lens, "results of all")?;
    let (Buffer::Host(all), Some(mine)) = (all, f32::view(&first)) else {
        return Err(Wrong(
            "host buffers of f32 came back as something else".to_string(),
        ));
    };
    let all = f32::take(all).ok_or_else(|| Wrong("f32 came back as another dtype".to_string()))?;
    all.chunks(len)
        .try_for_each(|theirs| same("another rank's result", &theirs, &mine))
}

fn nan(world: &Arc<dyn Transport>) -> Outcome {
    for odd in 0..world.size() {
        let input = if world.rank() == odd { f32::NAN } else { 1.0 };
        for reduce in [Reduce::Max, Reduce::Min] {
            let found = world.all_reduce(vec![input, 2.0].into(), reduce, "one is NaN")?;
            let Buffer::Host(HostBuffer::F32(found)) = found else {
                return Err(Wrong("f32 came back as another dtype".to_string()));
            };
            same("the NaN of one rank", &found[0].is_nan(), &true)?;
            same("beside it", &found[1], &2.0)?;
        }
    }
    Ok(())
}
