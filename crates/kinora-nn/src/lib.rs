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
mod conv;
mod conv_time;
mod embedding;
mod encoder_attention;
mod frame_attention;
mod gelu;
mod joint;
mod linear;
mod lora;
mod mlp;
mod modulation;
mod norm;
mod pixel_norm;
mod positions;
mod recall;
mod relative_positions;
mod rotary;
mod sequence;
mod stripes;
mod time;
mod time_attention;

pub use activation::Activation;
pub use attention::{Attention, AttentionConfig, AttentionOptions, QkNorm};
pub use conv::{Conv, ConvConfig};
pub use conv_time::TimeConv;
pub use embedding::Embedding;
pub use encoder_attention::{EncoderAttention, EncoderAttentionConfig};
pub use frame_attention::FrameAttention;
pub use gelu::gelu_tanh;
pub use joint::{JointAttention, JointOptions, JointTokens};
pub use linear::{Linear, LinearConfig};
pub use mlp::{Mlp, MlpConfig, SwiGlu};
pub use modulation::{Modulate, Modulation, Modulator};
pub use norm::{HeadNorm, LayerNorm, RmsNorm};
pub use pixel_norm::PixelNorm;
pub use positions::{FactorisedPositions, Positions};
pub use recall::Recall;
pub use relative_positions::RelativePositions;
pub use rotary::{Rotary, Rotation};
pub use sequence::{Sequence, TextEntry};
pub use stripes::Stripes;
pub use time::TimeEmbedding;
pub use time_attention::TimeAttention;
