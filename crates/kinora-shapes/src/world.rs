//! From a scene to pixels: where the shape goes, and an antialiased picture of each frame.
//!
//! Lengths are given for a frame of 32 x 32 and scale with the shorter side. A moving shape travels
//! 13.5 to 16.5 such px in the whole clip whatever its number of frames, or as far as it fits.
//! Coordinates are px from the centre of the first one, (x, y), y downwards.

use kinora_media::Clip;
use kinora_mesh::rng::Stream;
use serde::{Deserialize, Serialize};

use crate::ShapesError;
use crate::captions;
use crate::scene::{Scene, Shape};

/// The side of the frame that lengths are given for.
const SIDE: f64 = 32.0;
/// How far a radius is from its size's mean at most.
const RADIUS_SPREAD: f64 = 0.4;
/// How far the shape's centre stays from the border, in radii.
const MARGIN: f64 = 1.1;
/// The shortest and longest way through a clip: 0.9 and 1.1 px a frame, 16 frames.
const TRAVEL: [f64; 2] = [13.5, 16.5];

/// How large, long and free the clips are. In frames below 32 px the shapes get too coarse to tell
/// apart for certain: [`crate::calibrate`] says how often the checker still can.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Frames of a video.
    pub frames: usize,
    /// Rows of a frame, in px.
    pub height: usize,
    /// Columns of a frame, in px.
    pub width: usize,
    /// Frames a second; it changes the clips' headers only.
    pub fps: f64,
    /// How far a path may be from the centred one, on each axis, in px of a frame of 32: 3 nearly
    /// fixes the path by its caption, 99 is anywhere that fits.
    pub freedom: f64,
}

impl Default for World {
    /// 16 frames of 32 x 32 at 8 a second, freedom 3.
    fn default() -> Self {
        Self {
            frames: 16,
            height: 32,
            width: 32,
            fps: 8.0,
            freedom: 3.0,
        }
    }
}

/// What a caption leaves open: the exact size of the shape and its way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The shape's radius in px.
    pub radius: f64,
    /// Its centre in the first frame, (x, y) in px.
    pub start: [f64; 2],
    /// Its way from the first frame to the last, (x, y) in px.
    pub travel: [f64; 2],
}

/// A clip with its caption and the truth about it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the clip shows.
    pub scene: Scene,
    /// Where exactly.
    pub path: Path,
    /// What the model reads.
    pub caption: String,
    /// The pixels, [T, H, W, 3].
    pub clip: Clip,
}

