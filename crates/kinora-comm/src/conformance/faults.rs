//! What becomes of the others when a rank goes astray, is late, is lost or gives up.

use super::{Check, Outcome, Wrong, same};
use crate::{Buffer, Call, Collective, CommError, Dtype, Reduce, Transport, Whereabouts};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

// Long enough for a busy machine to let a rank give a sign of life in time.
const SHORT: Duration = Duration::from_millis(500);
// What a failure that needs no deadline may take to be known, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
// The rank that goes wrong in all checks.
const ODD: usize = 1;
const ON_PURPOSE: &str = "on purpose";

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        "unlike labels are a mismatch on all ranks",
        &[2, 3],
        unlike_labels,
    ),
    Check::new(
        "unlike lengths are a mismatch on all ranks",
        &[2, 3],
        unlike_lengths,
    ),
    Check::new(
        "unlike dtypes are a mismatch on all ranks",
        &[2, 3],
        unlike_dtypes,
    ),
    Check::new(
        "unlike kinds are a mismatch on all ranks",
        &[2, 3],
        unlike_kinds,
    ),
    Check::new(
        "unlike reductions are a mismatch on all ranks",
        &[2, 3],
        unlike_reductions,
    ),
    Check::new(
        "unlike sums are a mismatch on all ranks",
        &[2, 3],
        unlike_sums,
    ),
    Check::new(
        "unlike parts are a mismatch on all ranks",
        &[2, 3],
        unlike_parts,
    ),
    Check::new(
        "a mismatch in a part ends the others too",
        &[4],
        mismatch_in_part,
    ),
    Check::new(
        "an exchange that does not fit fails on all ranks",
        &[2, 3],
        unlike_exchanges,
    ),
    Check::new(
        "a sum in a narrower dtype fails on all ranks",
        &[2, 3],
        narrower_sum,
    ),
    Check::new("a late rank is named", &[2, 3], late).within(SHORT),
    Check::new("a heartbeat keeps a slow rank alive", &[2, 3], slow).within(SHORT),
    Check::new(
        "a rank that waits for a slow one is alive",
        &[3],
        slow_chain,
    )
    .within(SHORT),
    Check::new("a circle of waits is found", &[2, 3], circle).within(SHORT),
    Check::new("a rank that panics is named", &[2, 3], panicked).falls(ODD),
    Check::new("a rank that fails is named", &[2, 3], failed).falls(ODD),
    Check::new("a rank that ends early is named", &[2, 3], ended),
    Check::new("a rank that is long gone is named", &[2, 3], long_gone).falls(ODD),
    Check::new("one rank can stop all", &[2, 3], abort),
];

fn reduce_call(label: &'static str) -> Call {
    Call::new(
        Collective::AllReduce {
            reduce: Reduce::Sum,
        },
        label,
    )
}

/// Says where this rank is, for the errors of the others.
fn say(world: &Arc<dyn Transport>) {
    world.at("somewhere else");
    world.at(&place(world.rank()));
}

fn place(rank: usize) -> String {
    format!("the place of rank {rank}")
}

/// Whether an error holds what a rank said last.
fn said(rank: usize, seen: &Whereabouts) -> Outcome {
    same(
        "where it was last seen",
        &seen.place(),
        &Some(place(rank).as_str()),
    )
}

fn make(world: &Arc<dyn Transport>, call: Call, input: Buffer) -> Result<Buffer, CommError> {
    world.start(call, input)?.wait()
}

/// The error of a call that must fail, and with it all calls of the world from then on, at once.
fn broken<T>(world: &Arc<dyn Transport>, result: Result<T, CommError>) -> Result<CommError, Wrong> {
    let Err(error) = result else {
        return Err(Wrong("a call that should fail succeeded".to_string()));
    };
    let start = Instant::now();
    let Err(again) = world.barrier("after the failure") else {
        return Err(Wrong("a world that has failed went on".to_string()));
    };
    // The first failure is the one that counts, though each names what it meets at.
    let kind = std::mem::discriminant::<CommError>;
    same("the failure of a later call", &kind(&again), &kind(&error))?;
    if start.elapsed() > SOON {
        return Err(Wrong(format!(
            "a later call took {:?} to fail",
            start.elapsed()
        )));
    }
    Ok(error)
}

