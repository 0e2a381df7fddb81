//! What can be wrong with the configuration of an encoder.

use kinora_nn::Activation;
use thiserror::Error;

// Far above any encoder, and products of a few of them far below the largest integer.
const LARGEST: usize = 1 << 24;

/// An encoder that cannot be built.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EncoderConfigError {
    /// Not the configuration of such a model.
    #[error(
        "the configuration of the {model} encoder cannot be read: {what}\n  help: give the config.json that lies beside the weights"
    )]
    Unread {
        /// The kind of model.
        model: &'static str,
        /// What is wrong.
        what: String,
    },
    /// An activation that is not known.
    #[error(
        "{key} = \"{name}\" is no activation that is known\n  help: use relu, silu, gelu, gelu_new or quick_gelu, in T5 with or without gated- before it"
    )]
    Activation {
        /// The key.
        key: &'static str,
        /// The name.
        name: String,
    },
    /// A size of zero, or beyond any model.
    #[error("{key} = {size}\n  help: every size is at least 1 and at most {LARGEST}")]
    Size {
        /// The key.
        key: &'static str,
        /// The size.
        size: usize,
    },
    /// A size that another does not divide.
    #[error("{key} = {size} is not a multiple of {by} = {parts}\n  help: change one of them")]
    Parts {
        /// The key of the size.
        key: &'static str,
        /// The size.
        size: usize,
        /// The key of what should divide it.
        by: &'static str,
        /// What should divide it.
        parts: usize,
    },
    /// A number added to variances that is none, or not small.
    #[error("layer norm epsilon {epsilon}\n  help: use a small positive number such as 1e-5")]
    Epsilon {
        /// The number, in words.
        epsilon: String,
    },
}

impl EncoderConfigError {
    /// For `map_err` of what was read from a `config.json`.
    pub(crate) fn unread<E: std::fmt::Display>(model: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Unread {
            model,
            what: error.to_string(),
        }
    }

    pub(crate) fn sizes(sizes: &[(&'static str, usize)]) -> Result<(), Self> {
        let wrong = |size: &usize| !(1..=LARGEST).contains(size);
        match sizes.iter().find(|(_, size)| wrong(size)) {
            Some(&(key, size)) => Err(Self::Size { key, size }),
            None => Ok(()),
        }
    }

    pub(crate) fn multiple(
        (key, size): (&'static str, usize),
        (by, parts): (&'static str, usize),
    ) -> Result<(), Self> {
        if size.is_multiple_of(parts) {
            return Ok(());
        }
        Err(Self::Parts {
            key,
            size,
            by,
            parts,
        })
    }

    pub(crate) fn epsilon(epsilon: f64) -> Result<(), Self> {
        if epsilon > 0.0 && epsilon < 0.1 {
            return Ok(());
        }
        let epsilon = epsilon.to_string();
        Err(Self::Epsilon { epsilon })
    }

    pub(crate) fn activation(key: &'static str, name: &str) -> Result<Activation, Self> {
        let name = name.to_owned();
        Activation::named(&name).ok_or(Self::Activation { key, name })
    }
}
