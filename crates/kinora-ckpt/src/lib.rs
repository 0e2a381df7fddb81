//! Sharded checkpoints that are whole or absent, and that any other mesh can read.
//!
//! A tensor is cut over the ranks in boxes. Each rank writes its boxes into one safetensors file;
//! `manifest.json` says which box of which tensor lies where. Any rank of any mesh then reads any
//! box of any tensor: the bytes are gathered from the boxes that overlap it.
//!
//! A save is a sequence of calls with two barriers, which are the caller's:
//!
//! 1. every rank: [`Saver::begin`] (only rank 0 touches the disk: it removes the leftovers of
//!    killed saves and creates the hidden folder of this one);
//! 2. barrier; every rank: [`Saver::write_part`];
//! 3. barrier; rank 0: [`Saver::commit`], which checks the parts and renames the folder into place.
//!
//! The rename is the moment at which the checkpoint exists. A save killed before it leaves a hidden
//! folder that [`latest`] does not see.
//!
//! Separate because it is files and arithmetic: it builds without Burn and without a transport, so
//! that a checkpoint can be inspected on any machine. It deliberately does not know what a tensor
//! is for, who owns which box, or how ranks wait for each other.

mod dtype;
mod error;
mod folder;
mod foreign;
mod manifest;
mod part;
mod prefixed;
mod read;
mod region;
mod save;

pub use dtype::Dtype;
pub use error::CkptError;
pub use folder::latest;
pub use foreign::{Foreign, Layout, RenameError, Renamed, Weights, Writer, which};
pub use part::Piece;
pub use prefixed::Prefixed;
pub use read::{Checkpoint, TensorSource};
pub use save::Saver;
