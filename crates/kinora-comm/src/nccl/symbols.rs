//! Tables of functions of libraries that are opened at run time, so that a build needs none of them.

use crate::CommError;
use libloading::Library;
use std::path::{Path, PathBuf};

/// Opens the first library that is there: `path` itself, or one of `names` in it if it is a folder;
/// or, without a path, one of `names` where the system's loader looks.
///
/// # Errors
/// [`CommError::Missing`], with every attempt.
pub(super) fn open(
    what: &str,
    names: &[&str],
    path: Option<&Path>,
    help: &str,
) -> Result<Library, CommError> {
    let candidates: Vec<PathBuf> = match path {
        Some(path) if path.is_dir() => names.iter().map(|name| path.join(name)).collect(),
        Some(path) => vec![path.to_path_buf()],
        None => names.iter().map(PathBuf::from).collect(),
    };
    let mut attempts = vec![];
    for candidate in &candidates {
        // SAFETY: the library is NVIDIA's (or a stand-in for it), whose initialisers ask nothing of
        // the program that opens it.
        match unsafe { Library::new(candidate) } {
            Ok(library) => return Ok(library),
            Err(error) => attempts.push(format!("{}: {error}", candidate.display())),
        }
    }
    Err(CommError::Missing {
        what: format!("{what} cannot be opened ({})", attempts.join("; ")),
        help: help.to_string(),
    })
}

/// One function of a library.
///
/// # Errors
/// [`CommError::Missing`].
///
/// # Safety
/// `F` must be the type of a function pointer with the function's C signature, and must not be used
/// once the library is closed.
pub(super) unsafe fn find<F: Copy>(library: &Library, name: &str) -> Result<F, CommError> {
    // SAFETY: the caller vouches for the type.
    let symbol = unsafe { library.get::<F>(name) };
    symbol
        .map(|symbol| *symbol)
        .map_err(|error| CommError::Missing {
            what: format!("the library that was opened is too old, or another one: {error}"),
            help: "install CUDA 12 or later, and NCCL 2.18 or later".to_string(),
        })
}

/// Declares a struct of function pointers with a constructor that fills all of them.
macro_rules! table {
    ($name:ident { $($function:ident = $symbol:literal: ($($argument:ty),*) -> $result:ty;)* }) => {
        struct $name {
            $($function: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $name {
            fn fill(library: libloading::Library) -> Result<Self, $crate::CommError> {
                // SAFETY: the signatures are those of the library's documentation, and it is never
                // closed.
                let table = unsafe {
                    Self { $($function: $crate::nccl::symbols::find(&library, $symbol)?,)* }
                };
                // It has threads of its own, which must not lose their code.
                std::mem::forget(library);
                Ok(table)
            }
        }
    };
}
pub(super) use table;
