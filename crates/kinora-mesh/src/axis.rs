//! The two kinds of axes: those of the mesh (who), and those of weights and activations (what).

use serde::{Deserialize, Serialize};
use std::fmt;

/// An axis of the mesh of ranks, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshAxis {
    /// Whole copies of the model, each with its own samples.
    Replicate,
    /// Copies whose stored weights, gradients and optimizer state are cut over the axis.
    Fsdp,
    /// The conditional and the unconditional pass of guidance, when generating.
    Cfg,
    /// Context parallelism: the tokens of one sample.
    Cp,
    /// Tensor parallelism: attention heads and hidden units.
    Tp,
}

impl MeshAxis {
    /// All mesh axes, outermost first.
    pub const ALL: [MeshAxis; 5] = [
        MeshAxis::Replicate,
        MeshAxis::Fsdp,
        MeshAxis::Cfg,
        MeshAxis::Cp,
        MeshAxis::Tp,
    ];
}

impl fmt::Display for MeshAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MeshAxis::Replicate => "replicate",
            MeshAxis::Fsdp => "fsdp",
            MeshAxis::Cfg => "cfg",
            MeshAxis::Cp => "cp",
            MeshAxis::Tp => "tp",
        })
    }
}

/// A logical axis of weights and activations. It knows no mesh: a [`crate::Plan`] says where it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Samples.
    Batch,
    /// Video tokens.
    Seq,
    /// Text tokens; whole on every rank.
    Text,
    /// Model width.
    Embed,
    /// Attention heads times the width of a head.
    Heads,
    /// Hidden units of the feed-forward network.
    Hidden,
    /// Latent channels.
    Channel,
    /// Frames.
    Frame,
    /// Elements of stored parameters.
    Params,
}

impl Axis {
    /// This axis with a length, cut between any two elements.
    pub const fn of(self, len: usize) -> Extent {
        Extent {
            axis: self,
            len,
            unit: 1,
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Axis::Batch => "batch",
            Axis::Seq => "seq",
            Axis::Text => "text",
            Axis::Embed => "embed",
            Axis::Heads => "heads",
            Axis::Hidden => "hidden",
            Axis::Channel => "channel",
            Axis::Frame => "frame",
            Axis::Params => "params",
        })
    }
}

/// A logical axis with its whole length, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What the dimension means.
    pub axis: Axis,
    /// The whole length, in elements.
    pub len: usize,
    /// The number of elements that stay together: the width of a head, for heads.
    pub unit: usize,
}

impl Extent {
    /// The same extent, cut only at multiples of `unit` elements.
    pub const fn by(self, unit: usize) -> Self {
        Self { unit, ..self }
    }
}
