//! Rules that find a scene's attributes in a finished clip. Nothing is learned, so a score cannot
//! drift with the model that it judges.
//!
//! The rules find which object is there and where it goes; they do not judge how good it looks. A
//! blurred or broken object can pass for its direction, and a fragment fills little of its bounding
//! box and so counts as a triangle. Lengths are for a frame of 32 and scale with the shorter side.

use kinora_media::Clip;
use serde::{Deserialize, Serialize};

use crate::scene::{Colour, Motion, Shape, Size};

/// An object must differ from what is behind it by this much, in colour space 0..1.
const MIN_STRENGTH: f64 = 0.15;
/// The share of pixels whose difference says how strongly a frame's object differs.
const STRENGTH_QUANTILE: f64 = 0.985;
/// Pixels this far towards the object's strength belong to it.
const MASK: f64 = 0.6;
/// Less coverage than this is taken for noise.
const MIN_ALPHA: f64 = 0.35;
/// A frame holds an object if its coverage sums to more, in px of a frame of 32.
const MIN_MASS: f64 = 10.0;
/// The share of frames that must hold an object before its motion counts.
const MIN_FRAMES: f64 = 0.9;
/// A shift below this on both axes is no motion, in px of a frame of 32.
const STILL: f64 = 3.0;
/// How far one axis must outdo the other before a motion has a direction.
const DOMINANCE: f64 = 2.0;
/// An object that fills more of its bounding box is a square.
const SQUARE_FILL: f64 = 0.92;
/// Otherwise, one that fills more than this is a circle.
const CIRCLE_FILL: f64 = 0.66;
/// An object of less coverage is small, in px of a frame of 32.
const LARGE_MASS: f64 = 78.0;

/// What a clip shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The clip's number of frames.
    pub frames: usize,
    /// The palette's colour nearest to the clip's border.
    pub background: Colour,
    /// How far the strongest pixels are from the background, in colour space 0..1.
    pub strength: f64,
    /// The object, if anything differs enough from the background.
    pub object: Option<Object>,
}

/// What stands out from the background.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// The palette's nearest colour other than the background's.
    pub foreground: Colour,
    /// The shape, from `fill`.
    pub shape: Shape,
    /// The size, from `mass`.
    pub size: Size,
    /// The motion, from `shift`.
    pub motion: Track,
    /// The median share of the bounding box that the object fills.
    pub fill: f64,
    /// The median of the frames' summed coverage, in px of a frame of 32.
    pub mass: f64,
    /// From the first frames to the last, (x, y) in px of a frame of 32, y downwards.
    pub shift: [f64; 2],
}

/// How an object moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// There is one frame only.
    Image,
    /// Too few frames hold an object.
    Lost,
    /// It moves, but along no axis.
    Diagonal,
    /// It moves along an axis, or stands still.
    Along(Motion),
}

/// Finds the attributes of a clip.
///
/// # Panics
/// If the clip has no pixels, or not as many as its size says.
pub fn check(clip: &Clip) -> Found {
    let pixels = clip.height * clip.width;
    assert!(
        clip.frames * pixels > 0 && clip.rgb.len() == clip.frames * pixels * 3,
        "a clip of {} x {} x {} px cannot have {} bytes",
        clip.frames,
        clip.height,
        clip.width,
        clip.rgb.len()
    );
    let back = median_colour(border(clip));
    let background = Colour::nearest(back, None);
    let differences: Vec<f64> = colours(clip)
        .map(|colour| norm(minus(colour, back)))
        .collect();
    let by_frame = differences
        .chunks(pixels)
        .map(|frame| quantile(frame.to_vec(), STRENGTH_QUANTILE));
    let strength = median(by_frame.collect());
    if strength < MIN_STRENGTH {
        return Found {
            frames: clip.frames,
            background,
            strength,
            object: None,
        };
    }
    let masked = colours(clip)
        .zip(&differences)
        .filter(|&(_, &d)| d > MASK * strength);
    let front = median_colour(masked.map(|(colour, _)| colour));
    let foreground = Colour::nearest(front, Some(background));
    let frames: Vec<Frame> = coverage(clip, back, front)
        .chunks(pixels)
        .map(|alpha| Frame::new(alpha, clip.width))
        .collect();
    let object = Some(measure(
        foreground,
        &frames,
        clip.height.min(clip.width) as f64 / 32.0,
    ));
    Found {
        frames: clip.frames,
        background,
        strength,
        object,
    }
}

/// What one frame holds, in px.
struct Frame {
    mass: f64,
    centre: [f64; 2],
    fill: f64,
}

