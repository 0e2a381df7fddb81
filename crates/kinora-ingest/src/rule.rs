//! Why something was left out.

use serde::{Deserialize, Serialize};

/// A reason to leave out an item or one of its scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It cannot be read or decoded, or its caption or sound cannot.
    Broken,
    /// It has no caption.
    NoCaption,
    /// No caption is of an allowed length.
    CaptionLength,
    /// It has the bytes of an earlier one.
    Duplicate,
    /// It looks like an earlier one.
    NearDuplicate,
    /// It has too many bytes.
    TooLarge,
    /// A side is too short or too long.
    Size,
    /// It is too wide or too tall.
    Aspect,
    /// A scene is shorter than scenes are to be.
    ShortScene,
    /// It is too short or too long.
    Seconds,
    /// It has too few frames per second.
    Fps,
    /// It moves too little or too much.
    Motion,
    /// It is too dark.
    Brightness,
    /// It is blank.
    Contrast,
}

impl Rule {
    /// What it says of the item.
    pub fn words(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::NoCaption => "without a caption",
            Self::CaptionLength => "caption too short or too long",
            Self::Duplicate => "the same bytes as an earlier one",
            Self::NearDuplicate => "looks like an earlier one",
            Self::TooLarge => "too many bytes",
            Self::Size => "too small or too large",
            Self::Aspect => "too wide or too tall",
            Self::ShortScene => "scene too short",
            Self::Seconds => "too short or too long",
            Self::Fps => "too few frames per second",
            Self::Motion => "moves too little or too much",
            Self::Brightness => "too dark",
            Self::Contrast => "blank",
        }
    }
}
