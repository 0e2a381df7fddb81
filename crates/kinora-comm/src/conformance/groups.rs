//! Communicators made of others, and calls under way at the same time.

use super::{Check, Outcome, Step, Task, Wrong, exercise, same};
use crate::{Call, Collective, CommError, Dtype, Reduce, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: &[usize] = &[1, 2, 3, 5];

pub(super) const CHECKS: &[Check] = &[
    Check::new("a world knows itself", SIZES, world_itself),
    Check::new("a split orders its members by rank", SIZES, split),
    Check::new("a rank without color joins nothing", SIZES, no_color),
    Check::new("a split can be split", &[1, 4, 5], nested),
    Check::new(
        "communicators of the same ranks are independent",
        SIZES,
        twins,
    ),
    Check::new(
        "calls in flight may be waited for in any order",
        SIZES,
        in_flight,
    ),
    Check::new(
        "a call that nobody waits for holds up nobody",
        SIZES,
        dropped,
    ),
    Check::new(
        "some ranks may wait for each call while others start all",
        SIZES,
        staggered,
    ),
    Check::new("a call that all have made is ready", SIZES, ready),
    Check::new(
        "a call that makes no sense is refused, and does no harm",
        SIZES,
        refused,
    ),
];

fn same_members(part: &Arc<dyn Transport>, me: usize, expected: &[usize]) -> Outcome {
    same("members", &part.members(), &expected)?;
    same("size", &part.size(), &expected.len())?;
    same(
        "this rank's place",
        &part.members().get(part.rank()),
        &Some(&me),
    )
}

/// A few calls of different kinds.
fn some_steps(size: usize) -> Vec<Step> {
    let lens: Vec<usize> = (0..size).map(|i| 2 * i + 1).collect();
    let reduce = Reduce::Sum;
    vec![
        Step::new(Task::AllReduce { reduce, len: 9 }, Dtype::F32),
        Step::new(Task::AllGather { lens: lens.clone() }, Dtype::I64),
        Step::new(Task::Barrier, Dtype::U8),
        Step::new(
            Task::ReduceScatter {
                reduce,
                lens: lens.clone(),
            },
            Dtype::BF16,
        ),
        Step::new(
            Task::AllToAll {
                lens: vec![lens; size],
            },
            Dtype::F64,
        ),
        Step::new(
            Task::Broadcast {
                root: size - 1,
                len: 12,
            },
            Dtype::I32,
        ),
        Step::new(
            Task::AllReduce {
                reduce: Reduce::Max,
                len: 0,
            },
            Dtype::F16,
        ),
    ]
}

fn talk(part: &Arc<dyn Transport>) -> Outcome {
    let steps = some_steps(part.size());
    exercise(part, &steps, &(0..steps.len()).collect::<Vec<_>>())
}

fn color(
    transport: &Arc<dyn Transport>,
    color: usize,
    name: &str,
) -> Result<Arc<dyn Transport>, Wrong> {
    let part = transport.split(Some(color), name)?;
    part.ok_or_else(|| {
        Wrong(format!(
            "a rank of color {color} got no communicator {name}"
        ))
    })
}

fn world_itself(world: &Arc<dyn Transport>) -> Outcome {
    let all: Vec<usize> = (0..world.size()).collect();
    same_members(world, world.rank(), &all)?;
    same("whether it has a name", &world.name().is_empty(), &false)?;
    talk(world)
}

fn split(world: &Arc<dyn Transport>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let part = color(world, rank % 2, "parity")?;
    let expected: Vec<usize> = (0..size).filter(|i| i % 2 == rank % 2).collect();
    same_members(&part, rank, &expected)?;
    same(
        "whether the name is in the name",
        &part.name().contains("parity"),
        &true,
    )?;
    talk(&part)?;
    talk(world)?;
    talk(&part)?;
    // Any numbers are colors, and one rank may be alone.
    let alone = color(world, 1_000_000 - rank, "alone")?;
    same_members(&alone, rank, &[rank])?;
    talk(&alone)
}

fn no_color(world: &Arc<dyn Transport>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let part = world.split((rank != 0).then_some(0), "all but the first")?;
    match part {
        Some(part) if rank != 0 => {
            same_members(&part, rank, &(1..size).collect::<Vec<_>>())?;
            talk(&part)?;
        }
        None if rank == 0 => {}
        other => return Err(Wrong(format!("rank {rank} got {other:?}"))),
    }
    same(
        "a split that nobody joins",
        &world.split(None, "nobody")?.is_none(),
        &true,
    )?;
    talk(world)
}

fn nested(world: &Arc<dyn Transport>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let part = color(world, usize::from(rank > 0), "outer")?;
    let inner = color(&part, part.rank() % 2, "inner")?;
    let expected: Vec<usize> = match rank {
        0 => vec![0],
        _ => (1..size).filter(|i| i % 2 == rank % 2).collect(),
    };
    same_members(&inner, rank, &expected)?;
    talk(&inner)?;
    talk(&part)?;
    // A communicator outlives the one that it was split off.
    drop(part);
    talk(&inner)?;
    talk(world)
}

fn twins(world: &Arc<dyn Transport>) -> Outcome {
    let first = color(world, 0, "twin")?;
    let second = color(world, 0, "twin")?;
    let size = world.size();
    let start = |on: &Arc<dyn Transport>, value: i64| -> Result<_, CommError> {
        let reduce = Reduce::Sum;
        on.start(
            Call::new(Collective::AllReduce { reduce }, "twins"),
            vec![value].into(),
        )
    };
    // Half of the ranks start them the other way round.
    let (one, two) = if world.rank().is_multiple_of(2) {
        let one = start(&first, 1)?;
        (one, start(&second, 2)?)
    } else {
        let two = start(&second, 2)?;
        (start(&first, 1)?, two)
    };
    let total = |pending: Box<dyn crate::Pending>| -> Result<_, Wrong> {
        match pending.wait()? {
            crate::Buffer::Host(buffer) => Ok(buffer),
            other => Err(Wrong(format!("a host buffer came back as {other:?}"))),
        }
    };
    same("of the second", &total(two)?, &vec![2 * size as i64].into())?;
    same("of the first", &total(one)?, &vec![size as i64].into())
}

fn in_flight(world: &Arc<dyn Transport>) -> Outcome {
    let steps: Vec<Step> = (0..4).flat_map(|_| some_steps(world.size())).collect();
    let count = steps.len();
    let backward: Vec<usize> = (0..count).rev().collect();
    exercise(world, &steps, &backward)?;
    // Each rank in another order.
    let mut turned: Vec<usize> = (0..count).collect();
    turned.rotate_left(world.rank() * 5 % count);
    exercise(world, &steps, &turned)?;
    let (even, odd): (Vec<usize>, Vec<usize>) = (0..count).partition(|i| i % 2 == 0);
    let woven = if world.rank() == 0 {
        [odd, even]
    } else {
        [even, odd]
    };
    exercise(world, &steps, &woven.concat())
}

fn dropped(world: &Arc<dyn Transport>) -> Outcome {
    let steps = some_steps(world.size());
    // Only the last is waited for; and every rank but the first leaves out all.
    exercise(world, &steps, &[steps.len() - 1])?;
    let order = if world.rank() == 0 {
        vec![4, 0]
    } else {
        vec![]
    };
    exercise(world, &steps, &order)?;
    talk(world)
}

fn staggered(world: &Arc<dyn Transport>) -> Outcome {
    let (rank, size) = (world.rank(), world.size());
    let calls: Vec<Call> = (0..3)
        .flat_map(|i| {
            let reduce = Reduce::Max;
            let broadcast = Collective::Broadcast { root: i % size };
            [broadcast, Collective::AllReduce { reduce }]
        })
        .map(|collective| Call::new(collective, "staggered"))
        .collect();
    let start = |call: &Call| {
        let silent = matches!(call.collective, Collective::Broadcast { root } if root != rank);
        let input = vec![7_i64; if silent { 0 } else { 3 }];
        world.start(call.clone(), input.into())
    };
    let wait = |pending: Box<dyn crate::Pending>| match pending.wait()? {
        crate::Buffer::Host(found) => same("a staggered result", &found, &vec![7_i64; 3].into()),
        other => Err(Wrong(format!("a host buffer came back as {other:?}"))),
    };
    if rank.is_multiple_of(2) {
        return calls.iter().try_for_each(|call| wait(start(call)?));
    }
    let all: Result<Vec<_>, CommError> = calls.iter().map(start).collect();
    all?.into_iter().rev().try_for_each(wait)
}

fn ready(world: &Arc<dyn Transport>) -> Outcome {
    let call = Call::new(
        Collective::AllReduce {
            reduce: Reduce::Sum,
        },
        "ready",
    );
    let pending = world.start(call, vec![1.0_f32].into())?;
    world.barrier("all have started it")?;
    let start = Instant::now();
    while !pending.ready() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(Wrong(
                "a call that all have made does not become ready".to_string(),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    pending.wait()?;
    Ok(())
}

fn refused(world: &Arc<dyn Transport>) -> Outcome {
    let size = world.size();
    let zeros = |len| vec![0.0_f32; len];
    let wrong: [(Collective, usize); 6] = [
        (
            Collective::AllGather {
                lens: vec![3; size],
            },
            2,
        ),
        (
            Collective::AllGather {
                lens: vec![3; size + 1],
            },
            3,
        ),
        (
            Collective::ReduceScatter {
                reduce: Reduce::Sum,
                lens: vec![2; size],
            },
            2 * size + 1,
        ),
        (
            Collective::AllToAll {
                lens: vec![vec![1; size + 1]; size],
            },
            size + 1,
        ),
        (Collective::Broadcast { root: size }, 0),
        (
            Collective::Exchange {
                to: Some(size),
                from: None,
                len: 0,
            },
            1,
        ),
    ];
    for (collective, len) in wrong {
        let call = Call::new(collective, "nonsense");
        match world.start(call.clone(), zeros(len).into()) {
            Err(CommError::BadLength { .. } | CommError::BadCall { .. }) => {}
            Err(other) => return Err(Wrong(format!("{call:?} of {len} elements: {other}"))),
            Ok(_) => return Err(Wrong(format!("{call:?} of {len} elements was started"))),
        }
    }
    talk(world)
}
