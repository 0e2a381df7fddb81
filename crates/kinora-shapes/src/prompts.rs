//! Prompts to evaluate with: scenes from one side of the held-out rule, in the words of the captions.

use kinora_mesh::rng::Stream;
use serde::{Deserialize, Serialize};

use crate::captions;
use crate::held_out::{Split, holds_shape};
use crate::scene::Scene;

/// What the prompts ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Moving pictures; every attribute is asked for.
    Video,
    /// One picture; the motion is not asked for.
    Image,
}

/// A caption to generate from, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What the model reads.
    pub caption: String,
    /// What the clip should show.
    pub scene: Scene,
}

/// The first `n` prompts of a seed. Every scene of the side comes once before any comes twice.
///
/// A held-out prompt contains at least one pair that is never trained on; for an image that is a
/// pair of colour and shape, since its motion cannot be seen.
pub fn prompts(kind: Kind, side: Split, n: usize, seed: u64) -> Vec<Prompt> {
    let mut scenes = Scene::of(side);
    if kind == Kind::Image && side == Split::Held {
        scenes.retain(holds_shape);
    }
    let stream = Stream::new(seed, "shapes/prompts")
        .at(kind as u64)
        .at(side as u64);
    let rounds = n.div_ceil(scenes.len()) as u64;
    (0..rounds)
        .flat_map(|round| stream.at(round).permutation(scenes.len()))
        .take(n)
        .enumerate()
        .map(|(index, at)| {
            let words = Stream::new(seed, "shapes/prompts/words").at(index as u64);
            let caption = match kind {
                Kind::Video => captions::video(&scenes[at], words),
                Kind::Image => captions::image(&scenes[at], words),
            };
            Prompt {
                caption,
                scene: scenes[at],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held_out::split;
    use std::collections::HashMap;

    #[test]
    fn prompts_are_on_their_side_and_ask_for_their_scene() {
        for side in [Split::Seen, Split::Held] {
            for prompt in prompts(Kind::Video, side, 700, 5) {
                assert_eq!(split(&prompt.scene), side, "{prompt:?}");
                assert_eq!(captions::read(&prompt.caption).scene(), Some(prompt.scene));
            }
            for prompt in prompts(Kind::Image, side, 200, 5) {
                assert_eq!(captions::read(&prompt.caption).motion, None);
                assert_eq!(holds_shape(&prompt.scene), side == Split::Held);
            }
        }
    }

    #[test]
    fn no_scene_comes_twice_before_all_came_once() {
        let all = Scene::of(Split::Held).len();
        let mut counts: HashMap<Scene, usize> = HashMap::new();
        for prompt in prompts(Kind::Video, Split::Held, 2 * all + 10, 1) {
            *counts.entry(prompt.scene).or_default() += 1;
        }
        assert_eq!(counts.len(), all);
        assert_eq!(counts.values().filter(|&&n| n == 3).count(), 10);
        assert!(counts.values().all(|&n| n == 2 || n == 3));
    }

    #[test]
    fn more_prompts_of_a_seed_begin_with_the_fewer_and_seeds_differ() {
        let few = prompts(Kind::Video, Split::Seen, 8, 3);
        assert_eq!(prompts(Kind::Video, Split::Seen, 100, 3)[..8], few);
        assert_ne!(prompts(Kind::Video, Split::Seen, 8, 4), few);
        assert!(prompts(Kind::Video, Split::Seen, 0, 3).is_empty());
    }
}
