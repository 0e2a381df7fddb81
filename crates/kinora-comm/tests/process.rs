//! Real processes over TCP: what becomes of the others when one is killed, frozen, panics, hangs or
//! leaves.

use kinora_comm::process::{self, Settings};
use kinora_comm::{CommError, Reduce, Transport, tcp};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MODE: &str = "KINORA_TEST_MODE";
const PLACE: &str = "KINORA_TEST_PLACE";
const ADDRESS: &str = "KINORA_TEST_ADDRESS";
const DEADLINE: Duration = Duration::from_millis(1200);
// Over the deadline: for a busy machine to start processes and to let them run.
const MARGIN: Duration = Duration::from_secs(8);
const SIZE: usize = 3;
const ODD: usize = 1;

/// A signal to this process, as from outside.
fn signal(name: &str) {
    let id = std::process::id().to_string();
    let sent = Command::new("kill").args([name, &id]).status();
    assert!(sent.unwrap().success());
    sleep(Duration::from_secs(60));
}

fn body(world: Arc<dyn Transport>, mode: &str) -> Result<(), CommError> {
    let part = world.split(Some(world.rank() / 2), "part")?;
    for step in 0..6 {
        world.at(&format!("step {step}"));
        world.all_reduce(vec![1.0_f32; 20_000].into(), Reduce::Sum, "of all")?;
        if let Some(part) = &part {
            part.barrier("of the part")?;
        }
        if world.rank() != ODD || step < 3 {
            continue;
        }
        match mode {
            "killed" => signal("-KILL"),
            "frozen" => signal("-STOP"),
            "panics" => panic!("on purpose"),
            "hangs" => sleep(Duration::from_secs(60)),
            "leaves" => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

/// What the children run; nothing in the test itself.
#[test]
fn child() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let rank = std::env::var(PLACE).unwrap().parse().unwrap();
    let address = std::env::var(ADDRESS).unwrap();
    let mut rendezvous = tcp::Rendezvous::new(&address, rank, SIZE, DEADLINE);
    rendezvous.patience = Duration::from_secs(20);
    let process = rendezvous.join().unwrap();
    let outcome = process::run(&process, &Settings::new(1), move |world| body(world, &mode));
    let code = match outcome {
        Ok(()) => 0,
        Err(failure) => {
            // In one piece, as all ranks share a terminal.
            let report = format!("error: {failure}\n");
            std::io::stderr().write_all(report.as_bytes()).unwrap();
            1
        }
    };
    drop(process);
    exit(code);
}

struct Ended {
    code: Option<i32>,
    text: String,
}

/// Kills the children that are left, whatever happens.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts all ranks, and waits until all that can end have ended; `None` for one that has not.
fn run(mode: &str) -> Vec<Option<Ended>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let start = |rank: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(MODE, mode)
            .env(PLACE, rank.to_string())
            .env(ADDRESS, &address)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = Children((0..SIZE).map(start).collect());
    // Those who find out, and then the one that hangs gives itself up.
    let until = Instant::now() + 3 * DEADLINE + MARGIN;
    let mut ended: Vec<Option<Ended>> = (0..SIZE).map(|_| None).collect();
    while ended.iter().any(Option::is_none) && Instant::now() < until {
        for (child, ended) in children.0.iter_mut().zip(&mut ended) {
            if let (None, Some(status)) = (&ended, child.try_wait().unwrap()) {
                let mut text = String::new();
                let mut from = child.stderr.take().unwrap();
                from.read_to_string(&mut text).unwrap();
                *ended = Some(Ended {
                    code: status.code(),
                    text,
                });
            }
        }
        let others_done = (0..SIZE).all(|rank| rank == ODD || ended[rank].is_some());
        if mode == "frozen" && others_done {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    ended
}

/// The others must have ended with a report that says this.
fn others_report(ended: &[Option<Ended>], texts: &[&str]) {
    for (rank, ended) in ended.iter().enumerate().filter(|(rank, _)| *rank != ODD) {
        let ended = ended
            .as_ref()
            .unwrap_or_else(|| panic!("rank {rank} did not end"));
        assert_eq!(ended.code, Some(1), "rank {rank}: {}", ended.text);
        for text in texts {
            assert!(ended.text.contains(text), "rank {rank}: {}", ended.text);
        }
    }
}

fn odd(ended: &[Option<Ended>]) -> &Ended {
    ended[ODD].as_ref().expect("the odd one ends")
}

#[test]
fn all_is_well_without_a_fault() {
    for ended in run("nothing") {
        let ended = ended.expect("every rank ends");
        assert_eq!(ended.code, Some(0), "{}", ended.text);
    }
}

#[test]
fn a_rank_that_is_killed_is_named() {
    let ended = run("killed");
    others_report(
        &ended,
        &[
            "lost rank 1",
            ", last seen at step 3: ",
            "as if it had been killed",
        ],
    );
    assert_eq!(odd(&ended).code, None, "ended by a signal");
}

#[test]
fn a_rank_that_is_frozen_is_named() {
    let ended = run("frozen");
    others_report(
        &ended,
        &["rank 1 is late", ", last seen at step 3: no sign"],
    );
    assert!(ended[ODD].is_none(), "it cannot end");
}

#[test]
fn a_rank_that_panics_is_named() {
    let ended = run("panics");
    others_report(
        &ended,
        &[
            "lost rank 1",
            ", last seen at step 3: it panicked: on purpose",
        ],
    );
    let odd = odd(&ended);
    assert_eq!(odd.code, Some(1));
    let text = "error: rank 1 panicked: on purpose\n  last seen at step 3";
    assert!(odd.text.contains(text), "{}", odd.text);
}

#[test]
fn a_rank_that_hangs_is_named_and_ends_itself() {
    let ended = run("hangs");
    others_report(
        &ended,
        &["rank 1 is late", ", last seen at step 3: no sign"],
    );
    let odd = odd(&ended);
    assert_eq!(odd.code, Some(70), "{}", odd.text);
    assert!(odd.text.contains("ranks [1] did not end"), "{}", odd.text);
}

#[test]
fn a_rank_that_leaves_is_named() {
    let ended = run("leaves");
    others_report(
        &ended,
        &["lost rank 1", ", last seen at step 3: its work had ended"],
    );
}