fn mismatch(world: &Arc<dyn Transport>, call: Call, input: Buffer) -> Outcome {
    say(world);
    world.barrier("first")?;
    // The news of a quarrel may overtake what a third rank sent before, so that one who still waits in
    // the second barrier hears of it there.
    let second = world.barrier("second");
    let error = broken(world, second.and_then(|()| make(world, call, input)))?;
    let CommError::Mismatch {
        communicator,
        sequence,
        first,
        first_call,
        second,
        second_call,
        first_seen,
        second_seen,
    } = &error
    else {
        return Err(Wrong(format!("not a mismatch: {error}")));
    };
    said(*first, first_seen)?;
    said(*second, second_seen)?;
    same("the communicator", &communicator.as_str(), &world.name())?;
    same("the call", sequence, &2)?;
    same(
        "whether one of the two is odd",
        &((*first == ODD) != (*second == ODD)),
        &true,
    )?;
    same(
        "whether the two calls read the same",
        &(first_call == second_call),
        &false,
    )
}

fn unlike_labels(world: &Arc<dyn Transport>) -> Outcome {
    let label = if world.rank() == ODD {
        "the one"
    } else {
        "the other"
    };
    mismatch(world, reduce_call(label), vec![1.0_f32].into())
}

fn unlike_lengths(world: &Arc<dyn Transport>) -> Outcome {
    let len = if world.rank() == ODD { 3 } else { 4 };
    mismatch(world, reduce_call("sum"), vec![1.0_f32; len].into())
}

fn unlike_dtypes(world: &Arc<dyn Transport>) -> Outcome {
    let odd = world.rank() == ODD;
    let input: Buffer = if odd {
        vec![1_i32].into()
    } else {
        vec![1.0_f32].into()
    };
    mismatch(world, reduce_call("sum"), input)
}

fn unlike_kinds(world: &Arc<dyn Transport>) -> Outcome {
    let odd = world.rank() == ODD;
    let lens = vec![1; world.size()];
    let gather = Call::new(Collective::AllGather { lens }, "sum");
    mismatch(
        world,
        if odd { gather } else { reduce_call("sum") },
        vec![1.0_f32].into(),
    )
}

fn unlike_reductions(world: &Arc<dyn Transport>) -> Outcome {
    let reduce = if world.rank() == ODD {
        Reduce::Max
    } else {
        Reduce::Sum
    };
    let call = Call::new(Collective::AllReduce { reduce }, "sum");
    mismatch(world, call, vec![1.0_f32].into())
}

fn unlike_sums(world: &Arc<dyn Transport>) -> Outcome {
    let accumulate = (world.rank() == ODD).then_some(Dtype::F64);
    mismatch(
        world,
        Call {
            accumulate,
            ..reduce_call("sum")
        },
        vec![1.0_f32].into(),
    )
}

fn unlike_parts(world: &Arc<dyn Transport>) -> Outcome {
    // Each rank's own part fits, so only the comparison can tell.
    let mut lens = vec![2; world.size()];
    if world.rank() == ODD {
        lens[0] = 5;
    }
    mismatch(
        world,
        Call::new(Collective::AllGather { lens }, "parts"),
        vec![1.0_f32; 2].into(),
    )
}

fn mismatch_in_part(world: &Arc<dyn Transport>) -> Outcome {
    let rank = world.rank();
    // The first two may hear of it in the split already.
    let result = match (world.split(Some(rank / 2), "pair"), rank) {
        (Err(error), _) => Err(error),
        (Ok(None), _) => return Err(Wrong("a split lost its communicator".to_string())),
        (Ok(Some(_)), 0 | 1) => world.barrier("for ranks that do not come"),
        (Ok(Some(part)), 2) => part.barrier("one"),
        (Ok(Some(part)), _) => part.barrier("other"),
    };
    let error = broken(world, result)?;
    let CommError::Mismatch {
        first,
        second,
        sequence,
        ..
    } = &error
    else {
        return Err(Wrong(format!("not a mismatch: {error}")));
    };
    let mut both = [*first, *second];
    both.sort();
    same("the ranks, as the world counts them", &both, &[2, 3])?;
    same("the call of the pair", sequence, &0)
}

