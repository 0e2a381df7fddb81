//! The tests that look at the repository as a whole, in one binary.
//!
//! Separate because they belong to no single crate. What a crate can test alone, it tests itself.

mod bad_files;
mod cli;
mod clips;
mod encode;
mod faults;
mod finetune;
mod fixture;
mod golden;
mod ingest;
mod launch;
mod models;
mod mutants;
mod parallel;
mod program;
mod resume;
mod tidy;
mod traffic;
mod verify;
mod whole_run;