impl World {
    /// Whether the clips can be drawn, encoded and checked.
    ///
    /// # Errors
    /// [`ShapesError::BadSetting`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), ShapesError> {
        let bad = |setting, value: String, problem: &str, help: &str| {
            Err(ShapesError::BadSetting {
                setting,
                value,
                problem: problem.to_owned(),
                help: help.to_owned(),
            })
        };
        if !(4..=1024).contains(&self.frames) {
            let help = "set frames between 4 and 1024";
            return bad(
                "frames",
                self.frames.to_string(),
                "shows no motion, or too long a one",
                help,
            );
        }
        for (setting, side) in [("height", self.height), ("width", self.width)] {
            if !(16..=2048).contains(&side) || side % 2 != 0 {
                let help = "set an even number of px between 16 and 2048";
                return bad(
                    setting,
                    side.to_string(),
                    "cannot be encoded as video",
                    help,
                );
            }
        }
        if !(1.0..=120.0).contains(&self.fps) {
            let help = "set fps between 1 and 120";
            return bad("fps", self.fps.to_string(), "is no frame rate", help);
        }
        if !(0.0..=1e6).contains(&self.freedom) {
            let help = "set freedom = 3 (nearly centred) or 99 (anywhere that fits)";
            return bad(
                "freedom",
                self.freedom.to_string(),
                "is no distance in px",
                help,
            );
        }
        Ok(())
    }

    /// How many px of this world are one px of a frame of 32.
    pub fn scale(&self) -> f64 {
        self.height.min(self.width) as f64 / SIDE
    }

    /// Draws what a scene's caption leaves open, from elements 0 to 4 of the stream.
    pub fn place(&self, scene: &Scene, stream: Stream) -> Path {
        let scale = self.scale();
        let between = |i, low: f64, high: f64| low + (high - low) * stream.uniform(i);
        let mean = scene.size.radius();
        let radius = scale * between(0, mean - RADIUS_SPREAD, mean + RADIUS_SPREAD);
        let wish = scale * between(1, TRAVEL[0], TRAVEL[1]);
        let mut start = [0.0; 2];
        let mut travel = [0.0; 2];
        for (axis, side) in [self.width, self.height].into_iter().enumerate() {
            let last = side as f64 - 1.0;
            let room = last - 2.0 * MARGIN * radius;
            let length = wish.min(room) * scene.motion.direction()[axis].abs();
            let slack = ((room - length) / 2.0).min(self.freedom * scale);
            travel[axis] = length * scene.motion.direction()[axis];
            let offset = between(2 + axis as u64, -slack, slack);
            start[axis] = (last - travel[axis]) / 2.0 + offset;
        }
        Path {
            radius,
            start,
            travel,
        }
    }

    /// Every frame of a scene.
    pub fn video(&self, scene: &Scene, path: &Path) -> Clip {
        let mut rgb = Vec::with_capacity(self.frames * self.height * self.width * 3);
        for frame in 0..self.frames {
            self.draw(
                scene,
                path,
                frame as f64 / (self.frames - 1) as f64,
                &mut rgb,
            );
        }
        let &World {
            frames,
            height,
            width,
            fps,
            ..
        } = self;
        Clip {
            frames,
            height,
            width,
            fps,
            rgb,
        }
    }

    /// One moment of a scene, from 0 (the first frame) to 1 (the last), as a clip of one frame.
    pub fn image(&self, scene: &Scene, path: &Path, moment: f64) -> Clip {
        let mut rgb = Vec::with_capacity(self.height * self.width * 3);
        self.draw(scene, path, moment, &mut rgb);
        Clip {
            frames: 1,
            height: self.height,
            width: self.width,
            fps: 0.0,
            rgb,
        }
    }

    /// Video `index` of a seed, showing one of `scenes`.
    pub fn video_sample(&self, scenes: &[Scene], seed: u64, index: u64) -> Sample {
        let (scene, path) = self.placed_video(scenes, seed, index);
        let caption = captions::video(&scene, captions::stream(seed, index));
        Sample {
            scene,
            path,
            caption,
            clip: self.video(&scene, &path),
        }
    }

    /// Image `index` of a seed: a random moment of one of `scenes`.
    pub fn image_sample(&self, scenes: &[Scene], seed: u64, index: u64) -> Sample {
        let (scene, path) = self.placed("shapes/image", scenes, seed, index);
        let caption = captions::image(&scene, captions::stream(seed, index));
        let moment = Stream::new(seed, "shapes/moment").at(index).uniform(0);
        Sample {
            scene,
            path,
            caption,
            clip: self.image(&scene, &path, moment),
        }
    }

    /// The scene and the path of video `index` of a seed, without its pixels.
    pub fn placed_video(&self, scenes: &[Scene], seed: u64, index: u64) -> (Scene, Path) {
        self.placed("shapes/video", scenes, seed, index)
    }

    fn placed(&self, purpose: &str, scenes: &[Scene], seed: u64, index: u64) -> (Scene, Path) {
        let stream = Stream::new(seed, purpose).at(index);
        let scene = Scene::draw(scenes, stream.at(0), 0);
        (scene, self.place(&scene, stream.at(1)))
    }

    /// Appends one frame, [H, W, 3].
    fn draw(&self, scene: &Scene, path: &Path, moment: f64, rgb: &mut Vec<u8>) {
        let back = scene.background.rgb();
        let front = scene.foreground.rgb();
        let centre = [0, 1].map(|axis| path.start[axis] + moment * path.travel[axis]);
        // No shape reaches further than this, so most pixels need no distance.
        let reach = 1.3 * path.radius + 1.0;
        for row in 0..self.height {
            let dy = row as f64 - centre[1];
            for column in 0..self.width {
                let dx = column as f64 - centre[0];
                let near = dx.abs() <= reach && dy.abs() <= reach;
                let alpha = if near {
                    coverage(scene.shape, dx, dy, path.radius)
                } else {
                    0.0
                };
                for (b, f) in back.iter().zip(front) {
                    rgb.push((255.0 * (b + (f - b) * alpha)).round() as u8);
                }
            }
        }
    }
}

/// How much of the pixel at an offset from the shape's centre is covered, 0..1.
fn coverage(shape: Shape, dx: f64, dy: f64, r: f64) -> f64 {
    (0.5 - distance(shape, dx, dy, r)).clamp(0.0, 1.0)
}

