//! The five attributes of a scene, as words and as colours.

use std::fmt;
use std::str::FromStr;

use kinora_mesh::rng::Stream;
use serde::{Deserialize, Serialize};

use crate::ShapesError;
use crate::held_out::{Split, split};

/// What a clip shows. `foreground` and `background` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scene {
    /// The colour of the shape, one of [`Colour::FOREGROUNDS`].
    pub foreground: Colour,
    /// The colour behind it, one of [`Colour::BACKGROUNDS`].
    pub background: Colour,
    /// The shape.
    pub shape: Shape,
    /// How large it is.
    pub size: Size,
    /// Where it goes. An image has one too, though nobody can see it.
    pub motion: Motion,
}

impl Scene {
    /// All 810 scenes, in a fixed order.
    pub fn all() -> Vec<Scene> {
        let mut scenes = Vec::new();
        for foreground in Colour::FOREGROUNDS {
            for background in Colour::BACKGROUNDS {
                if foreground == background {
                    continue;
                }
                for shape in Shape::ALL {
                    for size in Size::ALL {
                        for motion in Motion::ALL {
                            scenes.push(Scene {
                                foreground,
                                background,
                                shape,
                                size,
                                motion,
                            });
                        }
                    }
                }
            }
        }
        scenes
    }

    /// The scenes of one side of the held-out rule, in the order of [`Scene::all`].
    pub fn of(side: Split) -> Vec<Scene> {
        Self::all()
            .into_iter()
            .filter(|scene| split(scene) == side)
            .collect()
    }

    /// Element `i` of a stream, as one of these scenes, all equally likely.
    ///
    /// # Panics
    /// If `scenes` is empty.
    pub fn draw(scenes: &[Scene], stream: Stream, i: u64) -> Scene {
        scenes[stream.below(i, scenes.len() as u64) as usize]
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scene {
            foreground,
            background,
            shape,
            size,
            motion,
        } = self;
        write!(f, "{size} {foreground} {shape} {motion} on {background}")
    }
}

/// An enum whose variants are words: to print, to read, in configuration files and in JSON.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: [$name; [$($word),+].len()] = [$($name::$variant),+];

            /// The value's word.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = ShapesError;

            fn from_str(word: &str) -> Result<Self, ShapesError> {
                Self::ALL.into_iter().find(|value| value.word() == word).ok_or_else(|| {
                    ShapesError::UnknownWord {
                        word: word.to_owned(),
                        what: $what,
                        choices: Self::ALL.map(Self::word).join(", "),
                    }
                })
            }
        }
    };
}

words! {
    /// A colour of the palette.
    Colour, "colour":
    /// Foreground only.
    Red = "red",
    /// Foreground and background.
    Green = "green",
    /// Foreground and background.
    Blue = "blue",
    /// Foreground only.
    Yellow = "yellow",
    /// Foreground and background.
    White = "white",
    /// Foreground only.
    Purple = "purple",
    /// Background only.
    Black = "black",
    /// Background only.
    Gray = "gray",
}

words! {
    /// What is drawn.
    Shape, "shape":
    /// All points within the radius.
    Circle = "circle",
    /// Upright, its half side 0.9 radii.
    Square = "square",
    /// Its apex up.
    Triangle = "triangle",
}

words! {
    /// How large the shape is.
    Size, "size":
    /// A radius of about 4 px in a frame of 32.
    Small = "small",
    /// A radius of about 7 px in a frame of 32.
    Large = "large",
}

words! {
    /// Where the shape goes, as seen on the screen.
    Motion, "motion":
    /// Towards smaller columns.
    Left = "left",
    /// Towards larger columns.
    Right = "right",
    /// Towards smaller rows.
    Up = "up",
    /// Towards larger rows.
    Down = "down",
    /// Nowhere.
    Still = "still",
}

impl Colour {
    /// The colours that a shape can have.
    pub const FOREGROUNDS: [Colour; 6] = [
        Colour::Red,
        Colour::Green,
        Colour::Blue,
        Colour::Yellow,
        Colour::White,
        Colour::Purple,
    ];

