//! The rules of the repository as functions of its text, for `cargo xtask ci` and for the tests.
//!
//! Separate, and without any dependency, so that the cheapest checks run before anything is built.
//! It deliberately knows nothing of what the crates do.

pub mod repo;
pub mod tidy;
