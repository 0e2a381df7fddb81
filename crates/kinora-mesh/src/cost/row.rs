//! One kind of message, and what it may hide behind.

use super::Kind;
use crate::MeshAxis;
use serde::Serialize;

/// The work that messages may hide behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// None: the rank waits.
    Nothing,
    /// The forward pass of the block before.
    Forward,
    /// The backward pass of the block before, what is recomputed included.
    Backward,
    /// The attention tile at hand, forward.
    AttentionForward,
    /// The attention tile at hand, backward.
    AttentionBackward,
}

/// One kind of message of one rank, over a whole step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is sent.
    pub what: &'static str,
    /// How.
    pub collective: Kind,
    /// Over which mesh axes.
    pub axes: Vec<MeshAxis>,
    /// Ranks of the group.
    pub ranks: usize,
    /// How far apart its ranks are along these axes: 1, but for a ring of groups that exchange heads.
    #[serde(skip)]
    pub stride: usize,
    /// Calls a step.
    pub calls: u64,
    /// Bytes that the rank passes in, a step.
    pub payload: u64,
    /// Bytes that the rank sends, a step, as the traced transport counts them.
    pub ring: u64,
    /// What it may hide behind.
    pub behind: Behind,
    /// Seconds on the links, a step.
    pub seconds: f64,
    /// Seconds of these that the rank waits.
    pub exposed: f64,
}
