//! Which frames of a clip are wanted, and when each frame of a clip is shown.

use crate::MediaError;

/// The part of a clip to decode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Number of frames, at least one.
    pub frames: usize,
    /// Which frames.
    pub pick: Pick,
    /// The `[height, width]` to crop and resize to, as [`crate::Clip::fit`] does; `None` keeps the
    /// size.
    pub size: Option<[usize; 2]>,
    /// Where the cut-out of the aspect ratio of `size` lies.
    pub crop: Crop,
}

impl Window {
    /// `frames` consecutive frames from frame `first` on, of the clip's own size.
    pub fn frames(first: usize, frames: usize) -> Self {
        Self {
            frames,
            pick: Pick::Frame(first),
            size: None,
            crop: Crop::default(),
        }
    }

    /// The frames on screen at `start + i / fps` seconds, of the clip's own size.
    pub fn time(start: f64, fps: f64, frames: usize) -> Self {
        Self {
            pick: Pick::Time { start, fps },
            ..Self::frames(0, frames)
        }
    }

    /// The same frames, cropped and resized to `[height, width]`.
    pub fn sized(self, size: [usize; 2]) -> Self {
        Self {
            size: Some(size),
            ..self
        }
    }
}

/// Which frames a window takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pick {
    /// Consecutive frames from this one on, in the order they are shown.
    Frame(usize),
    /// The frame on screen at `start + i / fps`, for `i` in `0..frames`: the last one that is shown
    /// by then, or the first one before that. Frames of a slow source are repeated.
    Time {
        /// Seconds from the first frame.
        start: f64,
        /// Frames per second of what is returned.
        fps: f64,
    },
}

/// Where the cut-out lies in what is left over, for each side from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// 0 is at the top, 0.5 in the middle, 1 at the bottom.
    pub y: f64,
    /// 0 is at the left, 0.5 in the middle, 1 at the right.
    pub x: f64,
}

impl Default for Crop {
    /// The middle.
    fn default() -> Self {
        Self { y: 0.5, x: 0.5 }
    }
}

/// How much earlier than a frame an instant may be and still show it, in seconds: containers round
/// times to milliseconds, so a frame shown at 1/30 s may be written as 0.034.
const HAIR: f64 = 1e-3;

/// When the frames of a clip are shown, in seconds from the first one on.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    /// In the order of showing.
    times: Vec<f64>,
    end: f64,
}

impl Timeline {
    /// From sorted times in units of `unit` seconds, and the last frame's length, where it is known
    /// (above 0). An unknown one is the others' mean.
    pub(crate) fn new(sorted: &[i64], last: i64, unit: f64) -> Self {
        let seconds = |from: i64, to: i64| (to as f64 - from as f64) * unit;
        let first = sorted.first().copied().unwrap_or(0);
        let times: Vec<f64> = sorted.iter().map(|&at| seconds(first, at)).collect();
        let shown = times.last().copied().unwrap_or(0.0);
        let last = match last {
            1.. => last as f64 * unit,
            _ if times.len() > 1 => shown / (times.len() - 1) as f64,
            _ => 0.0,
        };
        Self {
            times,
            end: shown + last,
        }
    }

    /// Of one frame that is shown for ever, and has no length.
    pub(crate) fn still() -> Self {
        Self::new(&[0], 0, 0.0)
    }

    pub(crate) fn frames(&self) -> usize {
        self.times.len()
    }

    /// The seconds at which a frame appears and disappears.
    pub(crate) fn shown(&self, frame: usize) -> [f64; 2] {
        [frame, frame + 1].map(|at| self.times.get(at).copied().unwrap_or(self.end))
    }

    /// Seconds from when the first frame is shown to the end of the last.
    pub(crate) fn duration(&self) -> f64 {
        self.end
    }

    /// The mean rate, or 0 where the times do not say.
    pub(crate) fn fps(&self) -> f64 {
        if self.end > 0.0 {
            self.times.len() as f64 / self.end
        } else {
            0.0
        }
    }

