//! Times collectives: `bench [RANKS]`, two unless said otherwise, between threads, and over TCP
//! between the same threads; `mpirun -n 2 bench mpi` over MPI, if built with it.

use kinora_comm::process::{self, Process, Settings};
use kinora_comm::{Buffer, CommError, Reduce, Transport, local, tcp};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

// The program's allocator: with another one, large buffers cost more page faults than work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [(&str, usize, usize); 3] = [
    ("4 KB", 1 << 10, 2000),
    ("1 MB", 1 << 18, 400),
    ("64 MB", 1 << 24, 9),
];

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("mpi") {
        return over_mpi();
    }
    let ranks = argument.map_or(Ok(2), |text| text.parse())?;
    let found = local::run(&local::World::new(ranks, 1), bench)?;
    report(ranks, "threads", &found[0]);
    report(ranks, "tcp", &over_tcp(ranks)?);
    Ok(())
}

fn report(ranks: usize, over: &str, times: &[String]) {
    println!("{ranks} ranks over {over}, f32, median and fastest of the slowest rank");
    times.iter().for_each(|times| println!("{times}"));
}

fn over_tcp(ranks: usize) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let address = &address.to_string();
    let found = thread::scope(|scope| {
        let join = |rank| {
            scope.spawn(move || {
                let process = tcp::join(address, rank, ranks, PATIENCE);
                run(&process.map_err(|error| error.to_string())?)
            })
        };
        let ranks: Vec<_> = (0..ranks).map(join).collect();
        let join = |rank: thread::ScopedJoinHandle<'_, _>| rank.join().expect("no rank panics");
        ranks.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    });
    Ok(found?.swap_remove(0))
}

fn run(process: &Process) -> Result<Vec<String>, String> {
    let found = process::run(process, &Settings::new(1), bench);
    found.map_err(|failure| failure.to_string())
}

#[cfg(feature = "mpi")]
fn over_mpi() -> Result<(), Box<dyn std::error::Error>> {
    let process = kinora_comm::mpi::join(PATIENCE)?;
    let found = run(&process)?;
    if process.rank() == 0 {
        report(process.size(), "mpi", &found);
    }
    Ok(())
}

#[cfg(not(feature = "mpi"))]
fn over_mpi() -> Result<(), Box<dyn std::error::Error>> {
    Err("built without MPI\n  help: cargo run --features mpi".into())
}

fn bench(world: Arc<dyn Transport>) -> Result<Vec<String>, CommError> {
    let mut report = vec![];
    for (name, len, repeats) in SIZES {
        let lens = vec![len / world.size(); world.size()];
        let whole = || Buffer::from(vec![1.0_f32; len]);
        let reduced = time(&world, repeats, whole, |buffer| {
            world.all_reduce(buffer, Reduce::Sum, "all-reduce")
        })?;
        let sharded = time(&world, repeats, whole, |buffer| {
            let mine = world.reduce_scatter(buffer, Reduce::Sum, lens.clone(), "reduce-scatter")?;
            world.all_gather(mine, lens.clone(), "all-gather")
        })?;
        report.push(format!(
            "{name:>6}: all-reduce {reduced}, reduce-scatter + all-gather {sharded}"
        ));
    }
    Ok(report)
}

/// Times `work`, with a barrier and a fresh buffer before each time.
fn time(
    world: &Arc<dyn Transport>,
    repeats: usize,
    buffer: impl Fn() -> Buffer,
    work: impl Fn(Buffer) -> Result<Buffer, CommError>,
) -> Result<String, CommError> {
    let mut times = vec![];
    for _ in 0..repeats {
        let input = buffer();
        world.barrier("start")?;
        let start = Instant::now();
        let output = work(input)?;
        let mine = start.elapsed().as_nanos() as i64;
        drop(output);
        let Buffer::Host(slowest) = world.all_reduce(vec![mine].into(), Reduce::Max, "slowest")?
        else {
            unreachable!("host buffers come back as such");
        };
        let slowest: Vec<i64> =
            kinora_comm::Element::take(slowest).expect("an all-reduce keeps the type");
        times.push(Duration::from_nanos(slowest[0] as u64));
    }
    times.sort();
    Ok(format!("{:.1?} ({:.1?})", times[times.len() / 2], times[0]))
}
