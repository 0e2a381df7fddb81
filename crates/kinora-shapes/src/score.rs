//! How many generated clips show what their prompts asked for, beside what could be had by chance.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::check::{Found, Track};
use crate::scene::Scene;

/// How often one attribute was right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Clips in which it was right.
    pub right: usize,
    /// Clips in which it was asked for.
    pub of: usize,
    /// The share that a model gets which ignores its prompts and always shows the value that these
    /// prompts ask for most often.
    pub chance: f64,
}

impl Rate {
    /// The share that was right, 0..1; 0 of no clips.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }

    /// Wilson's 95 % interval of the share, which holds for shares near 0 and 1 too.
    pub fn interval(&self) -> [f64; 2] {
        if self.of == 0 {
            return [0.0, 1.0];
        }
        let z2 = 1.96f64.powi(2);
        let (n, p) = (self.of as f64, self.share());
        let middle = p + z2 / (2.0 * n);
        let half = (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt();
        [middle - half, middle + half].map(|x| (x / (1.0 + z2 / n)).clamp(0.0, 1.0))
    }
}

/// The score of a set of clips. An attribute that nobody asked for is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The number of clips.
    pub clips: usize,
    /// Clips in which no object was found; nothing in them counts as right.
    pub empty: usize,
    /// The colour of the shape.
    pub colour: Rate,
    /// The colour behind it.
    pub background: Rate,
    /// The motion, in videos.
    pub motion: Option<Rate>,
    /// The shape.
    pub shape: Rate,
    /// The size.
    pub size: Rate,
    /// Colour and motion, both right, in videos.
    pub colour_and_motion: Option<Rate>,
    /// Every attribute right.
    pub all: Rate,
}

impl Score {
    /// The rates with their names, in the order in which they are printed.
    pub fn rates(&self) -> Vec<(&'static str, Rate)> {
        let mut rates = vec![("colour", self.colour), ("background", self.background)];
        rates.extend(self.motion.map(|rate| ("motion", rate)));
        rates.extend([("shape", self.shape), ("size", self.size)]);
        rates.extend(
            self.colour_and_motion
                .map(|rate| ("colour and motion", rate)),
        );
        rates.push(("all", self.all));
        rates
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<18}{:>8}{:>18}{:>10}",
            "attribute", "right", "95 % interval", "chance"
        )?;
        for (name, rate) in self.rates() {
            let [share, low, high, chance] = [
                rate.share(),
                rate.interval()[0],
                rate.interval()[1],
                rate.chance,
            ]
            .map(|x| 100.0 * x);
            let interval = format!("{low:.1} to {high:.1}");
            write!(f, "\n{name:<18}{share:>6.1} %{interval:>18}{chance:>8.1} %")?;
        }
        Ok(())
    }
}

/// Counts what is right, clip by clip.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    marks: Vec<Mark>,
}

/// What one clip got right.
#[derive(Clone, Copy, Debug)]
struct Mark {
    wanted: Scene,
    moving: bool,
    object: bool,
    colour: bool,
    background: bool,
    motion: bool,
    shape: bool,
    size: bool,
}

impl Tally {
    /// Compares what a clip shows with what was wanted. An image is not asked for its motion.
    pub fn add(&mut self, wanted: &Scene, found: &Found) {
        let object = found.object;
        self.marks.push(Mark {
            wanted: *wanted,
            moving: found.frames > 1,
            object: object.is_some(),
            colour: object.is_some_and(|o| o.foreground == wanted.foreground),
            background: object.is_some() && found.background == wanted.background,
            motion: object.is_some_and(|o| o.motion == Track::Along(wanted.motion)),
            shape: object.is_some_and(|o| o.shape == wanted.shape),
            size: object.is_some_and(|o| o.size == wanted.size),
        });
    }

    /// The score so far.
    pub fn score(&self) -> Score {
        let all: Vec<&Mark> = self.marks.iter().collect();
        let moving: Vec<&Mark> = self.marks.iter().filter(|mark| mark.moving).collect();
        // An image's motion cannot be asked for, so it does not make its scene another one either.
        let whole = |m: &Mark| {
            let s = m.wanted;
            (
                s.foreground,
                s.background,
                s.shape,
                s.size,
                m.moving.then_some(s.motion),
            )
        };
        let complete =
            |m: &Mark| m.colour && m.background && m.shape && m.size && (m.motion || !m.moving);
        let videos = |rate: Rate| (rate.of > 0).then_some(rate);
        Score {
            clips: all.len(),
            empty: all.iter().filter(|mark| !mark.object).count(),
            colour: rate(&all, |m| m.wanted.foreground, |m| m.colour),
            background: rate(&all, |m| m.wanted.background, |m| m.background),
            motion: videos(rate(&moving, |m| m.wanted.motion, |m| m.motion)),
            shape: rate(&all, |m| m.wanted.shape, |m| m.shape),
            size: rate(&all, |m| m.wanted.size, |m| m.size),
            colour_and_motion: videos(rate(
                &moving,
                |m| (m.wanted.foreground, m.wanted.motion),
                |m| m.colour && m.motion,
            )),
            all: rate(&all, whole, complete),
        }
    }
}

