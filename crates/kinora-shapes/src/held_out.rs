//! The pairs of attributes that no training clip shows, so that a prompt with one of them asks the
//! model to compose what it has only seen apart.
//!
//! The rule holds for images as well. An image's motion cannot be seen, but it is still drawn and
//! still counts, so that images follow the same statistics of colour as the videos.

use serde::{Deserialize, Serialize};

use crate::scene::{Colour, Motion, Scene, Shape};

/// Colours of shapes that are never trained on.
pub const COLOUR_AND_SHAPE: [(Colour, Shape); 3] = [
    (Colour::Yellow, Shape::Triangle),
    (Colour::Blue, Shape::Circle),
    (Colour::Purple, Shape::Square),
];

/// Colours of motions that are never trained on.
pub const COLOUR_AND_MOTION: [(Colour, Motion); 3] = [
    (Colour::Red, Motion::Up),
    (Colour::Green, Motion::Left),
    (Colour::White, Motion::Down),
];

/// On which side of the rule a scene is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// No held-out pair: such scenes are trained on.
    Seen,
    /// At least one held-out pair: never trained on.
    Held,
}

/// The side of a scene.
pub fn split(scene: &Scene) -> Split {
    if holds_shape(scene) || holds_motion(scene) {
        Split::Held
    } else {
        Split::Seen
    }
}

/// Whether the scene's colour and shape are a held-out pair.
pub fn holds_shape(scene: &Scene) -> bool {
    COLOUR_AND_SHAPE.contains(&(scene.foreground, scene.shape))
}

/// Whether the scene's colour and motion are a held-out pair.
pub fn holds_motion(scene: &Scene) -> bool {
    COLOUR_AND_MOTION.contains(&(scene.foreground, scene.motion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_have_the_sizes_that_counting_gives() {
        // Yellow and purple go with five backgrounds, blue with four; then two sizes, five motions.
        let by_shape = (5 + 4 + 5) * 2 * 5;
        // Red goes with five backgrounds, green and white with four; then three shapes, two sizes.
        let by_motion = (5 + 4 + 4) * 3 * 2;
        assert_eq!(Scene::of(Split::Held).len(), by_shape + by_motion);
    }

    #[test]
    fn every_attribute_of_a_held_out_pair_is_seen_elsewhere() {
        let seen = Scene::of(Split::Seen);
        for (colour, shape) in COLOUR_AND_SHAPE {
            assert!(
                seen.iter()
                    .any(|s| s.foreground == colour && s.shape != shape)
            );
            assert!(
                seen.iter()
                    .any(|s| s.foreground != colour && s.shape == shape)
            );
            assert!(
                !seen
                    .iter()
                    .any(|s| s.foreground == colour && s.shape == shape)
            );
        }
        for (colour, motion) in COLOUR_AND_MOTION {
            assert!(
                seen.iter()
                    .any(|s| s.foreground == colour && s.motion != motion)
            );
            assert!(
                seen.iter()
                    .any(|s| s.foreground != colour && s.motion == motion)
            );
            assert!(
                !seen
                    .iter()
                    .any(|s| s.foreground == colour && s.motion == motion)
            );
        }
    }
}
