//! `kinora`: trains and runs flow-matching video transformers, on one CPU or sharded.
//!
//! This crate holds the verbs, the configuration and the wiring; what it wires is in the libraries.
//! It alone reads arguments, environment and configuration files.

mod autoencoder;
mod cli;
mod config;
mod device;
mod failure;
mod ranks;
mod run;
mod verbs;
mod whole;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

// Tensors of a step are freed and allocated again at once; the system's allocator gives their pages
// back in between, and faulting them in again costs a third of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match verbs::dispatch(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whoever closed the standard error wants no words; the exit code remains.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            failure.code()
        }
    }
}
