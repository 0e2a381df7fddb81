//! Times collectives between ranks that are threads: `bench [RANKS]`, two unless said otherwise.

use kinora_comm::{Buffer, CommError, Reduce, Transport, local};
use std::sync::Arc;
use std::time::{Duration, Instant};

// The program's allocator: with another one, large buffers cost more page faults than work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [(&str, usize, usize); 3] = [
    ("4 KB", 1 << 10, 2000),
    ("1 MB", 1 << 18, 400),
    ("64 MB", 1 << 24, 9),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ranks = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    println!("{ranks} ranks, f32, median and fastest of the slowest rank");
    for times in local::run(&local::World::new(ranks, 1), bench)?.swap_remove(0) {
        println!("{times}");
    }
    Ok(())
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
