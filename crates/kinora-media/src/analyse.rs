//! What happens in a clip: its scenes, and of each how much moves and what it looks like.

use crate::clip::Fitter;
use crate::info::sniff;
use crate::look::Look;
use crate::scenes::Scenes;
use crate::sink::Sink;
use crate::source::Source;
use crate::window::Window;
use crate::{MediaError, still};

/// How a clip is looked at. The defaults suit film and video of any rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Analysis {
    /// The rate at which motion is measured, in frames per second: between the pictures on screen at
    /// these instants, so that it does not depend on the clip's own rate. 8 by default.
    pub fps: f64,
    /// How much of the picture must change from one frame to the next, beyond what moved, for a cut:
    /// a mean over the picture, 0 to 1. 0.04 by default.
    pub threshold: f64,
    /// How many times as much it must change as in the frames around, for a cut. 3 by default.
    pub ratio: f64,
    /// Seconds for which no cut follows another. 0.5 by default. Only the last scene can be shorter.
    pub shortest: f64,
    /// The short side of the pictures that are compared, in pixels. 64 by default.
    pub side: usize,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            fps: 8.0,
            threshold: 0.04,
            ratio: 3.0,
            shortest: 0.5,
            side: 64,
        }
    }
}

/// What was found in a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Footage {
    /// The scenes, in their order; the end of each is the start of the next.
    pub scenes: Vec<Scene>,
}

/// A stretch without a cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scene {
    /// Seconds from when the first frame of the clip is shown to the scene's first frame.
    pub start: f64,
    /// Seconds to its end.
    pub end: f64,
    /// Frames in it.
    pub frames: usize,
    /// The mean absolute change of luma between the instants of [`Analysis::fps`], 0 to 1; 0 if
    /// fewer than two of them lie in the scene. A clip at a rate below that counts as it is shown:
    /// frames that stay do not change.
    pub motion: f64,
    /// Of the middle frame: whether each of 8x8 places is darker than the place to its right
    /// (dHash), first row first, highest bit first. Pictures with hashes that differ in at most
    /// [`Scene::NEAR`] bits are near duplicates.
    pub hash: u64,
    /// Mean luma, 0 to 1.
    pub brightness: f64,
    /// Standard deviation of luma over the picture, 0 to 1, the mean of all frames.
    pub contrast: f64,
}

impl Scene {
    /// The bits up to which the hashes of one picture differ after resizing and coding it anew.
    pub const NEAR: u32 = 8;
}

/// Finds the scenes of a clip, in one pass over all its frames at low resolution. An image is a scene
/// of one frame. Takes the memory of a few small pictures, and some bytes for each frame.
///
/// A cut is where a frame is unlike the one before it even where blocks of the picture are moved to
/// fit, and much more so than the frames around; one that goes back to what was there within a fifth
/// of a second is a flash. A fade through black is a cut where the black ends; black of at least
/// [`Analysis::shortest`] is a scene of its own. Dissolves from one picture to another, and fades
/// through white, are not found.
///
/// # Errors
/// As [`crate::decode`], and if a setting is out of its range.
pub fn analyse(bytes: &[u8], analysis: &Analysis) -> Result<Footage, MediaError> {
    analysis.check()?;
    let source = Source::open(bytes, sniff(bytes)?)?;
    let timeline = source.timeline();
    let size = reduced(source.size(), analysis.side);
    let window = Window::frames(0, timeline.frames()).sized(size);
    let wanted: Vec<usize> = (0..timeline.frames()).collect();
    let mut scenes = Scenes::new(*analysis, timeline.fps());
    let mut deliver = |frame: usize, rgb: &[u8]| {
        scenes.push(Look::new(rgb, size), timeline.shown(frame));
    };
    let mut fitter = Fitter::new();
    let mut sink = Sink::handing_on(&wanted, &window, source.size(), &mut fitter, &mut deliver)?;
    match &source {
        #[cfg(feature = "ffmpeg")]
        Source::Track(video) => {
            let packet = &mut Vec::new();
            crate::ffmpeg::run(bytes, video, 0, &mut sink, &wanted, packet, THREADS)?;
        }
        #[cfg(not(feature = "ffmpeg"))]
        Source::Track(video) => {
            let packet = &mut Vec::new();
            crate::h264_openh264::run(bytes, video, 0, &mut sink, &wanted, packet)?;
        }
        #[cfg(feature = "ffmpeg")]
        Source::Container(container) => container.run(&mut sink, THREADS)?,
        Source::Animation(animation) => animation.run(bytes, &mut sink)?,
        Source::Still { bytes, kind, .. } => {
            let clip = still::decode(bytes, *kind)?;
            sink.put(|fitter, window, to, out| {
                fitter.fit(&clip.rgb, [clip.height, clip.width], out, to, window.crop);
                Ok(())
            })?;
        }
    }
    drop(sink);
    Ok(Footage {
        scenes: scenes.finish(timeline.duration()),
    })
}

// Several clips are looked at side by side, rather than one by several threads.
#[cfg(feature = "ffmpeg")]
const THREADS: usize = 1;

impl Analysis {
    fn check(&self) -> Result<(), MediaError> {
        let ranges = [
            ("fps", self.fps, 0.1, 1000.0),
            ("threshold", self.threshold, 0.0, 1.0),
            ("ratio", self.ratio, 1.0, 1000.0),
            ("shortest", self.shortest, 0.0, 1e6),
            ("side", self.side as f64, 16.0, 512.0),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(MediaError::size(format!(
                    "analysis.{name} is {value}, but lies from {least} to {most}"
                )));
            }
        }
        Ok(())
    }
}

/// The `[height, width]` that pictures are compared at: their own, if they are small.
fn reduced(size: [usize; 2], side: usize) -> [usize; 2] {
    let short = size[0].min(size[1]).max(1);
    if short <= side {
        return size;
    }
    // A strip of any length stays a strip of a bounded one.
    size.map(|length| (length * side / short).clamp(1, 16 * side))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_side_is_reduced() {
        assert_eq!(reduced([720, 1280], 64), [64, 113]);
        assert_eq!(reduced([1280, 720], 64), [113, 64]);
        assert_eq!(reduced([48, 4096], 64), [48, 4096]);
        assert_eq!(reduced([100, 30_000], 64), [64, 1024]);
    }
}
