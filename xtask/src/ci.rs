//! The steps of `ci`, and their order. The first that fails ends the run with its exit code.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::{gpu, mpi};
use xtask::repo::{self, Repo};
use xtask::tidy::RULES;

/// A step of the run.
struct Step {
    name: &'static str,
    about: &'static str,
    /// A step that takes longer is hanging, and is ended.
    limit: Duration,
    action: Action,
}

enum Action {
    /// The rules of `tidy`, in this process.
    Tidy,
    /// Cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// The program itself, on a run of seconds.
    Smoke,
    /// The feature `ffmpeg`.
    Ffmpeg,
    /// The feature `mpi`.
    Mpi,
    /// The program with all that runs on GPUs, in a target folder of its own.
    Gpu,
}

const MINUTE: Duration = Duration::from_secs(60);

const STEPS: [Step; 8] = [
    Step {
        name: "tidy",
        about: "the rules that can be read off the text",
        limit: MINUTE,
        action: Action::Tidy,
    },
    Step {
        name: "fmt",
        about: "cargo fmt --check",
        limit: MINUTE.saturating_mul(5),
        action: Action::Cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        about: "no warnings, in tests neither",
        limit: MINUTE.saturating_mul(60),
        // No feature is named here or below: one feature set is one build of Burn.
        action: Action::Cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Step {
        name: "test",
        about: "all tests of all crates",
        limit: MINUTE.saturating_mul(120),
        action: Action::Cargo(&["test", "--release", "--workspace"]),
    },
    Step {
        name: "smoke",
        about: "kinora train configs/smoke.toml",
        limit: MINUTE.saturating_mul(20),
        action: Action::Smoke,
    },
    Step {
        name: "ffmpeg",
        about: "media through FFmpeg's libraries, beside the own decoder",
        limit: MINUTE.saturating_mul(30),
        action: Action::Ffmpeg,
    },
    Step {
        name: "mpi",
        about: "MPI and NCCL's stand-in; plans, faults and the conformance suite on four processes",
        limit: MINUTE.saturating_mul(60),
        action: Action::Mpi,
    },
    Step {
        name: "gpu",
        about: "the features cuda and nccl, on a stand-in for a GPU",
        limit: MINUTE.saturating_mul(180),
        action: Action::Gpu,
    },
];

/// Prints the steps.
pub(crate) fn list() -> ExitCode {
    for step in &STEPS {
        println!("{:8} {}", step.name, step.about);
    }
    ExitCode::SUCCESS
}

/// Runs all steps, or the one of a name.
pub(crate) fn run(only: Option<&str>) -> ExitCode {
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| only.is_none_or(|name| name == step.name))
        .collect();
    if steps.is_empty() {
        let names = STEPS.map(|step| step.name).join(", ");
        eprintln!(
            "error: ci has no step {}\nhelp: its steps are {names}",
            only.unwrap_or_default()
        );
        return ExitCode::from(2);
    }
    let root = repo::root();
    let mut done = Vec::new();
    for step in &steps {
        println!("==> {}: {}", step.name, step.about);
        let began = Instant::now();
        let code = match step.action {
            Action::Tidy => tidy(&root),
            Action::Cargo(args) => cargo(&root, args, step.limit),
            Action::Smoke => smoke(&root, step.limit),
            Action::Ffmpeg => ffmpeg(&root, step.limit),
            Action::Mpi => mpi::run(&root, step.limit),
            Action::Gpu => gpu::run(&root, step.limit),
        };
        done.push((step.name, code, began.elapsed()));
        if code != 0 {
            break;
        }
    }
    summary(&done, steps.len())
}

fn summary(done: &[(&str, u8, Duration)], planned: usize) -> ExitCode {
    println!("==> summary");
    for (name, code, took) in done {
        let verdict = if *code == 0 {
            "ok".to_owned()
        } else {
            format!("FAILED (exit code {code})")
        };
        println!("{name:8} {:8.1} s  {verdict}", took.as_secs_f64());
    }
    if done.len() < planned {
        println!("{} of {planned} steps were not run", planned - done.len());
    }
    ExitCode::from(done.last().map_or(0, |(_, code, _)| *code))
}

fn tidy(root: &Path) -> u8 {
    let repo = match Repo::read(root) {
        Ok(repo) => repo,
        Err(error) => {
            eprintln!(
                "error: cannot read the workspace at {}: {error}",
                root.display()
            );
            return 1;
        }
    };
    let mut code = 0;
    for rule in RULES {
        let faults = (rule.faults)(&repo);
        println!(
            "{:14} {}",
            rule.name,
            if faults.is_empty() { "ok" } else { "FAILED" }
        );
        if !faults.is_empty() {
            code = 1;
            eprintln!("  {}\n  help: {}", faults.join("\n  "), rule.fix);
        }
    }
    code
}

fn smoke(root: &Path, limit: Duration) -> u8 {
    let config = "configs/smoke.toml";
    if !root.join(config).is_file() {
        eprintln!(
            "error: {config} is not there\nhelp: restore the file; it is the smallest run that trains"
        );
        return 1;
    }
    let out = env::temp_dir().join(format!("kinora-smoke-{}", process::id()));
    let set = format!("run.out={}", out.display());
    let code = cargo(
        root,
        &["run", "--release", "--", "train", config, "--set", &set],
        limit,
    );
    // What a failed run wrote is kept, to be looked at.
    if code == 0 {
        drop(fs::remove_dir_all(&out));
    } else if out.exists() {
        eprintln!("help: look at what it wrote in {}", out.display());
    }
    code
}

fn ffmpeg(root: &Path, limit: Duration) -> u8 {
    let libraries = [
        "libavcodec",
        "libavformat",
        "libavutil",
        "libswscale",
        "libswresample",
    ];
    let found = Command::new("pkg-config")
        .arg("--exists")
        .args(libraries)
        .status();
    if !found.is_ok_and(|status| status.success()) {
        println!(
            "NOT TESTED: the feature ffmpeg, for want of {}",
            libraries.join(", ")
        );
        return 0;
    }
    let args = [
        "test",
        "--release",
        "-p",
        "kinora-media",
        "--features",
        "ffmpeg",
    ];
    cargo(root, &args, limit)
}

/// Runs cargo on the same terminal and returns its exit code.
pub(crate) fn cargo(root: &Path, args: &[&str], limit: Duration) -> u8 {
    // Cargo names itself to what it runs, so that a chosen toolchain stays chosen.
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    println!("$ cargo {}", args.join(" "));
    let mut command = Command::new(program);
    wait(command.args(args).current_dir(root), limit)
}

/// Runs a command on the same terminal and returns its exit code: 124 if it took too long, 1 if it was
/// ended by a signal or could not be started.
pub(crate) fn wait(command: &mut Command, limit: Duration) -> u8 {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: cannot start {name}: {error}");
            return 1;
        }
    };
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return status
                    .code()
                    .map_or(1, |code| u8::try_from(code).unwrap_or(1));
            }
            Ok(None) if began.elapsed() < limit => thread::sleep(Duration::from_millis(100)),
            Ok(None) => {
                eprintln!(
                    "error: {name} has run for {} s and was ended",
                    limit.as_secs()
                );
                drop(child.kill().and_then(|()| child.wait()));
                return 124;
            }
            Err(error) => {
                eprintln!("error: cannot wait for {name}: {error}");
                return 1;
            }
        }
    }
}
