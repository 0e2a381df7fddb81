//! `kinora`: trains and runs flow-matching video transformers, on one CPU or sharded.
//!
//! This crate holds the verbs, the configuration and the wiring; what it wires is in the libraries.
//! It alone reads arguments, environment and configuration files.

mod autoencoder;
mod cli;
mod config;
mod device;
mod encoders;
mod failure;
mod launched;
mod merged;
mod model;
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
    let here = ranks::Here::default();
    let Err(failure) = verbs::dispatch(cli::Cli::parse(), &here) else {
        return ExitCode::SUCCESS;
    };
    let words = failure.to_string();
    if !words.is_empty() {
        // In one piece, as several processes may share a terminal. Whoever closed the standard error
        // wants no words; the exit code remains.
        let _ = std::io::stderr().write_all(format!("error: {words}\n").as_bytes());
    }
    // Parting from the other ranks may take a while, or end this process.
    drop(here);
    failure.code()
}