fn unlike_exchanges(world: &Arc<dyn Transport>) -> Outcome {
    // Rank 0 sends to one that expects nothing.
    let to = (world.rank() == 0).then_some(ODD);
    let input = vec![1.0_f32; usize::from(to.is_some())];
    let result = world.exchange(input.into(), to, None, 0, "one-sided");
    let result = result.and_then(|_| world.barrier("after it"));
    match broken(world, result)? {
        CommError::BadCall { .. } => Ok(()),
        other => Err(Wrong(format!("not a bad call: {other}"))),
    }
}

fn narrower_sum(world: &Arc<dyn Transport>) -> Outcome {
    let call = Call {
        accumulate: Some(Dtype::F16),
        ..reduce_call("sum")
    };
    match make(world, call, vec![1.0_f32].into()) {
        Err(CommError::Unsupported { .. }) => Ok(()),
        other => Err(Wrong(format!("{other:?}"))),
    }
}

fn late(world: &Arc<dyn Transport>) -> Outcome {
    world.barrier("start")?;
    say(world);
    let start = Instant::now();
    if world.rank() == ODD {
        // Longer than the deadline, but not so long that the world gives it up for stuck.
        sleep(SHORT * 8 / 5);
    }
    let error = broken(
        world,
        make(world, reduce_call("of all"), vec![1.0_f32].into()),
    )?;
    let CommError::Late {
        rank,
        operation,
        communicator,
        sequence,
        waited,
        seen,
    } = &error
    else {
        return Err(Wrong(format!("not a late rank: {error}")));
    };
    same("who is late", rank, &ODD)?;
    said(ODD, seen)?;
    same(
        "whether the operation is named",
        &operation.contains("of all"),
        &true,
    )?;
    same("the communicator", &communicator.as_str(), &world.name())?;
    same("the call", sequence, &1)?;
    same(
        "whether it had until the deadline",
        &(*waited >= SHORT),
        &true,
    )?;
    if world.rank() != ODD && start.elapsed() > 3 * SHORT {
        return Err(Wrong(format!("found only after {:?}", start.elapsed())));
    }
    Ok(())
}

/// Works for longer than the deadline, with signs of life.
fn work_slowly(transport: &Arc<dyn Transport>) {
    let start = Instant::now();
    while start.elapsed() < 3 * SHORT {
        sleep(SHORT / 10);
        transport.heartbeat();
    }
}

fn slow(world: &Arc<dyn Transport>) -> Outcome {
    world.barrier("start")?;
    if world.rank() == ODD {
        work_slowly(world);
    }
    make(world, reduce_call("of all"), vec![1.0_f32].into())?;
    Ok(())
}

fn slow_chain(world: &Arc<dyn Transport>) -> Outcome {
    let rank = world.rank();
    let front = world.split((rank < 2).then_some(0), "front")?;
    let back = world.split((rank > 0).then_some(0), "back")?;
    if rank == 2 {
        work_slowly(world);
    }
    // Rank 0 waits for rank 1, which waits for rank 2.
    for part in [back, front].into_iter().flatten() {
        make(&part, reduce_call("of two"), vec![1.0_f32].into())?;
    }
    Ok(())
}

