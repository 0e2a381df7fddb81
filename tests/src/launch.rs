//! Ranks as processes: the same results as with threads, and no process that is left behind.

use crate::program::{Ended, Place, Running, finish};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

// For ranks to notice an end and to end themselves, on a busy machine.
const SOON: Duration = Duration::from_secs(25);
const TRAIN: [&str; 5] = ["train", "smoke.toml", "--quiet", "--set", "run.out=run"];

/// What decides a run's course, a line a step.
fn course(run: &Path) -> Vec<String> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).expect("a run has metrics");
    let course: Vec<String> = lines
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let parts = ["step", "loss", "grad_norm", "lr", "epoch"];
            parts.map(|part| row[part].to_string()).join(" ")
        })
        .collect();
    assert_eq!(course.len(), 6);
    course
}

/// The bytes of all files under a folder, by path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_path_buf();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn assert_same_files(got: &Path, want: &Path) {
    let (got, want) = (files(got), files(want));
    assert!(!want.is_empty());
    assert!(got.keys().eq(want.keys()), "other files");
    for (path, bytes) in &got {
        assert!(*bytes == want[path], "{} differs", path.display());
    }
}

/// Trains and samples with threads, then with `launch` before each verb, and compares.
fn same_as_threads(launch: &[&str]) {
    let place = Place::new();
    let launched = |verb: &[&str]| place.succeed(&[launch, verb].concat());
    place.succeed(&["train", "smoke.toml", "--set", "run.out=threads"]);
    let said = launched(&["train", "smoke.toml", "--set", "run.out=run"]);
    // Results of rank 0 alone, as they are.
    assert!(said.starts_with("trained run from step 0 to 6"), "{said}");
    assert_eq!(said.matches("trained").count(), 1, "{said}");
    let (run, threads) = (place.at("run"), place.at("threads"));
    assert_eq!(course(&run), course(&threads));
    for folder in ["checkpoints", "autoencoder", "previews"] {
        assert_same_files(&run.join(folder), &threads.join(folder));
    }

    let prompt = [
        "generate",
        "threads",
        "-p",
        "a red circle",
        "--seconds",
        "2",
    ];
    place.succeed(&[&prompt[..], &["-o", "one.mp4"]].concat());
    launched(&[&prompt[..], &["-o", "two.mp4"]].concat());
    for ending in ["mp4", "png"] {
        let made = |name: &str| fs::read(place.at(name).with_extension(ending)).unwrap();
        assert!(made("one.mp4") == made("two.mp4"), "another {ending}");
    }
    let eval = ["eval", "threads", "--prompts", "2", "--json", "--quiet"];
    assert_eq!(launched(&eval), place.succeed(&eval));
}

#[test]
fn two_processes_are_two_threads_bit_for_bit() {
    same_as_threads(&["launch", "-n", "2"]);
}

/// Runs that train until they are ended, and the processes of their ranks.
struct Endless {
    place: Place,
    launcher: Running,
    /// Process numbers, by rank.
    ranks: BTreeMap<usize, u32>,
}

impl Endless {
    fn start(launch: &[&str]) -> Self {
        let place = Place::new();
        let more = ["--set", "train.steps=1000000", "--set", "run.deadline=5"];
        let args = [launch, &TRAIN, &more].concat();
        let mut launcher = place.start_into(&args, "said");
        let metrics = place.at("run/metrics.jsonl");
        launcher.wait_until(|| fs::read_to_string(&metrics).is_ok_and(|it| it.contains('\n')));
        let folder = place.at("").canonicalize().unwrap();
        let ranks = ranks_in(&folder);
        assert!(ranks.keys().eq(&[0, 1]), "{ranks:?}");
        Self {
            place,
            launcher,
            ranks,
        }
    }

