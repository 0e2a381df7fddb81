//! Starts the ranks of a program as processes, and sees to their end.
//!
//! [`Place`] says where ranks are started and gives the commands; [`supervise`] starts them, passes
//! their lines on with the rank before each, finds out which failed first, and ends the rest.
//!
//! Separate because it knows nothing of meshes, transports or tensors: it is tested with shells as
//! children. It deliberately does not read the environment, catches no signals and prints nothing of
//! its own; who calls it does. It restarts nothing, and knows neither ssh nor batch systems: a
//! further place is a further variant of [`Place`].
//!
//! # What is asked of a child
//! - Its standard input is a pipe that nobody writes to. It closes when the launcher ends, however
//!   that happens: a child that must not outlive it reads there, and ends at the end of the file.
//! - Its last words, if it fails, are what it writes to the standard error from a line on that begins
//!   with `error: `. They are held back and become part of the [`Failure`], as the others fail in its
//!   wake and have their own to say.
//! - With exit code [`FOLLOWED`] it says that it ended because of another's failure, and so it does in
//!   words that begin with [`FOLLOWING`]: `mpirun` has one exit code for all.

mod failure;
mod lines;
mod mpirun;
mod place;
mod supervise;

pub use failure::{Failure, How, LaunchError};
pub use lines::Screen;
pub use mpirun::{Flavor, Mpirun};
pub use place::{Place, Program, Start, Who};
pub use supervise::{Settings, supervise};

/// The exit code of a child that ended because another had failed.
pub const FOLLOWED: u8 = 75;

/// What stands between `error: ` and the words of a child that ended because another had failed.
pub const FOLLOWING: &str = "after another's failure: ";
