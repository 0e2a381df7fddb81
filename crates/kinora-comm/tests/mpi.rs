//! Processes that MPI has started: the conformance suite, random faults, and what becomes of the
//! others when one is killed, frozen, panics, hangs or leaves.
#![cfg(feature = "mpi")]

use kinora_comm::process::{self, Settings};
use kinora_comm::{CommError, Reduce, Transport, mpi};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MODE: &str = "KINORA_TEST_MODE";
const DEADLINE: Duration = Duration::from_millis(1200);
// Over the deadline: for MPI to start and to end on a busy machine.
const MARGIN: Duration = Duration::from_secs(15);
const ODD: usize = 1;

/// `mpirun` for so many ranks, if there is one; says so if not.
fn mpirun(ranks: usize) -> Option<Command> {
    let version = Command::new("mpirun").arg("--version").output();
    let Ok(version) = version else {
        eprintln!("NOT RUN: there is no mpirun here, so nothing over MPI has been tested");
        return None;
    };
    let mut command = Command::new("mpirun");
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        // Containers run as root, and have fewer cores than a test has ranks.
        command.args(["--allow-run-as-root", "--oversubscribe"]);
    }
    command.args(["-n", &ranks.to_string()]);
    Some(command)
}

fn signal(name: &str) {
    let id = std::process::id().to_string();
    let sent = Command::new("kill").args([name, &id]).status();
    assert!(sent.unwrap().success());
    sleep(Duration::from_secs(60));
}

fn body(world: Arc<dyn Transport>, mode: &str) -> Result<(), CommError> {
    for step in 0..6 {
        world.at(&format!("step {step}"));
        world.all_reduce(vec![1.0_f32; 20_000].into(), Reduce::Sum, "of all")?;
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
    let process = mpi::join(DEADLINE).unwrap();
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
    std::process::exit(code);
}

/// Runs three ranks; nothing if there is no MPI.
fn run(mode: &str) -> Option<(Output, String)> {
    let start = Instant::now();
    let mut child = mpirun(3)?
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(MODE, mode)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > 3 * DEADLINE + MARGIN {
            let _ = child.kill();
            panic!("{mode}: still running after {:?}", start.elapsed());
        }
        sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Some((output, text))
}

fn fails_with(mode: &str, texts: &[(&str, usize)]) {
    let Some((output, text)) = run(mode) else {
        return;
    };
    assert!(!output.status.success(), "{text}");
    for (part, times) in texts {
        assert_eq!(text.matches(part).count(), *times, "{part}: {text}");
    }
}

#[test]
fn all_is_well_without_a_fault() {
    let Some((output, text)) = run("nothing") else {
        return;
    };
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_rank_that_panics_is_named_by_all() {
    let named = [
        ("error: rank 1: lost rank 1", 2),
        (", last seen at step 3: it panicked: on purpose", 2),
    ];
    fails_with("panics", &named);
    fails_with(
        "panics",
        &[(
            "error: rank 1 panicked: on purpose\n  last seen at step 3",
            1,
        )],
    );
}

#[test]
fn a_rank_that_leaves_is_named_by_the_others() {
    fails_with(
        "leaves",
        &[(", last seen at step 3: its work had ended", 2)],
    );
}

#[test]
fn a_rank_that_hangs_is_named_by_all_and_ends_itself() {
    let named = [
        ("rank 1 is late", 3),
        (", last seen at step 3: no sign", 3),
        ("ranks [1] did not end", 1),
    ];
    fails_with("hangs", &named);
}

#[test]
fn a_rank_that_is_frozen_is_named_and_all_end() {
    let named = [("rank 1 is late", 2), (", last seen at step 3: no sign", 2)];
    fails_with("frozen", &named);
}

#[test]
fn all_end_when_a_rank_is_killed() {
    // Most of MPI's launchers end all others before these can say anything.
    fails_with("killed", &[]);
}

/// An example of this crate, which cargo has built next to this test.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

fn passes(ranks: usize, name: &str, arguments: &[&str]) {
    let Some(mut command) = mpirun(ranks) else {
        return;
    };
    let output = command.arg(example(name)).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
fn conforms() {
    passes(5, "conformance", &[]);
}

#[test]
fn random_faults_are_blamed_on_the_culprit() {
    passes(
        4,
        "faults",
        &["--over", "mpi", "--count", "20", "--deadline-ms", "500"],
    );
}