fn rate<K: Eq + Hash>(
    marks: &[&Mark],
    wanted: impl Fn(&Mark) -> K,
    right: impl Fn(&Mark) -> bool,
) -> Rate {
    let mut asked: HashMap<K, usize> = HashMap::new();
    for mark in marks {
        *asked.entry(wanted(mark)).or_default() += 1;
    }
    let commonest = asked.into_values().max().unwrap_or(0);
    Rate {
        right: marks.iter().filter(|mark| right(mark)).count(),
        of: marks.len(),
        chance: commonest as f64 / marks.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::scene::{Colour, Motion, Shape, Size};
    use crate::world::World;

    fn scene(foreground: Colour, motion: Motion) -> Scene {
        let (shape, size) = (Shape::Square, Size::Large);
        Scene {
            foreground,
            background: Colour::Black,
            shape,
            size,
            motion,
        }
    }

    fn nothing(frames: usize) -> Found {
        Found {
            frames,
            background: Colour::Black,
            strength: 0.0,
            object: None,
        }
    }

    fn shown(scene: &Scene) -> Found {
        let world = World::default();
        check(&world.video_sample(&[*scene], 1, 0).clip)
    }

    #[test]
    fn each_attribute_is_counted_by_itself_and_with_the_others() {
        let red_left = scene(Colour::Red, Motion::Left);
        let mut tally = Tally::default();
        tally.add(&red_left, &shown(&red_left));
        tally.add(&red_left, &shown(&scene(Colour::Red, Motion::Up)));
        tally.add(&red_left, &shown(&scene(Colour::White, Motion::Left)));
        tally.add(&scene(Colour::White, Motion::Up), &shown(&red_left));
        let score = tally.score();
        let right = |rate: Rate| (rate.right, rate.of, rate.chance);
        assert_eq!(right(score.colour), (2, 4, 0.75));
        assert_eq!(right(score.motion.unwrap()), (2, 4, 0.75));
        assert_eq!(right(score.colour_and_motion.unwrap()), (1, 4, 0.75));
        assert_eq!(right(score.background), (4, 4, 1.0));
        assert_eq!(right(score.shape), (4, 4, 1.0));
        assert_eq!(right(score.all), (1, 4, 0.75));
        assert_eq!(score.empty, 0);
    }

    #[test]
    fn an_empty_clip_gets_nothing_right_not_even_its_background() {
        let wanted = scene(Colour::Red, Motion::Still);
        let mut tally = Tally::default();
        tally.add(&wanted, &nothing(16));
        let score = tally.score();
        assert_eq!(score.empty, 1);
        assert!(
            score
                .rates()
                .iter()
                .all(|(_, rate)| rate.right == 0 && rate.of == 1)
        );
    }

    #[test]
    fn images_are_not_asked_for_their_motion() {
        let wanted = scene(Colour::Red, Motion::Left);
        let mut tally = Tally::default();
        tally.add(
            &wanted,
            &check(&World::default().image_sample(&[wanted], 1, 0).clip),
        );
        let score = tally.score();
        assert_eq!((score.motion, score.colour_and_motion), (None, None));
        assert_eq!((score.all.right, score.all.of), (1, 1));
        tally.add(&wanted, &nothing(1));
        assert_eq!((tally.score().motion, tally.score().all.of), (None, 2));
    }

    #[test]
    fn the_chance_of_a_shape_is_about_a_third_of_evenly_drawn_prompts() {
        let mut tally = Tally::default();
        for wanted in Scene::all() {
            tally.add(&wanted, &nothing(16));
        }
        let score = tally.score();
        assert!((score.shape.chance - 1.0 / 3.0).abs() < 1e-12);
        assert!((score.motion.unwrap().chance - 0.2).abs() < 1e-12);
        assert!((score.all.chance - 1.0 / 810.0).abs() < 1e-12);
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662, and 0 of 20 gives 0 to 0.1611.
        let [low, high] = Rate {
            right: 81,
            of: 263,
            chance: 0.0,
        }
        .interval();
        assert!(
            (low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4,
            "{low} {high}"
        );
        let [low, high] = Rate {
            right: 0,
            of: 20,
            chance: 0.0,
        }
        .interval();
        assert!(
            low.abs() < 1e-9 && (high - 0.1611).abs() < 1e-4,
            "{low} {high}"
        );
    }

    #[test]
    fn a_score_prints_a_row_for_each_rate_and_survives_json() {
        let wanted = scene(Colour::Red, Motion::Left);
        let mut tally = Tally::default();
        tally.add(&wanted, &shown(&wanted));
        let score = tally.score();
        let printed = score.to_string();
        assert_eq!(printed.lines().count(), 1 + score.rates().len());
        assert!(
            printed.contains("colour and motion  100.0 %     20.7 to 100.0   100.0 %"),
            "{printed}"
        );
        let json = serde_json::to_string(&score).unwrap();
        assert_eq!(serde_json::from_str::<Score>(&json).unwrap(), score);
    }
}
