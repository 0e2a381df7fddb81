//! The Movie Gen video transformer (Polyak et al. 2024, arXiv 2410.13720, section 3.1.3): a LLaMa 3
//! backbone with bidirectional attention, cross-attention to text between attention and feed-forward,
//! and modulation by time.
//!
//! The paper's weights and code were never released. Where it is silent the choice is named at the
//! code that makes it.

mod block;
mod config;
mod model;
mod text;

pub use block::Block;
pub use config::{ConfigError, MovieGenConfig, TextInput};
pub use model::MovieGen;
pub use text::{Text, TextTokens, Texts};
