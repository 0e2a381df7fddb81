//! Random faults: in each world of a few ranks, one of them panics, stalls or leaves at a random
//! place of random collectives on random communicators, and all others must end soon, name it and say
//! where it was.
//!
//! `faults [--over local|tcp|mpi] [--count 200] [--seed 1] [--deadline-ms 300] [--jobs 4]`; over MPI,
//! `mpirun -n 4 faults --over mpi`. Exits with 1 if a rank ends late or blames another.

use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::process::{self, Process, Settings};
use kinora_comm::tcp::Rendezvous;
use kinora_comm::{Call, Collective, CommError, Reduce, Transport, Whereabouts};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const ON_PURPOSE: &str = "on purpose";
// Over the deadlines: for a busy machine to let ranks run.
const MARGIN: Duration = Duration::from_secs(3);
const MOST_RANKS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Panic,
    Stall,
    Leave,
}

/// What all ranks of a world do, and which of them goes wrong.
#[derive(Clone, Debug)]
struct Plan {
    ranks: usize,
    steps: Vec<Step>,
    kind: Kind,
    culprit: usize,
    at: usize,
    // Whether it goes wrong between the start of a call and the wait for it.
    inside: bool,
    deadline: Duration,
}

#[derive(Clone, Debug)]
enum Step {
    // Of a communicator, by the colors of world ranks; none for those of color 0.
    Split(usize, Vec<usize>),
    // On a communicator, of a kind and a length.
    Collective(usize, usize, usize),
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % end as u64) as usize
    }
}

impl Plan {
    fn new(seed: u64, most: usize, deadline: Duration) -> Self {
        let mut random = Random(seed);
        let ranks = 2 + random.below(most - 1);
        let mut communicators = 1;
        let steps: Vec<Step> = (0..3 + random.below(12))
            .map(|_| {
                let on = random.below(communicators);
                if random.below(4) == 0 {
                    communicators += 1;
                    return Step::Split(on, (0..ranks).map(|_| random.below(3)).collect());
                }
                // Some are large enough to go by slices.
                let len = [0, 5, 700, 9000][random.below(4)];
                Step::Collective(on, random.below(7), len)
            })
            .collect();
        Self {
            ranks,
            kind: [Kind::Panic, Kind::Stall, Kind::Leave][random.below(3)],
            culprit: random.below(ranks),
            at: random.below(steps.len()),
            inside: random.below(2) == 0,
            steps,
            deadline,
        }
    }

    /// One rank's part.
    fn run(&self, world: &Arc<dyn Transport>) -> Result<(), CommError> {
        let rank = world.rank();
        let mut communicators = vec![Some(world.clone())];
        for (i, step) in self.steps.iter().enumerate() {
            world.at(&place(rank, i));
            let wrong = rank == self.culprit && i == self.at;
            if wrong && !self.inside && self.go_wrong() {
                return Ok(());
            }
            match step {
                Step::Split(on, colors) => {
                    let on = communicators[*on].clone();
                    let color = Some(colors[rank]).filter(|&color| color > 0);
                    let part = on.map(|on| on.split(color, "part")).transpose()?;
                    communicators.push(part.flatten());
                }
                Step::Collective(on, kind, len) => {
                    if let Some(on) = &communicators[*on] {
                        let (call, len) = call(*kind, *len, on.rank(), on.size());
                        let pending = on.start(call, vec![1.0_f32; len].into())?;
                        if wrong && self.inside && self.go_wrong() {
                            return Ok(());
                        }
                        pending.wait()?;
                        continue;
                    }
                }
            }
            if wrong && self.inside && self.go_wrong() {
                return Ok(());
            }
        }
        world.barrier("last but one")?;
        world.barrier("last")
    }

    /// Whether the rank leaves.
    fn go_wrong(&self) -> bool {
        match self.kind {
            Kind::Panic => resume_unwind(Box::new(ON_PURPOSE.to_string())),
            Kind::Stall => {
                sleep(self.deadline * 9 / 4);
                false
            }
            Kind::Leave => true,
        }
    }

    /// What is wrong with a rank's report, if anything; nothing to report is right for the leaver.
    fn fault_in(&self, rank: usize, report: &Result<(), RankFailure<CommError>>) -> Option<String> {
        let failure = match report {
            Ok(()) if rank == self.culprit && self.kind == Kind::Leave => return None,
            Ok(()) => return Some("no failure was seen".to_string()),
            Err(failure) => failure,
        };
        let right = match &failure.what {
            What::Panic(text) => {
                let expected = format!("{ON_PURPOSE}\n  last seen at {}", self.place());
                failure.rank == self.culprit && *text == expected
            }
            What::Error(error) | What::Comm(error) => match error {
                CommError::PeerLost {
                    rank, cause, seen, ..
                } => {
                    let expected = match self.kind {
                        Kind::Panic => ON_PURPOSE,
                        Kind::Leave => "ended",
                        Kind::Stall => return Some(format!("not late: {failure}")),
                    };
                    *rank == self.culprit && cause.contains(expected) && self.is_at(seen)
                }
                CommError::Late { rank, seen, .. } => {
                    *rank == self.culprit && self.kind == Kind::Stall && self.is_at(seen)
                }
                _ => false,
            },
        };
        (!right).then(|| failure.to_string())
    }