    fn send(&self, signal: &str, to: u32) {
        let sent = Command::new("kill")
            .args([signal, &to.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    fn assert_no_rank_is_left(ranks: &BTreeMap<usize, u32>) {
        let began = Instant::now();
        while ranks.values().any(|&id| runs(id)) {
            assert!(began.elapsed() < SOON, "of {ranks:?} some still run");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all have ended; the exit code, and what was said.
    fn end(self) -> (Option<i32>, String) {
        let code = self.launcher.end_within(SOON);
        Self::assert_no_rank_is_left(&self.ranks);
        (code, fs::read_to_string(self.place.at("said")).unwrap())
    }
}

/// Whether a process is there, and not just its exit code.
fn runs(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| state != b'Z')
}

/// The processes that are ranks and work in a folder.
fn ranks_in(folder: &Path) -> BTreeMap<usize, u32> {
    let processes = fs::read_dir("/proc").expect("these tests run on Linux");
    let rank = |path: PathBuf| {
        let id: u32 = path.file_name()?.to_str()?.parse().ok()?;
        if fs::read_link(path.join("cwd")).ok()? != folder {
            return None;
        }
        let environment = fs::read(path.join("environ")).ok()?;
        let of = |name: &str| {
            let mut variables = environment.split(|&byte| byte == 0);
            let value = variables.find_map(|it| it.strip_prefix(name.as_bytes()))?;
            std::str::from_utf8(value).ok()?.parse().ok()
        };
        Some((
            of("KINORA_RANK=").or_else(|| of("OMPI_COMM_WORLD_RANK="))?,
            id,
        ))
    };
    processes
        .filter_map(|entry| rank(entry.ok()?.path()))
        .collect()
}

#[test]
fn a_killed_rank_ends_all_and_is_named() {
    let endless = Endless::start(&["launch"]);
    endless.send("-KILL", endless.ranks[&1]);
    let (code, said) = endless.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("error: rank 1 was killed by signal 9"),
        "{said}"
    );
    // Where rank 0 was meanwhile.
    assert!(said.contains("rank 0 says: lost rank 1 at "), "{said}");
}

#[test]
fn a_frozen_rank_ends_all_and_is_named() {
    let endless = Endless::start(&["launch"]);
    endless.send("-STOP", endless.ranks[&1]);
    let (code, said) = endless.end();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("error: rank 1 did not end"), "{said}");
    assert!(said.contains("rank 0 says: rank 1 is late"), "{said}");
}

#[test]
fn the_launcher_takes_its_ranks_with_it() {
    let endless = Endless::start(&["launch"]);
    endless.send("-TERM", endless.launcher.id());
    let (code, said) = endless.end();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("error: stopped by signal 15"), "{said}");

    // Even if it cannot do anything any more.
    let Endless {
        launcher, ranks, ..
    } = Endless::start(&["launch"]);
    launcher.kill();
    Endless::assert_no_rank_is_left(&ranks);
}

#[test]
fn what_rank_0_cannot_prepare_is_said_once() {
    let place = Place::new();
    fs::create_dir(place.at("run")).unwrap();
    fs::write(place.at("run/letter.txt"), "dear").unwrap();
    let Ended { code, out, err } = place.run(&[&["launch"], &TRAIN[..]].concat());
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(
        err.starts_with("error: rank 0: run.out = run holds other files"),
        "{err}"
    );
    assert_eq!(err.matches("error").count(), 1, "{err}");
}

#[test]
fn what_cannot_be_launched_is_refused_before_anything_starts() {
    let place = Place::new();
    let refuse = |args: &[&str], words: &[&str]| place.refuse(&[&["launch"], args].concat(), words);
    refuse(
        &["-n", "3", "train", "smoke.toml"],
        &["mesh tp 2 needs 2 ranks, but 3 were launched", "help: "],
    );
    refuse(&["-n", "0", "train", "smoke.toml"], &["-n 0"]);
    refuse(
        &["plan", "smoke.toml"],
        &[
            "plan does not run on ranks",
            "train, generate, eval, data encode or verify --here",
        ],
    );
    refuse(
        &["launch", "train", "smoke.toml"],
        &["launch does not run on ranks"],
    );
    refuse(
        &["train", "smoke.toml", "--set", "train.stepz=1"],
        &["unknown field `stepz`"],
    );
    refuse(&["train", "none.toml"], &["none.toml"]);
    if !cfg!(feature = "mpi") {
        let words = ["built without MPI", "--features mpi"];
        refuse(&["--mpi", "train", "smoke.toml"], &words);
        refuse(
            &["--hosts", "a,b", "-n", "1", "train", "smoke.toml"],
            &words,
        );
    }
    assert_eq!(place.holds(), ["smoke.toml"]);
}

#[test]
fn processes_of_an_mpi_job_do_not_train_alone() {
    if cfg!(feature = "mpi") {
        eprintln!("NOT RUN: with MPI such processes join, which other tests look at");
        return;
    }
    let place = Place::new();
    for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
        let mut command = place.command(&TRAIN);
        let Ended { code, err, .. } = finish(command.env(name, "2"), SOON);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("built without MPI"), "{err}");
    }
    assert_eq!(place.holds(), ["smoke.toml"]);
}

/// Whether ranks can be started by MPI; says so if not.
fn mpi() -> bool {
    if !cfg!(feature = "mpi") {
        eprintln!("NOT RUN: without the feature mpi no rank that mpirun starts has been tested");
        return false;
    }
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !found {
        eprintln!("NOT RUN: there is no mpirun here, so no rank that it starts has been tested");
    }
    found
}

#[test]
fn processes_of_mpi_are_threads_bit_for_bit() {
    if mpi() {
        same_as_threads(&["launch", "--mpi"]);
        same_as_threads(&["launch", "--hosts", "localhost", "-n", "2"]);
    }
}

#[test]
fn mpirun_itself_can_start_ranks() {
    if !mpi() {
        return;
    }
    let place = Place::new();
    place.succeed(&["train", "smoke.toml", "--set", "run.out=threads"]);
    let mut mpirun = Command::new("mpirun");
    let version = mpirun.arg("--version").output().unwrap();
    let mut mpirun = Command::new("mpirun");
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        mpirun.args(["--allow-run-as-root", "--oversubscribe"]);
    }
    let direct = place.command(&TRAIN);
    mpirun
        .args(["-n", "2"])
        .arg(direct.get_program())
        .args(TRAIN)
        .current_dir(place.at(""));
    let Ended { code, err, .. } = finish(&mut mpirun, SOON * 4);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(course(&place.at("run")), course(&place.at("threads")));
}

#[test]
fn a_killed_rank_of_mpi_ends_all() {
    if !mpi() {
        return;
    }
    let endless = Endless::start(&["launch", "--mpi"]);
    endless.send("-KILL", endless.ranks[&1]);
    let (code, said) = endless.end();
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("rank 1"), "{said}");
}

#[test]
fn the_launcher_takes_the_ranks_of_mpi_with_it() {
    if !mpi() {
        return;
    }
    let endless = Endless::start(&["launch", "--mpi"]);
    endless.send("-TERM", endless.launcher.id());
    let (code, said) = endless.end();
    assert_eq!(code, Some(143), "{said}");
    let Endless {
        launcher, ranks, ..
    } = Endless::start(&["launch", "--mpi"]);
    launcher.kill();
    Endless::assert_no_rank_is_left(&ranks);
}
