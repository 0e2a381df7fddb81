//! The step of `ci` for MPI: the conformance suite, random faults, and a subset of the registry of plans,
//! on four processes.

use crate::ci::{cargo, wait};
use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Plans for four ranks: what `--set` changes of configs/smoke.toml.
const PLANS: [(&str, &[&str]); 8] = [
    ("tp 4 with cut tokens", &["mesh.tp=4"]),
    (
        "cp 4, a ring",
        &["mesh.tp=1", "mesh.cp=4", "plan.seq=[\"cp\"]"],
    ),
    (
        "cp 4, ulysses",
        &[
            "mesh.tp=1",
            "mesh.cp=4",
            "plan.seq=[\"cp\"]",
            "plan.attention=\"ulysses\"",
        ],
    ),
    (
        "cp 4, ulysses 2 x ring 2",
        &[
            "mesh.tp=1",
            "mesh.cp=4",
            "plan.seq=[\"cp\"]",
            "plan.attention={ ulysses = 2, ring = 2 }",
        ],
    ),
    (
        "cp 2 gathered x tp 2",
        &[
            "mesh.tp=2",
            "mesh.cp=2",
            "plan.seq=[\"cp\", \"tp\"]",
            "plan.attention=\"gather\"",
        ],
    ),
    (
        "fsdp 4",
        &[
            "mesh.tp=1",
            "mesh.fsdp=4",
            "plan.batch=[\"fsdp\"]",
            "plan.params=[\"fsdp\"]",
        ],
    ),
    (
        "fsdp 2 x tp 2",
        &[
            "mesh.tp=2",
            "mesh.fsdp=2",
            "plan.batch=[\"fsdp\"]",
            "plan.params=[\"fsdp\"]",
        ],
    ),
    (
        "fsdp 2 x cp 2, weights cut over both",
        &[
            "mesh.tp=1",
            "mesh.fsdp=2",
            "mesh.cp=2",
            "plan.seq=[\"cp\"]",
            "plan.batch=[\"fsdp\"]",
            "plan.params=[\"fsdp\", \"cp\"]",
        ],
    ),
];

/// Builds and runs all of it.
pub(crate) fn run(root: &Path, limit: Duration) -> u8 {
    let missing = ["mpirun", "mpicc"].into_iter().find(|name| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(std::process::Stdio::null());
        version.status().is_err()
    });
    if let Some(name) = missing {
        println!(
            "NOT TESTED: MPI, as there is no {name}\nhelp: apt-get install libopenmpi-dev openmpi-bin libclang-dev clang"
        );
        return 0;
    }
    // The crate mpi turns on a feature that Burn's own dependencies share, which would build Burn again
    // for the tests; so it has a folder beside theirs, which is kept.
    let mut target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
        .into_os_string();
    target.push("-mpi");
    let Some(name) = target.to_str() else {
        eprintln!(
            "error: cargo cannot be given {}\nhelp: set CARGO_TARGET_DIR to a path that is text",
            Path::new(&target).display()
        );
        return 1;
    };
    let in_target = ["--target-dir", name];
    let comm = ["-p", "kinora-comm", "--features", "mpi,nccl"];
    let kinora = ["-p", "kinora", "--features", "mpi"];
    let commands = [
        [&["test", "--release"][..], &comm, &in_target].concat(),
        [
            &["build", "--release", "--example", "faults"][..],
            &comm,
            &in_target,
        ]
        .concat(),
        [&["build", "--release"][..], &kinora, &in_target].concat(),
    ];
    for args in commands {
        let code = cargo(root, &args, limit);
        if code != 0 {
            return code;
        }
    }
    let release = Path::new(name).join("release");
    let mut faults = mpirun(&release.join("examples/faults"));
    faults.args(["--over", "mpi", "--count", "60"]);
    println!("$ mpirun -n 4 faults --over mpi --count 60");
    let code = wait(&mut faults, limit);
    if code != 0 {
        return code;
    }
    for (plan, sets) in PLANS {
        println!("$ mpirun -n 4 kinora verify --here: {plan}");
        let mut verify = mpirun(&release.join("kinora"));
        verify
            .args(["verify", "configs/smoke.toml", "--here", "--quiet"])
            .args(["--show", "1", "--set", "run.dtype=f64"])
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .current_dir(root);
        let code = wait(&mut verify, limit);
        if code != 0 {
            eprintln!("error: {plan} is not that of one rank over MPI");
            return code;
        }
    }
    0
}

fn mpirun(program: &Path) -> Command {
    let mut mpirun = Command::new("mpirun");
    // Open MPI refuses to start more ranks than cores, and to run as root, unless it is told to.
    mpirun
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .args(["-n", "4"])
        .arg(program);
    mpirun
}
