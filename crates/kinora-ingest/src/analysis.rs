//! The parts of a clip: its scenes, without what is skipped, and split where they are too long.

use kinora_media::{Analysis, Footage, Info, Scene};

use crate::IngestConfig;
use crate::config::Scenes;

/// A part of a clip that may become a row.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Seconds into the clip.
    pub(crate) start: f64,
    pub(crate) end: f64,
    /// Whether it is all of the clip.
    pub(crate) whole: bool,
    pub(crate) frames: usize,
    pub(crate) motion: f64,
    pub(crate) brightness: f64,
    pub(crate) contrast: f64,
    /// Its perceptual hash.
    pub(crate) picture: u64,
}

/// Looks at all frames once.
pub(crate) fn analyse(bytes: &[u8], config: &IngestConfig) -> Result<Footage, String> {
    let mut analysis = Analysis::default();
    if let Some(threshold) = config.scenes.threshold {
        analysis.threshold = threshold;
    }
    kinora_media::analyse(bytes, &analysis).map_err(|error| error.to_string())
}

/// The parts of a clip; an image is one.
pub(crate) fn parts(info: &Info, footage: &Footage, rules: &Scenes) -> Vec<Part> {
    let all = |scenes: &[Scene]| Part {
        start: 0.0,
        end: info.duration,
        whole: true,
        frames: info.frames,
        motion: mean(scenes, |scene| scene.motion),
        brightness: mean(scenes, |scene| scene.brightness),
        contrast: mean(scenes, |scene| scene.contrast),
        picture: scenes.get(scenes.len() / 2).map_or(0, |scene| scene.hash),
    };
    if info.frames == 1 || !rules.cut {
        return vec![all(&footage.scenes)];
    }
    let mut parts = Vec::new();
    for scene in &footage.scenes {
        let start = scene.start.max(rules.skip_start_seconds.min(scene.end));
        let length = scene.end - start;
        let most = rules.max_seconds.unwrap_or(f64::INFINITY);
        // A scene that is longer by a rounding error stays whole.
        let pieces = (length / most - 1e-6).ceil().max(1.0) as usize;
        for piece in 0..pieces {
            let at = |piece: usize| start + length * piece as f64 / pieces as f64;
            let (from, to) = (
                at(piece),
                if piece + 1 == pieces {
                    scene.end
                } else {
                    at(piece + 1)
                },
            );
            let cropped = pieces > 1 || start > scene.start;
            parts.push(Part {
                start: from,
                end: to,
                whole: false,
                frames: match cropped {
                    true => (((to - from) * info.fps).round() as usize).max(1),
                    false => scene.frames,
                },
                motion: scene.motion,
                brightness: scene.brightness,
                contrast: scene.contrast,
                picture: scene.hash,
            });
        }
    }
    if let [part] = &mut parts[..]
        && footage.scenes.len() == 1
        && part.start == footage.scenes[0].start
    {
        return vec![all(&footage.scenes)];
    }
    parts
}

fn mean(scenes: &[Scene], of: impl Fn(&Scene) -> f64) -> f64 {
    let frames: usize = scenes.iter().map(|scene| scene.frames).sum();
    let sum: f64 = scenes
        .iter()
        .map(|scene| of(scene) * scene.frames as f64)
        .sum();
    sum / frames.max(1) as f64
}