    /// The frame of each place of a window, never falling.
    ///
    /// # Errors
    /// If the window reaches past the end, by more than the length of a frame if it goes by time.
    pub(crate) fn pick(&self, window: &Window) -> Result<Vec<usize>, MediaError> {
        let (frames, have) = (window.frames, self.times.len());
        match window.pick {
            Pick::Frame(start) => {
                let end = start.checked_add(frames).filter(|&end| end <= have);
                match end {
                    Some(end) if frames > 0 => Ok((start..end).collect()),
                    _ => Err(MediaError::Window {
                        start,
                        frames,
                        have,
                    }),
                }
            }
            Pick::Time { start, fps } => {
                if !(start.is_finite() && fps.is_finite() && fps > 0.0 && frames > 0) {
                    return Err(MediaError::size(format!(
                        "a window takes at least one frame, from a second on, at a rate above 0, not {frames} frames from second {start} at {fps} per second"
                    )));
                }
                let at = |index: usize| start + index as f64 / fps;
                let length = self.end / have.max(1) as f64;
                let last = at(frames - 1);
                if have == 0 || last > self.end + length + HAIR {
                    return Err(MediaError::PastEnd {
                        frames,
                        fps,
                        start,
                        last,
                        duration: self.end,
                    });
                }
                Ok((0..frames)
                    .map(|index| {
                        let shown = self.times.partition_point(|&time| time <= at(index) + HAIR);
                        shown.saturating_sub(1)
                    })
                    .collect())
            }
        }
    }

    /// The rate of what a window of this clip returns.
    pub(crate) fn rate(&self, window: &Window) -> f64 {
        match window.pick {
            Pick::Time { fps, .. } if self.end > 0.0 => fps,
            _ => self.fps(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(frames: i64, fps: f64) -> Timeline {
        let times: Vec<i64> = (0..frames).collect();
        Timeline::new(&times, 1, 1.0 / fps)
    }

    #[test]
    fn thirty_frames_a_second_at_sixteen() {
        let clip = even(60, 30.0);
        assert_eq!((clip.fps(), clip.duration()), (30.0, 2.0));
        let picked = clip.pick(&Window::time(0.0, 16.0, 16)).unwrap();
        // floor(i * 30 / 16).
        assert_eq!(
            picked,
            [0, 1, 3, 5, 7, 9, 11, 13, 15, 16, 18, 20, 22, 24, 26, 28]
        );
        let picked = clip.pick(&Window::time(0.5, 16.0, 4)).unwrap();
        assert_eq!(picked, [15, 16, 18, 20]);
    }

    #[test]
    fn a_slow_source_is_repeated() {
        let clip = even(3, 4.0);
        let picked = clip.pick(&Window::time(0.0, 8.0, 6)).unwrap();
        assert_eq!(picked, [0, 0, 1, 1, 2, 2]);
        // Before the first frame there is the first frame.
        let picked = clip.pick(&Window::time(-0.5, 4.0, 4)).unwrap();
        assert_eq!(picked, [0, 0, 0, 1]);
    }

    #[test]
    fn times_that_were_rounded_still_show_their_frame() {
        // Milliseconds of 30 frames a second, rounded up.
        let times: Vec<i64> = (0..30).map(|i| (i * 1000 + 29) / 30).collect();
        let clip = Timeline::new(&times, 33, 1e-3);
        let picked = clip.pick(&Window::time(0.0, 30.0, 30)).unwrap();
        assert_eq!(picked, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn a_varying_rate_goes_by_the_clock() {
        // Four frames in the first second, then one that stays for two.
        let clip = Timeline::new(&[100, 350, 600, 850, 1100], 2000, 1e-3);
        assert_eq!((clip.duration(), clip.fps()), (3.0, 5.0 / 3.0));
        let picked = clip.pick(&Window::time(0.0, 2.0, 6)).unwrap();
        assert_eq!(picked, [0, 2, 4, 4, 4, 4]);
    }

    #[test]
    fn the_end_may_be_passed_by_one_frame_and_no_more() {
        let clip = even(16, 16.0);
        assert_eq!(
            clip.pick(&Window::time(1.0, 16.0, 2)).unwrap(),
            [15, 15],
            "instants at 1 and 1.0625 seconds"
        );
        let error = clip.pick(&Window::time(1.0, 16.0, 3)).unwrap_err();
        assert!(
            matches!(error, MediaError::PastEnd { duration, .. } if duration == 1.0),
            "{error}"
        );
        for window in [
            Window::time(f64::NAN, 16.0, 1),
            Window::time(0.0, 0.0, 1),
            Window::time(0.0, 16.0, 0),
        ] {
            assert!(clip.pick(&window).is_err(), "{window:?}");
        }
    }

    #[test]
    fn an_image_has_one_frame_and_no_length() {
        let image = Timeline::still();
        assert_eq!(
            (image.fps(), image.duration(), image.frames()),
            (0.0, 0.0, 1)
        );
        assert_eq!(image.pick(&Window::time(0.0, 16.0, 1)).unwrap(), [0]);
        assert!(image.pick(&Window::time(0.0, 16.0, 2)).is_err());
        assert!(image.pick(&Window::frames(0, 2)).is_err());
    }
}
