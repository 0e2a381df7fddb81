//! Where a rank is in its work, in its own words.

use std::fmt;
use std::sync::Arc;

// Enough for a sentence; a longer one would crowd out the rest of a report.
const LONGEST: usize = 200;

/// Where a rank said last that it was ([`crate::Transport::at`]); nothing if it never did. Shown as
/// `, last seen at step 118`, to follow the call that an error names.
// Behind one pointer, so that errors, which are passed about by value, stay small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts(Option<Arc<String>>);

impl Whereabouts {
    /// At a place, of which at most 200 characters are kept; an empty one is nothing.
    pub fn at(place: &str) -> Self {
        let kept: String = place.chars().take(LONGEST).collect();
        Self((!kept.is_empty()).then(|| Arc::new(kept)))
    }

    /// The place, if the rank has said one.
    pub fn place(&self) -> Option<&str> {
        self.0.as_ref().map(|place| place.as_str())
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Some(place) => write!(f, ", last seen at {place}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_and_no_place_is_not() {
        let seen = Whereabouts::at("step 118, samples 472..476");
        let text = ", last seen at step 118, samples 472..476";
        assert_eq!(seen.to_string(), text);
        assert_eq!(Whereabouts::at(""), Whereabouts::default());
        assert_eq!(Whereabouts::default().to_string(), "");
        let long = Whereabouts::at(&"\u{e9}".repeat(1000));
        assert_eq!(long.place().map(|place| place.chars().count()), Some(200));
    }
}
