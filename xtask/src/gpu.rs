//! The step of `ci` for GPUs, which needs none: the program is built with all that runs on them, and
//! run on a stand-in for the driver, so that NVRTC compiles every kernel that training launches.

use crate::ci::{cargo, wait};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

// Of both at once, so that Burn is built with one set of features.
const FEATURES: &str = "kinora/cuda,kinora/nccl,kinora-shard/cuda,kinora-shard/nccl";
const STANDIN: &str = "crates/kinora-shard/tests/standin/cuda.c";
// Architectures of GPUs that kernels are compiled for: Ampere, Hopper, Blackwell.
const COMPUTE: [&str; 3] = ["80", "90", "100"];

/// Builds, tests and, if NVRTC is there, rehearses.
pub(crate) fn run(root: &Path, limit: Duration) -> u8 {
    // Other features are another build of Burn, which would push out the one that the tests use; so
    // it has a folder beside theirs, which is kept.
    let mut target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
        .into_os_string();
    target.push("-cuda");
    let target = PathBuf::from(target);
    let Some(name) = target.to_str() else {
        eprintln!(
            "error: cargo cannot be given {}\nhelp: set CARGO_TARGET_DIR to a path that is text",
            target.display()
        );
        return 1;
    };
    if target.join("release").is_dir() {
        println!("{name} is there: this takes some minutes, unless Burn or its features changed");
    } else {
        println!("{name} is new: Burn's kernels take 20 to 60 minutes on two cores, once");
    }
    let packages = ["--release", "-p", "kinora", "-p", "kinora-shard"];
    let with = ["--features", FEATURES, "--target-dir", name];
    let build = [&["build"][..], &packages, &with].concat();
    let test = [&["test"][..], &packages, &with, &["--test", "gpu"]].concat();
    for args in [build, test] {
        let code = cargo(root, &args, limit);
        if code != 0 {
            return code;
        }
    }
    match toolkit() {
        Some(libraries) => rehearse(root, &target, &libraries, limit),
        None => {
            println!(
                "NOT TESTED: the kernels, as there is no NVRTC in CUDA_PATH\nhelp: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl, and set CUDA_PATH to their folder nvidia/cu13"
            );
            0
        }
    }
}

/// The folder of NVRTC, in a toolkit that has the headers too.
fn toolkit() -> Option<PathBuf> {
    let toolkit = PathBuf::from(env::var_os("CUDA_PATH")?);
    let folders = ["lib", "lib64"].map(|folder| toolkit.join(folder));
    folders.into_iter().find(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|file| {
            file.file_name()
                .to_string_lossy()
                .starts_with("libnvrtc.so")
        })
    })
}

/// Trains and generates on the stand-in. Its kernels do nothing, so nothing is learned; but each is
/// compiled, and everything around them runs.
fn rehearse(root: &Path, target: &Path, libraries: &Path, limit: Duration) -> u8 {
    let folder = target.join("standin");
    let library = folder.join("libcuda.so.1");
    if let Err(error) = fs::create_dir_all(&folder) {
        eprintln!("error: {}: {error}", folder.display());
        return 1;
    }
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-pthread", "-O1"])
        .args(["-Wl,-soname,libcuda.so.1", "-o"])
        .args([&library, &root.join(STANDIN)]);
    let code = wait(&mut compiler, limit);
    if code != 0 {
        return code;
    }
    let nccl = folder.join("libnccl.so.2");
    drop(fs::remove_file(&nccl));
    // One file, so that both libraries are the same one to the loader and share their memory.
    if let Err(error) = symlink("libcuda.so.1", &nccl) {
        eprintln!("error: {}: {error}", nccl.display());
        return 1;
    }
    let path =
        env::join_paths([&folder, &libraries.to_path_buf()]).expect("folders without colons");
    let out = target.join("rehearsal");
    for compute in COMPUTE {
        drop(fs::remove_dir_all(&out));
        println!("$ kinora train configs/smoke.toml, compute capability {compute}");
        let mut program = Command::new(target.join("release/kinora"));
        program
            .args(["train", "configs/smoke.toml", "--quiet"])
            // Of what no kernel has computed, only the first step sees zeros.
            .args([
                "--set",
                "train.steps=1",
                "--set",
                "run.device=cuda",
                "--set",
            ])
            .arg(format!("run.out={}", out.display()))
            .env("LD_LIBRARY_PATH", &path)
            .env("COMPUTE", compute)
            .env("STANDIN_REPORT", "1")
            .current_dir(root);
        let code = wait(&mut program, limit);
        if code != 0 {
            return code;
        }
    }
    0
}
