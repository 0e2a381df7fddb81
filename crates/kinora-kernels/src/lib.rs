//! Differentiable operations that layers are made of, each with its own backward pass, and the means to
//! write more of them.
//!
//! Separate because kernels know numbers and backends, not layers or ranks. On the CPU they are loops
//! over slices; on other backends, tensor operations. They deliberately do not choose between ways to
//! compute the same thing by a setting: the device decides. Half precision is computed in f32 and
//! rounded once, but for the factors of products on GPUs. Results have the same bits for any number of threads.

pub mod attention;
pub mod conv;
mod host;
mod matrix;
mod norm;
mod norm_silu;
pub mod op;
pub mod product;
mod real;
mod swiglu;

pub use attention::{attention, attention_backward, attention_with_logsumexp, merge};
pub use conv::{Window, convolve};
pub use norm::rms_norm;
pub use norm_silu::rms_norm_silu;
pub use product::product;
pub use swiglu::swiglu;