fn circle(world: &Arc<dyn Transport>) -> Outcome {
    let rank = world.rank();
    let [one, two] = ["one", "two"].map(|name| world.split(Some(0), name));
    let (Some(one), Some(two)) = (one?, two?) else {
        return Err(Wrong("a split lost its communicator".to_string()));
    };
    say(world);
    let start = Instant::now();
    let wrong_way = rank == ODD;
    let result = if wrong_way {
        two.barrier("in two")
    } else {
        one.barrier("in one")
    };
    let error = broken(world, result)?;
    let CommError::Deadlock {
        first,
        first_call,
        second,
        second_call,
        first_seen,
        second_seen,
    } = &error
    else {
        return Err(Wrong(format!("not a circle: {error}")));
    };
    said(*first, first_seen)?;
    said(*second, second_seen)?;
    same(
        "whether one of the two is odd",
        &((*first == ODD) != (*second == ODD)),
        &true,
    )?;
    let both = format!("{first_call} {second_call}");
    same(
        "whether both calls are named",
        &(both.contains("one") && both.contains("two")),
        &true,
    )?;
    if start.elapsed() > 3 * SHORT {
        return Err(Wrong(format!("found only after {:?}", start.elapsed())));
    }
    Ok(())
}

/// The others' part in the loss of a rank.
fn bereft(world: &Arc<dyn Transport>, cause: &str) -> Outcome {
    let start = Instant::now();
    let error = broken(
        world,
        make(world, reduce_call("of all"), vec![1.0_f32].into()),
    )?;
    let CommError::PeerLost {
        rank,
        operation,
        communicator,
        cause: found,
        seen,
        ..
    } = &error
    else {
        return Err(Wrong(format!("not a lost rank: {error}")));
    };
    same("who is lost", rank, &ODD)?;
    said(ODD, seen)?;
    same(
        "whether the operation is named",
        &operation.contains("of all"),
        &true,
    )?;
    same("the communicator", &communicator.as_str(), &world.name())?;
    if !found.contains(cause) {
        return Err(Wrong(format!("the cause {found:?} does not say {cause:?}")));
    }
    if start.elapsed() > SOON {
        return Err(Wrong(format!("found only after {:?}", start.elapsed())));
    }
    Ok(())
}

fn unwind() -> ! {
    // Without the message that a panic prints, which would look like a failure of the check.
    std::panic::resume_unwind(Box::new(ON_PURPOSE.to_string()))
}

fn panicked(world: &Arc<dyn Transport>) -> Outcome {
    world.barrier("start")?;
    say(world);
    if world.rank() == ODD {
        sleep(SHORT / 10);
        unwind();
    }
    bereft(world, ON_PURPOSE)
}

fn failed(world: &Arc<dyn Transport>) -> Outcome {
    world.barrier("start")?;
    say(world);
    if world.rank() == ODD {
        sleep(SHORT / 10);
        return Err(Wrong(ON_PURPOSE.to_string()));
    }
    bereft(world, ON_PURPOSE)
}

fn ended(world: &Arc<dyn Transport>) -> Outcome {
    world.barrier("start")?;
    say(world);
    if world.rank() == ODD {
        sleep(SHORT / 10);
        return Ok(());
    }
    bereft(world, "ended")
}

fn long_gone(world: &Arc<dyn Transport>) -> Outcome {
    say(world);
    if world.rank() == ODD {
        unwind();
    }
    sleep(SHORT / 2);
    bereft(world, ON_PURPOSE)
}

fn abort(world: &Arc<dyn Transport>) -> Outcome {
    let rank = world.rank();
    let part = world.split((rank != ODD).then_some(0), "the others")?;
    let start = Instant::now();
    let result = match (rank, part) {
        (ODD, _) => {
            sleep(SHORT / 10);
            world.abort(ON_PURPOSE);
            world.barrier("after it")
        }
        // Rank 0 waits for one that waits for rank 1.
        (0, Some(part)) if part.size() > 1 => part.barrier("of the others"),
        _ => world.barrier("of all"),
    };
    match broken(world, result)? {
        CommError::Aborted { rank, reason } => {
            same("who stopped", &rank, &ODD)?;
            same("why", &reason.as_str(), &ON_PURPOSE)?;
        }
        other => return Err(Wrong(format!("not stopped: {other}"))),
    }
    if start.elapsed() > SOON {
        return Err(Wrong(format!("stopped only after {:?}", start.elapsed())));
    }
    Ok(())
}
