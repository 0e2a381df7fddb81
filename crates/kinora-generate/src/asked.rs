//! What is asked for, and what guidance leads away from.

use kinora_models::{Condition, PromptEncoder};

/// Both sides of guidance, a sample each. Made before sampling, so that text encoders may be gone by
/// then.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is wanted.
    pub with: Condition,
    /// What guidance leads away from.
    pub without: Condition,
}

impl Asked {
    /// Prompts, and `negative`, most often the empty one, for all of them; `encoder` makes texts of them
    /// for a model that reads those of a frozen encoder.
    pub fn new(prompts: &[String], negative: &str, encoder: Option<&dyn PromptEncoder>) -> Self {
        let of = |prompts: Vec<String>| Condition {
            texts: encoder.map_or(vec![], |encoder| encoder.encode(&prompts)),
            prompts,
            ..Condition::default()
        };
        Self {
            with: of(prompts.to_vec()),
            without: of(vec![negative.to_owned(); prompts.len()]),
        }
    }
}