/// The distance in px from the outline, negative inside.
fn distance(shape: Shape, dx: f64, dy: f64, r: f64) -> f64 {
    match shape {
        Shape::Circle => dx.hypot(dy) - r,
        Shape::Square => dx.abs().max(dy.abs()) - 0.9 * r,
        Shape::Triangle => {
            let y = dy - 0.3 * r;
            let sides = 0.866 * dx.abs() - 0.5 * y;
            y.max(sides) - 0.65 * r
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Colour, Motion, Size};
    use proptest::prelude::*;

    const SCENE: Scene = Scene {
        foreground: Colour::Red,
        background: Colour::Black,
        shape: Shape::Circle,
        size: Size::Small,
        motion: Motion::Right,
    };

    /// The area in px of what is drawn, from the red channel.
    fn area(clip: &Clip, scene: &Scene) -> f64 {
        let [b, f] = [scene.background.rgb()[0], scene.foreground.rgb()[0]];
        clip.rgb
            .chunks(3)
            .map(|p| (f64::from(p[0]) / 255.0 - b) / (f - b))
            .sum()
    }

    #[test]
    fn shapes_have_the_areas_of_geometry() {
        let world = World {
            height: 64,
            width: 64,
            ..World::default()
        };
        let r = 14.0;
        let path = Path {
            radius: r,
            start: [31.3, 30.8],
            travel: [0.0; 2],
        };
        // The triangle's outline runs from y = -r to 0.95 r, and 0.975 / 0.866 r to either side.
        let triangle = 1.95 * r * 0.975 / 0.866 * r;
        for (shape, expected) in [
            (Shape::Circle, std::f64::consts::PI * r * r),
            (Shape::Square, (1.8 * r).powi(2)),
            (Shape::Triangle, triangle),
        ] {
            let scene = Scene { shape, ..SCENE };
            let found = area(&world.image(&scene, &path, 0.0), &scene);
            assert!(
                (found / expected - 1.0).abs() < 0.01,
                "{shape}: {found} for {expected}"
            );
        }
    }

    #[test]
    fn the_triangles_apex_is_up() {
        let world = World::default();
        let scene = Scene {
            shape: Shape::Triangle,
            ..SCENE
        };
        let path = Path {
            radius: 7.0,
            start: [15.5; 2],
            travel: [0.0; 2],
        };
        let clip = world.image(&scene, &path, 0.0);
        let width_of = |row: usize| {
            clip.rgb[row * 96..][..96]
                .chunks(3)
                .filter(|p| p[0] > 120)
                .count()
        };
        assert!(
            width_of(11) < width_of(15) && width_of(15) < width_of(20),
            "{}",
            width_of(15)
        );
    }

    #[test]
    fn a_sample_depends_on_its_seed_and_index_only() {
        let world = World::default();
        let scenes = Scene::all();
        let one = world.video_sample(&scenes, 4, 9);
        let again = world.video_sample(&scenes, 4, 9);
        assert_eq!(
            (one.scene, one.path, &one.caption),
            (again.scene, again.path, &again.caption)
        );
        assert_eq!(one.clip.rgb, again.clip.rgb);
        for (seed, index) in [(4, 10), (5, 9)] {
            assert_ne!(world.video_sample(&scenes, seed, index).path, one.path);
        }
    }

    #[test]
    fn a_bad_setting_is_named_with_its_value() {
        let world = World {
            width: 33,
            ..World::default()
        };
        let error = world.validate().unwrap_err().to_string();
        assert!(
            error.contains("width = 33") && error.contains("help: "),
            "{error}"
        );
        assert!(
            World {
                frames: 1,
                ..World::default()
            }
            .validate()
            .is_err()
        );
        assert!(
            World {
                freedom: f64::NAN,
                ..World::default()
            }
            .validate()
            .is_err()
        );
        assert!(
            World {
                fps: 0.0,
                ..World::default()
            }
            .validate()
            .is_err()
        );
        World::default().validate().unwrap();
    }

    proptest! {
        #[test]
        fn a_path_stays_inside_and_within_its_freedom(
            index in 0u64..100_000,
            height in 8usize..64,
            width in 8usize..64,
            freedom in prop_oneof![Just(0.0), Just(3.0), Just(99.0)],
        ) {
            let world = World { frames: 16, height: 2 * height, width: 2 * width, fps: 8.0, freedom };
            let scene = Scene::all()[(index % 810) as usize];
            let path = world.place(&scene, Stream::new(1, "test").at(index));
            let scale = world.scale();
            for (axis, side) in [world.width, world.height].into_iter().enumerate() {
                let last = side as f64 - 1.0;
                let margin = 1.1 * path.radius - 1e-9;
                let end = path.start[axis] + path.travel[axis];
                let low = path.start[axis].min(end);
                let high = path.start[axis].max(end);
                prop_assert!(margin <= low && high <= last - margin, "{:?} in {}", path, side);
                let middle = path.start[axis] + path.travel[axis] / 2.0 - last / 2.0;
                prop_assert!(middle.abs() <= freedom * scale + 1e-9);
                prop_assert!(path.travel[axis] * scene.motion.direction()[axis] >= 0.0);
            }
            prop_assert!((path.radius / scale - scene.size.radius()).abs() <= 0.4 + 1e-9);
            let travelled = path.travel[0].hypot(path.travel[1]) / scale;
            prop_assert!(scene.motion == Motion::Still || (11.0..16.6).contains(&travelled), "{}", travelled);
        }
    }
}
