//! Captions: several ways to say one scene, short enough for a text encoder of 80 bytes, and plain
//! enough that [`read`] finds every attribute again.
//!
//! The colour that stands right before the shape is the shape's own; the other one is behind it.

use kinora_mesh::rng::Stream;

use crate::scene::{Colour, Motion, Scene, Shape, Size};

/// The longest caption, in bytes.
pub const MAX_BYTES: usize = 77;
/// The most words in a caption.
pub const MAX_WORDS: usize = 16;

/// How a video can be told.
const VIDEO: [&str; 7] = [
    "a {size} {front} {shape} {motion} on a {back} background",
    "{size} {front} {shape} {motion}, {back} background",
    "on a {back} background, a {size} {front} {shape} {motion}",
    "a video of a {size} {front} {shape} {motion} over {back}",
    "{motion} on {back}: a {size} {front} {shape}",
    "against {back}, one {size} {front} {shape} {motion}",
    "everything is {back} except a {size} {front} {shape} {motion}",
];

/// How an image can be told.
const IMAGE: [&str; 7] = [
    "a {size} {front} {shape} on a {back} background",
    "{size} {front} {shape}, {back} background",
    "on a {back} background, a {size} {front} {shape}",
    "a picture of a {size} {front} {shape} over {back}",
    "{back}, and on it a {size} {front} {shape}",
    "against {back}, one {size} {front} {shape}",
    "everything is {back} except a {size} {front} {shape}",
];

fn sizes(size: Size) -> [&'static str; 2] {
    match size {
        Size::Small => ["small", "little"],
        Size::Large => ["large", "big"],
    }
}

fn motions(motion: Motion) -> [&'static str; 3] {
    match motion {
        Motion::Left => ["moving left", "sliding to the left", "drifting leftward"],
        Motion::Right => ["moving right", "sliding to the right", "drifting rightward"],
        Motion::Up => ["moving up", "rising to the top", "drifting upward"],
        Motion::Down => ["moving down", "sinking to the bottom", "drifting downward"],
        Motion::Still => ["standing still", "staying in place", "not moving"],
    }
}

/// The stream that words clip `index` of a seed.
pub fn stream(seed: u64, index: u64) -> Stream {
    Stream::new(seed, "shapes/caption").at(index)
}

/// A caption of a video, worded by elements 0 to 2 of the stream.
pub fn video(scene: &Scene, stream: Stream) -> String {
    worded(scene, &VIDEO, [0, 1, 2].map(|i| stream.bits(i) as usize))
}

/// A caption of an image, which has no word for the motion.
pub fn image(scene: &Scene, stream: Stream) -> String {
    worded(scene, &IMAGE, [0, 1, 2].map(|i| stream.bits(i) as usize))
}

/// Fills a template; each choice counts modulo the number there is to choose from.
fn worded(scene: &Scene, templates: &[&str], [template, size, motion]: [usize; 3]) -> String {
    templates[template % templates.len()]
        .replace("{size}", sizes(scene.size)[size % 2])
        .replace("{front}", scene.foreground.word())
        .replace("{shape}", scene.shape.word())
        .replace("{back}", scene.background.word())
        .replace("{motion}", motions(scene.motion)[motion % 3])
}

/// What a caption says: each attribute that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The colour of the shape.
    pub foreground: Option<Colour>,
    /// The colour behind it.
    pub background: Option<Colour>,
    /// The shape.
    pub shape: Option<Shape>,
    /// Its size.
    pub size: Option<Size>,
    /// Its motion.
    pub motion: Option<Motion>,
}

impl Reading {
    /// The scene, if the caption says all of it.
    pub fn scene(&self) -> Option<Scene> {
        Some(Scene {
            foreground: self.foreground?,
            background: self.background?,
            shape: self.shape?,
            size: self.size?,
            motion: self.motion?,
        })
    }
}

/// Reads a caption, or a prompt that somebody typed in the same words.
pub fn read(caption: &str) -> Reading {
    let lower = caption.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .collect();
    let shape_at = words.iter().position(|word| word.parse::<Shape>().is_ok());
    let before = shape_at.and_then(|at| at.checked_sub(1));
    let foreground = before.and_then(|at| words[at].parse().ok());
    let background = (0..words.len())
        .filter(|&at| foreground.is_none() || Some(at) != before)
        .find_map(|at| words[at].parse().ok());
    let joined = words.join(" ");
    Reading {
        foreground,
        background,
        shape: shape_at.and_then(|at| words[at].parse().ok()),
        size: Size::ALL
            .into_iter()
            .find(|&size| sizes(size).iter().any(|word| words.contains(word))),
        motion: Motion::ALL
            .into_iter()
            .find(|&motion| motions(motion).iter().any(|phrase| joined.contains(phrase))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Every caption that can be written, of one kind.
    fn every(templates: &'static [&'static str]) -> impl Iterator<Item = (Scene, String)> {
        Scene::all().into_iter().flat_map(move |scene| {
            (0..templates.len() * 6)
                .map(move |i| (scene, worded(&scene, templates, [i / 6, i % 2, i / 2 % 3])))
        })
    }

    #[test]
    fn captions_fit_the_text_encoder() {
        for (_, caption) in every(&VIDEO).chain(every(&IMAGE)) {
            assert!(
                caption.len() <= MAX_BYTES,
                "{} bytes: {caption}",
                caption.len()
            );
            assert!(caption.split_whitespace().count() <= MAX_WORDS, "{caption}");
            assert!(!caption.contains('{') && caption.is_ascii(), "{caption}");
        }
    }

    #[test]
    fn every_video_caption_reads_back_as_its_scene() {
        for (scene, caption) in every(&VIDEO) {
            assert_eq!(read(&caption).scene(), Some(scene), "{caption}");
        }
    }

    #[test]
    fn every_image_caption_reads_back_but_for_the_motion() {
        for (scene, caption) in every(&IMAGE) {
            let reading = read(&caption);
            assert_eq!(reading.motion, None, "{caption}");
            let whole = Reading {
                motion: Some(scene.motion),
                ..reading
            };
            assert_eq!(whole.scene(), Some(scene), "{caption}");
        }
    }

    #[test]
    fn a_scene_is_told_in_every_way() {
        let scene = Scene::all()[17];
        let told: HashSet<String> = (0..2000).map(|i| video(&scene, stream(1, i))).collect();
        assert_eq!(told.len(), VIDEO.len() * 6);
        let told: HashSet<String> = (0..2000).map(|i| image(&scene, stream(1, i))).collect();
        assert_eq!(told.len(), IMAGE.len() * 2);
    }

    #[test]
    fn what_a_prompt_leaves_out_is_not_read_into_it() {
        let reading = read("A BIG circle!");
        assert_eq!(
            (reading.size, reading.shape),
            (Some(Size::Large), Some(Shape::Circle))
        );
        assert_eq!(
            (reading.foreground, reading.background, reading.motion),
            (None, None, None)
        );
        assert_eq!(read("").scene(), None);
    }
}
