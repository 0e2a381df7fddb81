//! `cargo xtask ci`: everything that must hold before a change goes in, the cheapest first.
//!
//! Separate because it drives cargo; it deliberately builds with nothing but the standard library.

mod ci;
mod gpu;
mod mpi;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask ci [--list] [--only NAME]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["ci"] => ci::run(None),
        ["ci", "--list"] => ci::list(),
        ["ci", "--only", name] => ci::run(Some(name)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