    /// The colours that can be behind it.
    pub const BACKGROUNDS: [Colour; 5] = [
        Colour::Black,
        Colour::Gray,
        Colour::Blue,
        Colour::Green,
        Colour::White,
    ];

    /// Red, green and blue, 0..1.
    pub fn rgb(self) -> [f64; 3] {
        match self {
            Colour::Red => [0.85, 0.12, 0.12],
            Colour::Green => [0.10, 0.65, 0.20],
            Colour::Blue => [0.12, 0.22, 0.85],
            Colour::Yellow => [0.95, 0.85, 0.10],
            Colour::White => [0.95; 3],
            Colour::Purple => [0.60, 0.15, 0.70],
            Colour::Black => [0.04; 3],
            Colour::Gray => [0.45; 3],
        }
    }

    /// The palette's colour nearest to a measured one (0..1), with one colour left out if asked.
    pub fn nearest(rgb: [f64; 3], except: Option<Colour>) -> Colour {
        let distance = |colour: &Colour| -> f64 {
            colour
                .rgb()
                .iter()
                .zip(rgb)
                .map(|(a, b)| (a - b).powi(2))
                .sum()
        };
        let candidates = Self::ALL
            .into_iter()
            .filter(|&colour| Some(colour) != except);
        candidates
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .expect("eight colours less one")
    }
}

impl Size {
    /// The mean radius in px of a frame of 32.
    pub fn radius(self) -> f64 {
        match self {
            Size::Small => 4.0,
            Size::Large => 7.0,
        }
    }
}

impl Motion {
    /// The direction as (x, y), y downwards; (0, 0) when still.
    pub fn direction(self) -> [f64; 2] {
        match self {
            Motion::Left => [-1.0, 0.0],
            Motion::Right => [1.0, 0.0],
            Motion::Up => [0.0, -1.0],
            Motion::Down => [0.0, 1.0],
            Motion::Still => [0.0, 0.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn there_are_810_scenes_each_once() {
        let scenes = Scene::all();
        assert_eq!(scenes.len(), 810);
        assert_eq!(scenes.iter().collect::<HashSet<_>>().len(), 810);
        assert_eq!(
            Scene::of(Split::Seen).len() + Scene::of(Split::Held).len(),
            810
        );
    }

    #[test]
    fn words_are_read_as_they_are_printed_and_as_serde_writes_them() {
        for colour in Colour::ALL {
            assert_eq!(colour.to_string().parse::<Colour>().unwrap(), colour);
            assert_eq!(
                serde_json::to_string(&colour).unwrap(),
                format!("\"{colour}\"")
            );
        }
        for motion in Motion::ALL {
            assert_eq!(motion.to_string().parse::<Motion>().unwrap(), motion);
            assert_eq!(
                serde_json::to_string(&motion).unwrap(),
                format!("\"{motion}\"")
            );
        }
        for shape in Shape::ALL {
            assert_eq!(shape.to_string().parse::<Shape>().unwrap(), shape);
        }
        for size in Size::ALL {
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        let error = "hexagon".parse::<Shape>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"hexagon\" is not a shape\n  help: use one of circle, square, triangle"
        );
    }

    #[test]
    fn each_colour_is_nearest_to_itself_unless_left_out() {
        for colour in Colour::ALL {
            assert_eq!(Colour::nearest(colour.rgb(), None), colour);
            assert_ne!(Colour::nearest(colour.rgb(), Some(colour)), colour);
        }
    }

    #[test]
    fn draws_reach_every_scene_about_equally() {
        let scenes = Scene::all();
        let stream = Stream::new(3, "test");
        let mut counts = std::collections::HashMap::new();
        for i in 0..81_000 {
            *counts
                .entry(Scene::draw(&scenes, stream, i))
                .or_insert(0usize) += 1;
        }
        assert_eq!(counts.len(), 810);
        // 100 are expected of each, with a standard deviation of 10.
        assert!(counts.values().all(|&n| (50..=150).contains(&n)));
    }
}
