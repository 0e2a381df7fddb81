//! How much of a clip its caption leaves open. Scores of data sets with different freedom cannot be
//! compared, so this is printed beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scene::{Motion, Scene};
use crate::world::World;

/// How freely the shapes of a world are placed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difficulty {
    /// The world's freedom, in px of a frame of 32.
    pub freedom: f64,
    /// The standard deviation of the start positions, (x, y) in px.
    pub start_px: [f64; 2],
    /// The same as a share of the frame's width and height.
    pub start_share: [f64; 2],
    /// The standard deviation among clips of the same motion, (x, y) in px: what the caption does
    /// not tell of the start position.
    pub open_px: [f64; 2],
    /// The same as a share of the frame's width and height.
    pub open_share: [f64; 2],
}

/// Measures the placement of the first `clips` clips of a seed.
pub fn difficulty(world: &World, clips: u64, seed: u64) -> Difficulty {
    let scenes = Scene::all();
    let placed: Vec<(Motion, [f64; 2])> = (0..clips)
        .map(|index| world.placed_video(&scenes, seed, index))
        .map(|(scene, path)| (scene.motion, path.start))
        .collect();
    let mut start_px = [0.0; 2];
    let mut open_px = [0.0; 2];
    for axis in 0..2 {
        let squares = |starts: Vec<f64>| {
            let mean = starts.iter().sum::<f64>() / starts.len().max(1) as f64;
            starts.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
        };
        let whole = squares(placed.iter().map(|(_, start)| start[axis]).collect());
        let within = Motion::ALL.map(|motion| {
            let same = placed.iter().filter(|(other, _)| *other == motion);
            squares(same.map(|(_, start)| start[axis]).collect())
        });
        start_px[axis] = (whole / clips.max(1) as f64).sqrt();
        open_px[axis] = (within.iter().sum::<f64>() / clips.max(1) as f64).sqrt();
    }
    let share = |px: [f64; 2]| [px[0] / world.width as f64, px[1] / world.height as f64];
    Difficulty {
        freedom: world.freedom,
        start_px,
        start_share: share(start_px),
        open_px,
        open_share: share(open_px),
    }
}

impl fmt::Display for Difficulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difficulty {
            freedom,
            start_px,
            start_share,
            open_px,
            open_share,
        } = self;
        write!(
            f,
            "freedom {freedom} px; start positions vary by {:.1} x {:.1} px ({:.0} x {:.0} % of the frame), \
             of which the caption leaves open {:.1} x {:.1} px ({:.0} x {:.0} %)",
            start_px[0],
            start_px[1],
            100.0 * start_share[0],
            100.0 * start_share[1],
            open_px[0],
            open_px[1],
            100.0 * open_share[0],
            100.0 * open_share[1],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freedom_zero_leaves_open_only_the_length_of_the_way() {
        let world = World {
            freedom: 0.0,
            ..World::default()
        };
        let found = difficulty(&world, 2000, 1);
        // Half the way is 6.75 to 8.25 px, so that the start of two motions in five varies a little.
        assert!(found.open_px[0] < 0.4, "{found:?}");
        assert!(found.start_px[0] > 4.0, "{found:?}");
    }

    #[test]
    fn a_small_freedom_leaves_open_what_a_uniform_offset_does() {
        // A uniform offset of 3 px either way has a standard deviation of 3 / sqrt(3), less where a
        // large moving shape has no room, plus the length of the way.
        let found = difficulty(&World::default(), 4000, 1);
        assert!((1.4..1.8).contains(&found.open_px[0]), "{found:?}");
        assert!((1.4..1.8).contains(&found.open_px[1]), "{found:?}");
    }

    #[test]
    fn more_freedom_leaves_more_open_and_shares_do_not_depend_on_the_scale() {
        let near = difficulty(&World::default(), 2000, 1);
        let far = difficulty(
            &World {
                freedom: 99.0,
                ..World::default()
            },
            2000,
            1,
        );
        assert!(far.open_px[0] > 2.0 * near.open_px[0], "{near:?} {far:?}");
        let large = World {
            height: 64,
            width: 64,
            ..World::default()
        };
        let large = difficulty(&large, 2000, 1);
        assert!(
            (large.open_share[1] - near.open_share[1]).abs() < 0.003,
            "{near:?} {large:?}"
        );
        assert!(
            large
                .to_string()
                .starts_with("freedom 3 px; start positions vary by ")
        );
    }
}