    /// Where the culprit goes wrong, as it says itself.
    fn place(&self) -> String {
        place(self.culprit, self.at)
    }

    fn is_at(&self, seen: &Whereabouts) -> bool {
        seen.place() == Some(self.place().as_str())
    }

    /// By when every rank must have ended: found, and the stalled one awake or given up.
    fn limit(&self) -> Duration {
        3 * self.deadline + MARGIN
    }
}

fn place(rank: usize, step: usize) -> String {
    format!("step {step}, as rank {rank} says")
}

fn call(kind: usize, len: usize, rank: usize, size: usize) -> (Call, usize) {
    let lens: Vec<usize> = (0..size).map(|i| len / (i + 1)).collect();
    let reduce = Reduce::Sum;
    let (collective, len) = match kind {
        0 => (Collective::AllReduce { reduce }, len),
        1 => (Collective::AllGather { lens: lens.clone() }, lens[rank]),
        2 => {
            let total = lens.iter().sum();
            (Collective::ReduceScatter { reduce, lens }, total)
        }
        3 => {
            let total = lens.iter().sum();
            let lens = vec![lens; size];
            (Collective::AllToAll { lens }, total)
        }
        4 => {
            let root = len % size;
            (
                Collective::Broadcast { root },
                if rank == root { len } else { 0 },
            )
        }
        5 => {
            let (to, from) = (Some((rank + 1) % size), Some((rank + size - 1) % size));
            (Collective::Exchange { to, from, len }, len)
        }
        _ => (Collective::Barrier, 0),
    };
    (Call::new(collective, "faults"), len)
}

#[derive(Debug)]
struct Options {
    over: String,
    count: u64,
    seed: u64,
    deadline: Duration,
    jobs: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        over: "local".into(),
        count: 200,
        seed: 1,
        deadline: Duration::from_millis(300),
        jobs: 4,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|error| format!("{name}: {error}"))
        };
        match name.as_str() {
            "--over" => options.over = value,
            "--count" => options.count = number()?,
            "--seed" => options.seed = number()?,
            "--deadline-ms" => options.deadline = Duration::from_millis(number()?),
            "--jobs" => options.jobs = number()? as usize,
            _ => return Err(format!("no option is named {name}")),
        }
    }
    Ok(options)
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Tally {
    kinds: BTreeMap<Kind, u64>,
    wrongs: Vec<String>,
    slowest: Duration,
}

impl Tally {
    /// Counts a rank's report of one world.
    fn judge(
        &mut self,
        seed: u64,
        plan: &Plan,
        rank: usize,
        report: &Result<(), RankFailure<CommError>>,
        took: Duration,
    ) {
        self.slowest = self.slowest.max(took);
        let late = (took > plan.limit()).then(|| format!("ended only after {took:?}"));
        for wrong in plan.fault_in(rank, report).into_iter().chain(late) {
            let (kind, culprit, at) = (plan.kind, plan.culprit, plan.at);
            self.wrongs.push(format!(
                "seed {seed}, {} ranks, rank {culprit} at step {at} ({kind:?}): rank {rank}: {wrong}",
                plan.ranks
            ));
        }
    }
}

fn settings() -> Settings {
    Settings {
        on_stuck: OnStuck::Leak,
        ..Settings::new(1)
    }
}

fn over_local(seed: u64, plan: &Plan, tally: &Mutex<Tally>) {
    let world = World {
        deadline: plan.deadline,
        on_stuck: OnStuck::Leak,
        ..World::new(plan.ranks, 1)
    };
    let (start, body) = (Instant::now(), plan.clone());
    let report = local::run(&world, move |world| body.run(&world)).map(drop);
    let took = start.elapsed();
    let mut tally = tally.lock().expect("nobody panics with it");
    // One report for all ranks, which is not the leaver's.
    let rank = (plan.culprit + 1) % plan.ranks;
    tally.judge(seed, plan, rank, &report, took);
}

fn one_rank(seed: u64, plan: &Plan, process: &Process, tally: &Mutex<Tally>) {
    let (start, body) = (Instant::now(), plan.clone());
    let report = process::run(process, &settings(), move |world| body.run(&world));
    let took = start.elapsed();
    let mut tally = tally.lock().expect("nobody panics with it");
    tally.judge(seed, plan, process.rank(), &report, took);
}

