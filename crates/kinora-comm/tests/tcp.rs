//! The transport of processes over TCP, with the ranks as threads of this one: the conformance
//! suite, bits and bytes, how worlds form and how ranks end.

mod scripts;

use kinora_comm::conformance::{self, Check, Outcome, exercise};
use kinora_comm::local::{self, OnStuck, RankFailure, What, World};
use kinora_comm::process::{self, Process, Settings};
use kinora_comm::tcp::{self, Rendezvous};
use kinora_comm::{Buffer, Call, Collective, CommError, Dtype, HostBuffer, Reduce, Transport};
use proptest::prelude::*;
use scripts::scripts;
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

/// An address that nobody listens at.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Runs `work` on every rank of a world, each a thread that joins by itself.
fn each<R: Send>(size: usize, deadline: Duration, work: impl Fn(Process) -> R + Sync) -> Vec<R> {
    let address = address();
    thread::scope(|scope| {
        let join = |rank| {
            let (address, work) = (&address, &work);
            scope.spawn(move || {
                let mut rendezvous = Rendezvous::new(address, rank, size, deadline);
                rendezvous.patience = LONG;
                rendezvous.token = "a secret".to_string();
                work(rendezvous.join().unwrap())
            })
        };
        let ranks: Vec<_> = (0..size).map(join).collect();
        ranks.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

fn settings() -> Settings {
    Settings {
        on_stuck: OnStuck::Leak,
        ..Settings::new(1)
    }
}

type Ended<T, E = CommError> = Result<T, RankFailure<E>>;

/// Runs a body on every rank of a world.
#[expect(
    clippy::result_large_err,
    reason = "it is returned once, at the end of a test"
)]
fn run<T, E, F>(size: usize, deadline: Duration, body: F) -> Vec<Ended<T, E>>
where
    T: Send + 'static,
    E: fmt::Display + Send + 'static,
    F: Fn(Arc<dyn Transport>) -> Result<T, E> + Clone + Send + Sync + 'static,
{
    each(size, deadline, |process| {
        process::run(&process, &settings(), body.clone())
    })
}

fn spawn(check: &'static Check, ranks: usize) -> Vec<Option<Outcome>> {
    let outcomes = Arc::new(Mutex::new(vec![None; ranks]));
    let found = outcomes.clone();
    let _ = run(ranks, check.deadline, move |transport| {
        let outcome = check.run(&transport);
        found.lock().unwrap()[transport.rank()] = Some(outcome.clone());
        outcome
    });
    outcomes.lock().unwrap().clone()
}

#[test]
fn conforms() {
    conformance::run(&[], spawn).unwrap_or_else(|wrongs| panic!("{wrongs}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_calls_agree_with_the_reference_in_parts(
        (ranks, steps, orders) in scripts(3),
        parts in 1..3_usize,
    ) {
        let ended = run(ranks * parts, LONG, move |transport| {
            let part = transport.split(Some(transport.rank() % parts), "part")?;
            let part = part.expect("every rank has a color");
            exercise(&part, &steps, &orders[part.rank()])
        });
        for ended in ended {
            prop_assert!(ended.is_ok(), "{}", ended.unwrap_err());
        }
    }
}

/// Numbers of very different size, so that no two orders of adding them agree.
fn wild(rank: usize, len: usize) -> Vec<f32> {
    let value = |i: usize| {
        let bits = (i * 31 + rank * 7 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
        (bits as f64 / (1_u64 << 53) as f64 - 0.5) * 10_f64.powi((bits % 9) as i32)
    };
    (0..len).map(|i| value(i) as f32).collect()
}

/// Sums of all kinds; their bits.
fn sums(world: Arc<dyn Transport>) -> Result<Vec<u64>, CommError> {
    let (rank, size) = (world.rank(), world.size());
    let mut bits = vec![];
    for len in [0, 1, 4096, 4097, 50_001] {
        for accumulate in [None, Some(Dtype::F64)] {
            for reduce in [Reduce::Sum, Reduce::Max] {
                let lens: Vec<usize> = (0..size).map(|i| len * i / size).collect();
                let all = Collective::AllReduce { reduce };
                let part = Collective::ReduceScatter {
                    reduce,
                    lens: lens.clone(),
                };
                for (collective, len) in [(all, len), (part, lens.iter().sum())] {
                    let call = Call {
                        accumulate,
                        ..Call::new(collective, "sums")
                    };
                    let found = world.start(call, wild(rank, len).into())?.wait()?;
                    match found {
                        Buffer::Host(HostBuffer::F32(x)) => {
                            bits.extend(x.iter().map(|x| u64::from(x.to_bits())));
                        }
                        Buffer::Host(HostBuffer::F64(x)) => {
                            bits.extend(x.iter().map(|x| x.to_bits()));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
    Ok(bits)
}

#[test]
fn sums_have_the_bits_of_the_local_transport() {
    for size in [2, 3, 4] {
        let local = local::run(&World::new(size, 1), sums).unwrap();
        let tcp: Vec<_> = run(size, LONG, sums)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert!(local[0].len() > 100_000);
        assert!(local == tcp, "{size} ranks");
    }
}

#[test]
fn large_buffers_cost_what_the_algorithms_say() {
    let (size, len) = (4, 100_000);
    let sent = each(size, LONG, |process| {
        let rank = process.rank();
        let mut sent = vec![process.sent()];
        let world = process.transport();
        let buffer = || Buffer::from(vec![1.0_f32; len]);
        world.all_reduce(buffer(), Reduce::Sum, "a").unwrap();
        sent.push(process.sent());
        let lens = vec![len / size; size];
        let part = world.reduce_scatter(buffer(), Reduce::Sum, lens.clone(), "b");
        sent.push(process.sent());
        world.all_gather(part.unwrap(), lens, "c").unwrap();
        sent.push(process.sent());
        let empty = || Buffer::from(Vec::<f32>::new());
        let root = if rank == 2 { buffer() } else { empty() };
        world.broadcast(root, 2, "d").unwrap();
        sent.push(process.sent());
        world.barrier("e").unwrap();
        sent.push(process.sent());
        sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
    });
    let n = 4 * len as u64;
    for (rank, sent) in sent.into_iter().enumerate() {
        let sent: Vec<u64> = sent;
        // The root of a broadcast sends each its slice, and its own slice to each; the others send
        // theirs on to those who have neither it nor the whole.
        let broadcast = if rank == 2 { 2 * n * 3 / 4 } else { n / 4 * 2 };
        assert_eq!(
            sent,
            [2 * n * 3 / 4, n * 3 / 4, n * 3 / 4, broadcast, 0],
            "rank {rank}"
        );
    }
}

#[test]
fn a_rank_that_does_not_wait_still_gives_its_slice() {
    let len = 40_000;
    let ended = run(3, LONG, move |world| {
        let reduce = Reduce::Sum;
        let call = Call::new(Collective::AllReduce { reduce }, "of all");
        let broadcast = Call::new(Collective::Broadcast { root: 0 }, "to all");
        if world.rank() == 1 {
            // It ends before the others have even come.
            drop(world.start(call, vec![2.0_f32; len].into())?);
            drop(world.start(broadcast, Vec::<f32>::new().into())?);
            return Ok(());
        }
        sleep(Duration::from_millis(200));
        let sum = world.start(call, vec![2.0_f32; len].into())?;
        let empty = if world.rank() == 0 { len } else { 0 };
        let whole = world.start(broadcast, vec![3.0_f32; empty].into())?;
        for (pending, expected) in [(sum, 6.0_f32), (whole, 3.0)] {
            let Buffer::Host(found) = pending.wait()? else {
                panic!("not in host memory")
            };
            assert!(
                found == vec![expected; len].into(),
                "not {expected} throughout"
            );
        }
        Ok::<_, CommError>(())
    });
    for ended in ended {
        ended.unwrap();
    }
}

#[test]
fn ending_first_is_no_failure_for_those_who_need_nothing_more() {
    let ended = run(3, Duration::from_millis(800), |world| {
        world.barrier("all")?;
        let pair = world.split((world.rank() > 0).then_some(0), "pair")?;
        if let Some(pair) = pair {
            // Longer than anyone would wait for rank 0 if it were missed.
            for _ in 0..12 {
                sleep(Duration::from_millis(100));
                pair.barrier("two")?;
            }
        }
        Ok::<_, CommError>(world.rank())
    });
    let ranks: Vec<usize> = ended.into_iter().map(Result::unwrap).collect();
    assert_eq!(ranks, [0, 1, 2]);
}

#[test]
fn every_rank_reports_who_failed_first() {
    let ended = run(3, LONG, |world| {
        world.barrier("start").map_err(|error| error.to_string())?;
        if world.rank() == 1 {
            return Err("the disk is full".to_string());
        }
        world.barrier("end").map_err(|error| error.to_string())
    });
    let texts: Vec<String> = ended
        .into_iter()
        .map(|ended| ended.unwrap_err().to_string())
        .collect();
    assert_eq!(texts[1], "rank 1: the disk is full");
    for text in [&texts[0], &texts[2]] {
        // News may overtake what ends the barrier before.
        assert!(
            text.starts_with("rank 1: lost rank 1 at barrier "),
            "{text}"
        );
        assert!(text.ends_with(": it failed: the disk is full"), "{text}");
    }
}

#[test]
fn a_rank_that_hangs_is_named_by_all_and_gives_itself_up() {
    let deadline = Duration::from_millis(400);
    let start = Instant::now();
    let ended = run(3, deadline, |world| {
        if world.rank() == 1 {
            sleep(Duration::from_secs(8));
        }
        world.barrier("all")
    });
    let took = start.elapsed();
    for (rank, ended) in ended.into_iter().enumerate() {
        let failure = ended.unwrap_err();
        let (What::Comm(error) | What::Error(error)) = &failure.what else {
            panic!("{failure}")
        };
        assert!(
            matches!(error, CommError::Late { rank: 1, .. }),
            "{failure}"
        );
        let stuck: &[usize] = if rank == 1 { &[1] } else { &[] };
        assert_eq!(failure.stuck, stuck, "{failure}");
    }
    // Once to find it late, and once more until it gives itself up; the machine may be busy.
    assert!(took < 10 * deadline, "{took:?}");
}

#[test]
fn a_connection_that_closes_without_a_goodbye_is_a_loss() {
    // A rank that is there when the world forms, and then vanishes: its end of the connections
    // closes with the process, which here is a rank without the program behind it.
    let (address, start) = (address(), Instant::now());
    let failure = thread::scope(|scope| {
        let join = |rank| Rendezvous::new(&address, rank, 2, LONG).join();
        let first = scope.spawn(move || {
            let process = join(0).unwrap();
            process::run(&process, &settings(), |world| world.barrier("all")).unwrap_err()
        });
        let mut stream = loop {
            match TcpStream::connect(&address) {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(10)),
            }
        };
        greet(&mut stream, "", 1, 2);
        let mut some = [0; 1];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
        first.join().unwrap()
    });
    let text = failure.to_string();
    assert!(text.contains("lost rank 1"), "{text}");
    assert!(text.contains("connection"), "{text}");
    assert!(start.elapsed() < LONG / 2);
}

/// Says hello as a rank does.
fn greet(stream: &mut TcpStream, token: &str, rank: u64, size: u64) {
    let mut hello = vec![];
    let text = |to: &mut Vec<u8>, text: &str| {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    };
    text(&mut hello, token);
    hello.extend(rank.to_le_bytes());
    hello.extend(size.to_le_bytes());
    text(&mut hello, "127.0.0.1:9");
    stream.write_all(b"kinora 2").unwrap();
    stream
        .write_all(&(hello.len() as u64).to_le_bytes())
        .unwrap();
    stream.write_all(&hello).unwrap();
}

/// What ranks that join with these numbers and tokens get.
fn joins(ranks: &[(usize, usize, &str)], patience: Duration) -> Vec<Option<CommError>> {
    let address = address();
    thread::scope(|scope| {
        let join = |&(rank, size, token): &(usize, usize, &str)| {
            let mut rendezvous = Rendezvous::new(&address, rank, size, LONG);
            (rendezvous.patience, rendezvous.token) = (patience, token.to_string());
            scope.spawn(move || rendezvous.join().err())
        };
        let ranks: Vec<_> = ranks.iter().map(join).collect();
        ranks.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

#[test]
fn ranks_that_never_come_are_named_by_all() {
    let patience = Duration::from_millis(700);
    let start = Instant::now();
    let found = joins(&[(0, 4, ""), (1, 4, ""), (3, 4, "")], patience);
    assert!(start.elapsed() < patience + Duration::from_secs(2));
    for error in found {
        let Some(CommError::Absent { ranks, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(ranks, &[2]);
        let text = error.unwrap().to_string();
        assert!(
            text.starts_with("ranks [2] did not come to 127.0.0.1:"),
            "{text}"
        );
    }
    let start = Instant::now();
    let found = joins(&[(1, 2, "")], patience);
    assert!(start.elapsed() < patience + Duration::from_secs(2));
    let Some(CommError::Absent { ranks, .. }) = &found[0] else {
        panic!("{found:?}")
    };
    assert_eq!(ranks, &[0]);
}

#[test]
fn ranks_that_come_twice_or_count_otherwise_are_refused_with_numbers() {
    let refusals = |ranks: &[(usize, usize, &str)]| -> Vec<String> {
        let start = Instant::now();
        let found = joins(ranks, LONG);
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
        let text = |error: Option<CommError>| error.expect("nobody joins").to_string();
        found.into_iter().map(text).collect()
    };
    for text in refusals(&[(0, 4, ""), (2, 4, ""), (2, 4, "")]) {
        assert!(
            text.contains("rank 2 came twice, from 127.0.0.1:"),
            "{text}"
        );
    }
    for text in refusals(&[(0, 3, ""), (1, 5, "")]) {
        let expected = "rank 0 forms a world of 3 ranks, but rank 1 of 5 came from";
        assert!(text.contains(expected), "{text}");
    }
    for text in refusals(&[(7, 3, "")]) {
        assert!(text.contains("rank 7 is none of 3"), "{text}");
    }
}

#[test]
fn strangers_are_refused_and_do_no_harm() {
    let patience = Duration::from_secs(2);
    let found = joins(&[(0, 2, "one"), (1, 2, "another")], patience);
    let texts: Vec<String> = found
        .iter()
        .flatten()
        .map(|error| error.to_string())
        .collect();
    assert!(texts[0].contains("ranks [1] did not come"), "{texts:?}");
    assert!(texts[0].contains("token of another world"), "{texts:?}");
    assert!(texts[1].contains("token is not this world's"), "{texts:?}");

    let address = address();
    thread::scope(|scope| {
        let join = |rank| {
            let address = address.clone();
            scope.spawn(move || {
                let mut rendezvous = Rendezvous::new(&address, rank, 2, LONG);
                rendezvous.token = "a secret".to_string();
                if rank == 0 {
                    rendezvous.blob = vec![7; 1000];
                }
                let process = rendezvous.join().unwrap();
                let sum = process
                    .transport()
                    .all_reduce(vec![1_i64].into(), Reduce::Sum, "x");
                (process.blob().to_vec(), format!("{:?}", sum.unwrap()))
            })
        };
        let first = join(0);
        let mut others: Vec<TcpStream> = vec![];
        while others.len() < 3 {
            match TcpStream::connect(&address) {
                Ok(stream) => others.push(stream),
                Err(_) => sleep(Duration::from_millis(10)),
            }
        }
        // One speaks another language, one has no idea of the secret, one says nothing.
        others[0].write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        greet(&mut others[1], "a guess", 1, 2);
        let second = join(1);
        for rank in [first, second] {
            let (blob, sum) = rank.join().unwrap();
            assert_eq!(blob, [7; 1000]);
            assert_eq!(sum, "Host(I64([2]))");
        }
    });
}

#[test]
fn a_world_of_one_rank_needs_nobody() {
    let process = tcp::join("127.0.0.1:1", 0, 1, LONG).unwrap();
    let found = process::run(&process, &Settings::new(1), |world| {
        world.barrier("alone")?;
        world.all_reduce(vec![5_i64].into(), Reduce::Sum, "alone")
    });
    assert_eq!(format!("{:?}", found.unwrap()), "Host(I64([5]))");
}
