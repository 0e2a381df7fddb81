//! How attention spans the ranks that hold the tokens of one sample.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How the `cp` axis attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Typed", try_from = "Typed")]
pub enum ContextAttention {
    /// Keys and values of all ranks are gathered, and their gradients scattered: Movie Gen's.
    Gather,
    /// Tokens are exchanged for heads within groups of `ulysses` neighbours (Jacobs et al. 2023), and
    /// keys and values travel round rings of `ring` such groups (Liu et al. 2023). `None` is what is
    /// left of the axis.
    Exchange {
        /// Ranks that exchange tokens for heads.
        ulysses: Option<usize>,
        /// Groups in a ring.
        ring: Option<usize>,
    },
}

impl ContextAttention {
    /// Every rank in one ring.
    pub const RING: Self = Self::Exchange {
        ulysses: Some(1),
        ring: None,
    };
    /// Every rank exchanges tokens for heads with every other.
    pub const ULYSSES: Self = Self::Exchange {
        ulysses: None,
        ring: Some(1),
    };

    /// The hybrid of both.
    pub const fn hybrid(ulysses: usize, ring: usize) -> Self {
        Self::Exchange {
            ulysses: Some(ulysses),
            ring: Some(ring),
        }
    }

    /// How many of `cp` ranks exchange tokens for heads, and how many groups of them make a ring, if
    /// their product is `cp`; `None` where all is gathered.
    pub fn degrees(self, cp: usize) -> Option<(usize, usize)> {
        match self {
            Self::Gather => None,
            Self::Exchange { ulysses, ring } => Some(match (ulysses, ring) {
                (Some(ulysses), Some(ring)) => (ulysses, ring),
                (Some(ulysses), None) => (ulysses, cp / ulysses.max(1)),
                (None, Some(ring)) => (cp / ring.max(1), ring),
                (None, None) => (cp, 1),
            }),
        }
    }
}

impl fmt::Display for ContextAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Gather => f.write_str("gather"),
            Self::RING => f.write_str("ring"),
            Self::ULYSSES => f.write_str("ulysses"),
            Self::Exchange { ulysses, ring } => {
                let text = |n: Option<usize>| n.map_or("rest".to_string(), |n| n.to_string());
                write!(f, "ulysses {} x ring {}", text(ulysses), text(ring))
            }
        }
    }
}

/// What is typed: `"ring"`, or `{ ulysses = 4, ring = 2 }`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Typed {
    Name(Name),
    Hybrid(Hybrid),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Ring,
    Ulysses,
    Gather,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hybrid {
    ulysses: usize,
    ring: usize,
}

impl From<ContextAttention> for Typed {
    fn from(attention: ContextAttention) -> Self {
        match attention {
            ContextAttention::Gather => Typed::Name(Name::Gather),
            ContextAttention::Exchange { ring: None, .. } => Typed::Name(Name::Ring),
            ContextAttention::Exchange { ulysses: None, .. } => Typed::Name(Name::Ulysses),
            ContextAttention::Exchange {
                ulysses: Some(ulysses),
                ring: Some(ring),
            } => Typed::Hybrid(Hybrid { ulysses, ring }),
        }
    }
}

impl TryFrom<Typed> for ContextAttention {
    type Error = String;

    fn try_from(typed: Typed) -> Result<Self, String> {
        match typed {
            Typed::Name(Name::Gather) => Ok(Self::Gather),
            Typed::Name(Name::Ring) => Ok(Self::RING),
            Typed::Name(Name::Ulysses) => Ok(Self::ULYSSES),
            Typed::Hybrid(Hybrid { ulysses, ring }) if ulysses > 0 && ring > 0 => {
                Ok(Self::hybrid(ulysses, ring))
            }
            Typed::Hybrid(_) => Err("plan.attention: ulysses and ring are at least 1".into()),
        }
    }
}
