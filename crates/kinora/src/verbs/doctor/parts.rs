//! What GPUs and clusters need of a machine, and how to get what it lacks. It only looks for files:
//! opening a library could run its code.

use serde::Serialize;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that a transport or a backend needs.
#[derive(Serialize)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) path: Option<PathBuf>,
    /// What to do, if there is something to do.
    pub(super) help: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// It is there, but not where the loader looks.
    Elsewhere,
    Missing,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Elsewhere => "elsewhere",
            State::Missing => "missing",
        }
    }
}

/// Libraries, those of CUDA itself first, by what their file names begin with, and how to get them.
const LIBRARIES: [(&str, &[&str], &str); 5] = [
    (
        "CUDA driver (libcuda.so.1)",
        &["libcuda.so.1"],
        "install NVIDIA's driver; in a container, start it with --gpus all",
    ),
    (
        "NVRTC (libnvrtc.so.13 or .12)",
        &["libnvrtc.so.13", "libnvrtc.so.12"],
        "pip install nvidia-cuda-nvrtc",
    ),
    (
        "NVRTC's builtins (libnvrtc-builtins.so)",
        &["libnvrtc-builtins.so"],
        "pip install nvidia-cuda-nvrtc",
    ),
    (
        "NCCL (libnccl.so.2)",
        &["libnccl.so.2"],
        "pip install nvidia-nccl-cu13, or apt install libnccl2",
    ),
    (
        "MPI (libmpi.so)",
        &["libmpi.so", "libmpich.so"],
        "apt install libopenmpi-dev, or your cluster's module",
    ),
];

/// Looks for what kernels are compiled and run by.
pub(super) fn cuda() -> Vec<Part> {
    let (loader, wheels) = (loader_files(), wheel_folders());
    let mut parts: Vec<Part> = LIBRARIES[..3]
        .iter()
        .map(|&(name, prefixes, help)| library(name, prefixes, help, &loader, &wheels))
        .collect();
    parts.push(headers(&wheels));
    parts
}

/// Looks for all of them.
pub(super) fn parts() -> Vec<Part> {
    let (loader, wheels) = (loader_files(), wheel_folders());
    let mut parts: Vec<Part> = LIBRARIES
        .iter()
        .map(|&(name, prefixes, help)| library(name, prefixes, help, &loader, &wheels))
        .collect();
    parts.push(headers(&wheels));
    parts.push(mpirun());
    parts
}

fn library(
    name: &'static str,
    prefixes: &[&str],
    help: &str,
    loader: &[PathBuf],
    wheels: &[PathBuf],
) -> Part {
    let fits = |path: &Path| {
        let file = path.file_name().and_then(|name| name.to_str());
        file.is_some_and(|file| prefixes.iter().any(|prefix| file.starts_with(prefix)))
    };
    if let Some(path) = loader.iter().find(|path| fits(path)) {
        return Part {
            name,
            state: State::Ok,
            path: Some(path.clone()),
            help: None,
        };
    }
    let inside = |folder: &PathBuf| {
        files(&folder.join("lib"))
            .into_iter()
            .find(|path| fits(path))
    };
    match wheels.iter().find_map(inside) {
        Some(path) => Part {
            name,
            state: State::Elsewhere,
            help: path
                .parent()
                .map(|folder| format!("export LD_LIBRARY_PATH={}", folder.display())),
            path: Some(path),
        },
        None => missing(name, help),
    }
}

/// The headers that kernels include: of the toolkit, or of wheels that share one folder.
fn headers(wheels: &[PathBuf]) -> Part {
    let name = "CUDA headers (include/cuda_fp16.h)";
    let serves = |folder: &&PathBuf| folder.join("include/cuda_fp16.h").is_file();
    let looked: Vec<PathBuf> = match env::var_os("CUDA_PATH") {
        // The compiler looks nowhere else if it is set.
        Some(path) => vec![path.into()],
        None => ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from).into(),
    };
    if let Some(path) = looked.iter().find(serves) {
        return Part {
            name,
            state: State::Ok,
            path: Some(path.clone()),
            help: None,
        };
    }
    match wheels.iter().find(serves) {
        Some(path) => Part {
            name,
            state: State::Elsewhere,
            path: Some(path.clone()),
            help: Some(format!("export CUDA_PATH={}", path.display())),
        },
        None => missing(
            name,
            "pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl, and set CUDA_PATH to their folder nvidia/cu13",
        ),
    }
}

fn mpirun() -> Part {
    let name = "MPI's launcher (mpirun)";
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join("mpirun"))
        .find(|file| file.is_file());
    match found {
        Some(path) => Part {
            name,
            state: State::Ok,
            path: Some(path),
            help: None,
        },
        None => missing(name, "apt install openmpi-bin, or your cluster's module"),
    }
}

fn missing(name: &'static str, help: &str) -> Part {
    Part {
        name,
        state: State::Missing,
        path: None,
        help: Some(help.to_string()),
    }
}

/// The libraries that the system's loader finds by name: in `LD_LIBRARY_PATH`, then in its cache.
fn loader_files() -> Vec<PathBuf> {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path)
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(|folder| files(&folder))
        .collect();
    // Not everybody has /sbin in the search path.
    let cache = ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .find_map(|program| Command::new(program).arg("-p").output().ok());
    if let Some(cache) = cache {
        // Such as "libcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1".
        let text = String::from_utf8_lossy(&cache.stdout);
        let files = text.lines().filter_map(|line| line.split_once("=> "));
        found.extend(files.map(|(_, file)| PathBuf::from(file.trim())));
    }
    found
}

/// Folders of NVIDIA's wheels, each with `lib` or `include`, in the active environment and the usual
/// places.
fn wheel_folders() -> Vec<PathBuf> {
    let variables = ["VIRTUAL_ENV", "CONDA_PREFIX"].map(env::var_os);
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".local"));
    let roots = variables
        .into_iter()
        .flatten()
        .map(PathBuf::from)
        .chain(home)
        .chain(["/usr/local", "/usr"].map(PathBuf::from));
    let pythons = roots.flat_map(|root| files(&root.join("lib")));
    let sites = pythons.flat_map(|python| {
        ["site-packages", "dist-packages"].map(|kind| python.join(kind).join("nvidia"))
    });
    sites.flat_map(|site| files(&site)).collect()
}

/// What lies in a folder, in order of name; nothing if it cannot be read.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