fn over_tcp(seed: u64, plan: &Plan, tally: &Mutex<Tally>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one").to_string();
    drop(listener);
    thread::scope(|scope| {
        for rank in 0..plan.ranks {
            let address = &address;
            scope.spawn(move || {
                let mut rendezvous = Rendezvous::new(address, rank, plan.ranks, plan.deadline);
                rendezvous.patience = Duration::from_secs(20);
                match rendezvous.join() {
                    Ok(process) => {
                        one_rank(seed, plan, &process, tally);
                    }
                    Err(error) => {
                        let mut tally = tally.lock().expect("nobody panics with it");
                        tally.wrongs.push(format!("seed {seed}: {error}"));
                    }
                }
            });
        }
    });
}

fn in_turn(options: &Options, one: fn(u64, &Plan, &Mutex<Tally>)) -> Tally {
    let tally = Mutex::new(Tally::default());
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= options.count {
                        return;
                    }
                    let seed = options.seed + i;
                    let plan = Plan::new(seed, MOST_RANKS, options.deadline);
                    let mut counted = tally.lock().expect("nobody panics with it");
                    *counted.kinds.entry(plan.kind).or_default() += 1;
                    drop(counted);
                    one(seed, &plan, &tally);
                }
            });
        }
    });
    tally.into_inner().expect("nobody panics with it")
}

/// One world after the other, of the processes that MPI has started.
#[cfg(feature = "mpi")]
fn over_mpi(options: &Options) -> Result<Option<Tally>, CommError> {
    use kinora_comm::mpi::Fabric;
    use kinora_comm::{Buffer, Element};
    let fabric = Fabric::join()?;
    if fabric.size() < 2 {
        return Err(CommError::Refused {
            address: "MPI".into(),
            what: "a fault needs a rank that sees it\n  help: mpirun -n 4".into(),
        });
    }
    let all = fabric.world(fabric.size(), Duration::from_secs(60));
    let all = all.expect("every process is one of all");
    let tally = Mutex::new(Tally::default());
    for seed in options.seed..options.seed + options.count {
        let plan = Plan::new(seed, fabric.size(), options.deadline);
        let mut counted = tally.lock().expect("nobody panics with it");
        *counted.kinds.entry(plan.kind).or_default() += 1;
        drop(counted);
        // A rank that was stalled must not be late in the next world too.
        all.transport().barrier("next world")?;
        if let Some(process) = fabric.world(plan.ranks, plan.deadline) {
            one_rank(seed, &plan, &process, &tally);
        }
    }
    let mut tally = tally.into_inner().expect("nobody panics with it");
    for wrong in &tally.wrongs {
        eprintln!("error: {wrong}");
    }
    // Rank 0 speaks for all.
    let mine = [tally.wrongs.len() as i64, tally.slowest.as_millis() as i64];
    let world = all.transport();
    let sum = world.all_reduce(vec![mine[0]].into(), Reduce::Sum, "wrongs")?;
    let most = world.all_reduce(vec![mine[1]].into(), Reduce::Max, "slowest")?;
    let number = |buffer| match buffer {
        Buffer::Host(buffer) => i64::take(buffer).map_or(0, |values| values[0]),
        Buffer::Device(_) => unreachable!("host buffers come back as such"),
    };
    tally.slowest = Duration::from_millis(number(most) as u64);
    let more = number(sum) as usize - tally.wrongs.len();
    tally
        .wrongs
        .extend((0..more).map(|_| "as another rank reports".to_string()));
    Ok((all.rank() == 0).then_some(tally))
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(_: &Options) -> Result<Option<Tally>, CommError> {
    Err(CommError::Refused {
        address: "MPI".into(),
        what: "built without it\n  help: cargo run --features mpi".into(),
    })
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            return ExitCode::FAILURE;
        }
    };
    let start = Instant::now();
    let tally = match options.over.as_str() {
        "local" => Some(in_turn(&options, over_local)),
        "tcp" => Some(in_turn(&options, over_tcp)),
        "mpi" => match over_mpi(&options) {
            Ok(tally) => tally,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        },
        other => {
            eprintln!("error: no transport is named {other}");
            return ExitCode::FAILURE;
        }
    };
    let Some(tally) = tally else {
        return ExitCode::SUCCESS;
    };
    println!(
        "{} faults over {} in {:.1} s {:?}: {} wrong reports, slowest rank {:.2} s, deadline {:?}",
        options.count,
        options.over,
        start.elapsed().as_secs_f64(),
        tally.kinds,
        tally.wrongs.len(),
        tally.slowest.as_secs_f64(),
        options.deadline
    );
    for wrong in &tally.wrongs {
        eprintln!("error: {wrong}");
    }
    if tally.wrongs.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
