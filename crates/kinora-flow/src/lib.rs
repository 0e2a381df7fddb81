//! Flow matching as mathematics: the path from noise to data, the times that training visits, the
//! schedules and the solvers that sampling follows, and guidance.
//!
//! Separate because none of it depends on the model, the data or the ranks. Time runs from 0, pure
//! noise, to 1, data, as in Movie Gen (Polyak et al. 2024, section 3.1.2), and a velocity is data
//! minus noise. Schedules and solvers are told of in the terms of those who published them: sigma is
//! 1 - time, the share of noise, and a timestep is a thousandfold sigma.

mod guidance;
mod multistep;
mod noise;
mod path;
mod run;
mod schedule;
mod solver;
mod times;

pub use guidance::guide;
pub use noise::noise;
pub use path::Path;
pub use run::Run;
pub use schedule::{Schedule, ScheduleError};
pub use solver::{Points, Solver};
pub use times::Times;
