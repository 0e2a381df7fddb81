//! The suite that every transport runs.
