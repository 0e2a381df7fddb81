//! Layers that know their axes. A layer is told what its dimensions mean and which stream flows
//! through it; from the plan it derives, once, at construction, how it is cut and what it must
//! communicate. Its `forward` takes ordinary tensors.
//!
//! Separate from the models so that these can read like their papers. It deliberately has no blocks:
//! every model repeats its own.
//!
//! Shapes: `B` samples, `S` video tokens, `L` text tokens, `D` model width, `H` heads on this rank,
//! `K` width of a head, `F` hidden units on this rank.

mod activation;
mod attend;
mod attention;
mod embedding;
mod encoder_attention;
mod gelu;
mod joint;
mod linear;
mod lora;
mod mlp;
mod modulation;
mod norm;
mod positions;
mod relative_positions;
mod rotary;
mod sequence;
mod time;

pub use activation::Activation;
pub use attention::{Attention, AttentionConfig, AttentionOptions, QkNorm};
pub use embedding::Embedding;
pub use encoder_attention::{EncoderAttention, EncoderAttentionConfig};
pub use gelu::gelu_tanh;
pub use joint::{JointAttention, JointOptions, JointTokens};
pub use linear::{Linear, LinearConfig};
pub use mlp::{Mlp, MlpConfig, SwiGlu};
pub use modulation::{Modulate, Modulation, Modulator};
pub use norm::{HeadNorm, LayerNorm, RmsNorm};
pub use positions::{FactorisedPositions, Positions};
pub use relative_positions::RelativePositions;
pub use rotary::{Rotary, Rotation};
pub use sequence::{Sequence, TextEntry};
pub use time::TimeEmbedding;
