//! Moving shapes: a data set that is drawn rather than downloaded, and the rules that score videos
//! generated from it.
//!
//! A scene is five attributes: the colour of a shape, the colour behind it, the shape, its size and
//! how it moves. Some pairs of attributes never occur in the training data ([`held_out`]), so that
//! prompts which contain them tell composing from remembering. [`mod@check`] finds the attributes of a
//! finished clip by fixed rules, without anything learned; [`calibrate`] says how often those rules
//! are right on real clips, and [`difficulty`] how much of a clip its caption leaves open.
//!
//! The crate is apart from the training loop because nothing here is specific to a model: it is a
//! data set like any other, and its scores need only pixels. It does not read its own shards (that
//! is kinora-data), and it does not judge how good a picture looks.

pub mod calibrate;
pub mod captions;
pub mod check;
pub mod difficulty;
mod error;
pub mod held_out;
pub mod make;
pub mod prompts;
mod record;
pub mod scene;
pub mod score;
pub mod world;

pub use calibrate::calibrate;
pub use check::{Found, Object, Track, check};
pub use difficulty::{Difficulty, difficulty};
pub use error::ShapesError;
pub use held_out::Split;
pub use make::{Made, ShapesConfig, make};
pub use prompts::{Kind, Prompt, prompts};
pub use scene::{Colour, Motion, Scene, Shape, Size};
pub use score::{Rate, Score, Tally};
pub use world::{Path, Sample, World};