impl Frame {
    /// From the coverage of each pixel, [H, W].
    fn new(alpha: &[f64], width: usize) -> Self {
        let mut mass = 0.0;
        let mut moment = [0.0; 2];
        let mut area = 0usize;
        let [mut low, mut high] = [[usize::MAX; 2], [0; 2]];
        for (i, &a) in alpha.iter().enumerate() {
            let at = [i % width, i / width];
            mass += a;
            for axis in 0..2 {
                moment[axis] += a * at[axis] as f64;
            }
            if a > 0.5 {
                area += 1;
                for axis in 0..2 {
                    low[axis] = low[axis].min(at[axis]);
                    high[axis] = high[axis].max(at[axis]);
                }
            }
        }
        let boxed = |axis: usize| (high[axis] + 1 - low[axis]) as f64;
        let fill = if area > 0 {
            area as f64 / (boxed(0) * boxed(1))
        } else {
            0.0
        };
        Self {
            mass,
            centre: moment.map(|m| m / mass),
            fill,
        }
    }
}

fn measure(foreground: Colour, frames: &[Frame], scale: f64) -> Object {
    let fill = median(frames.iter().map(|frame| frame.fill).collect());
    let mass = median(frames.iter().map(|frame| frame.mass).collect()) / scale.powi(2);
    let shape = if fill > SQUARE_FILL {
        Shape::Square
    } else if fill > CIRCLE_FILL {
        Shape::Circle
    } else {
        Shape::Triangle
    };
    let size = if mass < LARGE_MASS {
        Size::Small
    } else {
        Size::Large
    };
    let shift = shift(frames).map(|px| px / scale);
    let held = frames
        .iter()
        .filter(|frame| frame.mass > MIN_MASS * scale.powi(2))
        .count();
    let motion = if frames.len() == 1 {
        Track::Image
    } else if held as f64 <= MIN_FRAMES * frames.len() as f64 {
        Track::Lost
    } else {
        track(shift)
    };
    Object {
        foreground,
        shape,
        size,
        motion,
        fill,
        mass,
        shift,
    }
}

/// The mean centre of the last quarter of the frames less that of the first, (x, y) in px.
fn shift(frames: &[Frame]) -> [f64; 2] {
    let quarter = (frames.len() / 4).max(1);
    let mean = |part: &[Frame], axis: usize| {
        let seen: Vec<f64> = part
            .iter()
            .filter(|frame| frame.mass > 0.0)
            .map(|frame| frame.centre[axis])
            .collect();
        // Without any, the object is lost as well, and its shift is not looked at.
        seen.iter().sum::<f64>() / seen.len().max(1) as f64
    };
    [0, 1]
        .map(|axis| mean(&frames[frames.len() - quarter..], axis) - mean(&frames[..quarter], axis))
}

fn track([x, y]: [f64; 2]) -> Track {
    let motion = if x.abs() < STILL && y.abs() < STILL {
        Motion::Still
    } else if x.abs() > DOMINANCE * y.abs() {
        if x < 0.0 { Motion::Left } else { Motion::Right }
    } else if y.abs() > DOMINANCE * x.abs() {
        if y < 0.0 { Motion::Up } else { Motion::Down }
    } else {
        return Track::Diagonal;
    };
    Track::Along(motion)
}

/// How far each pixel's colour is on the way from the background's to the object's, 0..1.
fn coverage(clip: &Clip, back: [f64; 3], front: [f64; 3]) -> Vec<f64> {
    let way = minus(front, back);
    let length = norm(way).powi(2);
    colours(clip)
        .map(|colour| {
            let along: f64 = minus(colour, back)
                .iter()
                .zip(way)
                .map(|(a, b)| a * b)
                .sum();
            let alpha = (along / length).clamp(0.0, 1.0);
            if alpha < MIN_ALPHA { 0.0 } else { alpha }
        })
        .collect()
}

/// Every pixel's colour, 0..1.
fn colours(clip: &Clip) -> impl Iterator<Item = [f64; 3]> {
    clip.rgb
        .chunks_exact(3)
        .map(|p| [p[0], p[1], p[2]].map(|byte| f64::from(byte) / 255.0))
}

/// The colours of all frames' outermost pixels.
fn border(clip: &Clip) -> impl Iterator<Item = [f64; 3]> {
    let (height, width) = (clip.height, clip.width);
    colours(clip).enumerate().filter_map(move |(i, colour)| {
        let (row, column) = (i / width % height, i % width);
        let outermost = row == 0 || row == height - 1 || column == 0 || column == width - 1;
        outermost.then_some(colour)
    })
}

/// The median of each channel.
fn median_colour(colours: impl Iterator<Item = [f64; 3]>) -> [f64; 3] {
    let colours: Vec<[f64; 3]> = colours.collect();
    [0, 1, 2].map(|channel| median(colours.iter().map(|colour| colour[channel]).collect()))
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// A quantile, interpolated between its two neighbours.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (_, &mut low, above) = values.select_nth_unstable_by(at as usize, f64::total_cmp);
    match above.iter().copied().min_by(f64::total_cmp) {
        Some(high) => low + (high - low) * at.fract(),
        None => low,
    }
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|channel| a[channel] - b[channel])
}

