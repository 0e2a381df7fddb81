//! The checker's own score: how often it is right about clips whose truth is known, after the same
//! loss of H.264 that generated videos go through.

use kinora_media::{decode, encode_mp4};
use rayon::prelude::*;

use crate::ShapesError;
use crate::check::check;
use crate::scene::Scene;
use crate::score::{Score, Tally};
use crate::world::World;

/// Scores the checker on the first `clips` clips of a seed, drawn from all scenes of the world.
///
/// # Errors
/// If the world's settings are out of range, or a clip cannot be encoded or decoded.
pub fn calibrate(world: &World, clips: u64, seed: u64) -> Result<Score, ShapesError> {
    world.validate()?;
    let scenes = Scene::all();
    let found: Vec<_> = (0..clips)
        .into_par_iter()
        .map(|index| {
            let sample = world.video_sample(&scenes, seed, index);
            let clip = decode(&encode_mp4(&sample.clip)?)?;
            Ok((sample.scene, check(&clip)))
        })
        .collect::<Result<_, ShapesError>>()?;
    let mut tally = Tally::default();
    for (scene, found) in &found {
        tally.add(scene, found);
    }
    Ok(tally.score())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of the five attributes; `all` and the pair follow from them.
    fn assert_right(world: &World, clips: u64) {
        let score = calibrate(world, clips, 12).unwrap();
        for (name, rate) in score.rates() {
            let single = !["all", "colour and motion"].contains(&name);
            assert!(!single || rate.share() >= 0.98, "{world:?} {name}\n{score}");
        }
        assert_eq!((score.clips as u64, score.empty), (clips, 0));
    }

    #[test]
    fn the_checker_is_right_about_nearly_centred_clips_after_h264() {
        assert_right(&World::default(), 810);
    }

    #[test]
    fn the_checker_is_right_about_clips_anywhere_after_h264() {
        assert_right(
            &World {
                freedom: 99.0,
                ..World::default()
            },
            810,
        );
    }

    #[test]
    fn the_checker_is_right_about_larger_and_longer_clips_after_h264() {
        let world = World {
            frames: 24,
            height: 48,
            width: 64,
            freedom: 99.0,
            ..World::default()
        };
        assert_right(&world, 100);
    }
}
