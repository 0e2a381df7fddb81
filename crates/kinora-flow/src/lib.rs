//! Flow matching as mathematics: the path from noise to data, the times that training visits, the
//! schedules and the solver that sampling follows, and guidance.
//!
//! Separate because none of it depends on the model, the data or the ranks. Time runs from 0, pure
//! noise, to 1, data, as in Movie Gen (Polyak et al. 2024, section 3.1.2).

mod guidance;
mod noise;
mod path;
mod schedule;
mod times;

pub use guidance::guide;
pub use noise::noise;
pub use path::Path;
pub use schedule::{Schedule, euler_step};
pub use times::Times;