fn norm(a: [f64; 3]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Scene;
    use crate::world::{Path, World};

    fn scene(shape: Shape, size: Size, motion: Motion) -> Scene {
        Scene {
            foreground: Colour::Yellow,
            background: Colour::Blue,
            shape,
            size,
            motion,
        }
    }

    fn object(clip: &Clip) -> Object {
        check(clip).object.expect("an object")
    }

    #[test]
    fn a_drawn_scene_is_found_at_every_frame_size_and_length() {
        for (frames, height, width) in [(16, 32, 32), (8, 64, 48), (33, 96, 160), (4, 32, 64)] {
            let world = World {
                frames,
                height,
                width,
                freedom: 99.0,
                ..World::default()
            };
            for index in 0..40 {
                let sample = world.video_sample(&Scene::all(), 11, index);
                let found = check(&sample.clip);
                let object = found.object.unwrap();
                let seen = Scene {
                    foreground: object.foreground,
                    background: found.background,
                    shape: object.shape,
                    size: object.size,
                    motion: sample.scene.motion,
                };
                assert_eq!(
                    seen, sample.scene,
                    "{frames} x {height} x {width}: {object:?}"
                );
                assert_eq!(
                    object.motion,
                    Track::Along(sample.scene.motion),
                    "{object:?}"
                );
            }
        }
    }

    #[test]
    fn the_shift_is_measured_in_px_of_a_frame_of_32() {
        let world = World {
            height: 64,
            width: 64,
            ..World::default()
        };
        let path = Path {
            radius: 8.0,
            start: [20.0, 30.0],
            travel: [24.0, 3.0],
        };
        let clip = world.video(&scene(Shape::Circle, Size::Small, Motion::Right), &path);
        let object = object(&clip);
        // From the mean of frames 0 to 3 to that of 12 to 15 is 12 of 15 steps, and half a px a px.
        assert!(
            (object.shift[0] - 24.0 * 12.0 / 15.0 / 2.0).abs() < 0.05,
            "{object:?}"
        );
        assert!(
            (object.shift[1] - 3.0 * 12.0 / 15.0 / 2.0).abs() < 0.05,
            "{object:?}"
        );
        assert!(
            (object.mass - std::f64::consts::PI * 16.0).abs() < 2.0,
            "{object:?}"
        );
    }

    #[test]
    fn a_motion_along_no_axis_is_diagonal() {
        let path = Path {
            radius: 4.0,
            start: [8.0, 8.0],
            travel: [12.0, 8.0],
        };
        let scene = scene(Shape::Square, Size::Small, Motion::Right);
        assert_eq!(
            object(&World::default().video(&scene, &path)).motion,
            Track::Diagonal
        );
    }

    #[test]
    fn an_object_that_leaves_is_lost() {
        let path = Path {
            radius: 4.0,
            start: [24.0, 16.0],
            travel: [30.0, 0.0],
        };
        let scene = scene(Shape::Square, Size::Small, Motion::Right);
        // It is gone for so many frames that only the others' strength finds it at all.
        let mut clip = World::default().video(&scene, &path);
        clip.rgb.truncate(10 * 32 * 32 * 3);
        clip.frames = 10;
        assert_eq!(object(&clip).motion, Track::Lost);
    }

    #[test]
    fn an_empty_clip_has_a_background_and_no_object() {
        let [r, g, b] = Colour::Green.rgb().map(|x| (x * 255.0) as u8);
        let rgb = [r, g, b].repeat(4 * 32 * 32);
        let found = check(&Clip {
            frames: 4,
            height: 32,
            width: 32,
            fps: 8.0,
            rgb,
        });
        assert_eq!((found.background, found.object), (Colour::Green, None));
        assert!(found.strength < 1e-9);
    }

    #[test]
    fn an_image_has_no_motion() {
        let world = World::default();
        let sample = world.image_sample(&Scene::all(), 2, 0);
        let object = object(&sample.clip);
        assert_eq!(object.motion, Track::Image);
        assert_eq!(object.foreground, sample.scene.foreground);
        assert_eq!(object.shape, sample.scene.shape);
    }

    #[test]
    fn a_fragment_counts_as_a_triangle() {
        // An L of two bars fills little of its bounding box.
        let mut rgb = vec![0u8; 32 * 32 * 3];
        for row in 6..22 {
            for column in 6..22 {
                if row > 18 || column < 9 {
                    rgb[(row * 32 + column) * 3] = 220;
                }
            }
        }
        let clip = Clip {
            frames: 1,
            height: 32,
            width: 32,
            fps: 0.0,
            rgb,
        };
        assert_eq!(object(&clip).shape, Shape::Triangle);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(vec![5.0], 0.985), 5.0);
        assert_eq!(quantile(vec![0.0, 10.0, 20.0], 1.0), 20.0);
        assert_eq!(quantile(vec![0.0, 10.0, 20.0], 0.75), 15.0);
    }
}
