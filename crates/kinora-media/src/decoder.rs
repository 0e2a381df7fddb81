//! Decoding: from the bytes of a file to the frames of a window.

use crate::animation::Animation;
use crate::clip::Fitter;
use crate::h264_openh264;
use crate::h264_video::Video;
use crate::info::sniff;
use crate::picture::fit_turned;
use crate::sink::Sink;
use crate::still;
use crate::window::{Timeline, Window};
use crate::{Clip, Kind, MediaError, probe};

/// Decodes all frames of a video, or an image as one frame.
///
/// # Errors
/// If the kind is unknown or unsupported, the bytes are damaged or cut off, or the frames take more
/// than 4 GiB.
pub fn decode(bytes: &[u8]) -> Result<Clip, MediaError> {
    Decoder::new().decode(bytes)
}

/// Decodes clips, and keeps its scratch memory between them.
pub struct Decoder {
    fitter: Fitter,
    openh264: h264_openh264::Scratch,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Self {
        Self {
            fitter: Fitter::new(),
            openh264: h264_openh264::Scratch::default(),
        }
    }

    /// As [`decode`].
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Clip, MediaError> {
        let info = probe(bytes)?;
        self.window(bytes, Window::frames(0, info.frames))
    }

    /// Decodes some frames of a clip, resized as they come, so that a long or large one takes no
    /// more memory than what is returned. Of a video, decoding begins at the sync frame before the
    /// first wanted frame and ends at the last.
    ///
    /// # Errors
    /// As [`decode`], and if the window reaches past the end.
    pub fn window(&mut self, bytes: &[u8], window: Window) -> Result<Clip, MediaError> {
        let source = Source::open(bytes, sniff(bytes)?)?;
        let wanted = source.timeline().pick(&window)?;
        let fps = source.timeline().rate(&window);
        match &source {
            Source::Track(video) => {
                let start = video.entry(wanted[0]);
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                let scratch = &mut self.openh264;
                let done = h264_openh264::run(bytes, video, start, &mut sink, &wanted, scratch);
                if start > 0 && done.is_err() {
                    // Some writers mark frames as starting points that are none.
                    sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                    h264_openh264::run(bytes, video, 0, &mut sink, &wanted, scratch)?;
                } else {
                    done?;
                }
                Ok(sink.finish(fps))
            }
            Source::Animation(animation) => {
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                animation.run(bytes, &mut sink)?;
                Ok(sink.finish(fps))
            }
            Source::Still { kind, .. } => {
                let mut sink = Sink::new(&wanted, &window, source.size(), &mut self.fitter)?;
                let clip = still::decode(bytes, *kind)?;
                let from = [clip.height, clip.width];
                sink.put(|fitter, window, to, out| {
                    fit_turned(fitter, &clip.rgb, from, 0, out, to, window.crop);
                    Ok(())
                })?;
                Ok(sink.finish(fps))
            }
        }
    }
}

/// What the headers and tables of a file say, and how its frames are decoded.
pub(crate) enum Source {
    /// H.264 in MP4.
    Track(Box<Video>),
    /// A moving GIF or WebP.
    Animation(Animation),
    /// An image.
    Still {
        kind: Kind,
        /// Upright `[height, width]`.
        size: [usize; 2],
        timeline: Timeline,
    },
}

impl Source {
    pub(crate) fn open(bytes: &[u8], kind: Kind) -> Result<Self, MediaError> {
        if let Some(animation) = Animation::open(bytes, kind)? {
            return Ok(Self::Animation(animation));
        }
        Ok(match kind {
            Kind::Mp4 => Self::Track(Box::new(Video::open(bytes)?)),
            _ => Self::Still {
                kind,
                size: still::size(bytes, kind)?,
                timeline: Timeline::still(),
            },
        })
    }

    /// The upright `[height, width]`.
    pub(crate) fn size(&self) -> [usize; 2] {
        match self {
            Self::Track(video) => video.upright(),
            Self::Animation(animation) => animation.size,
            Self::Still { size, .. } => *size,
        }
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        match self {
            Self::Track(video) => &video.timeline,
            Self::Animation(animation) => &animation.timeline,
            Self::Still { timeline, .. } => timeline,
        }
    }
}

// The encoder's name in files of this crate, which promises that the picture is the top left part of
// what is coded, of the size that is shown, or of twice that size.
pub(crate) const SINGLE: &[u8] = b"Kinora";
pub(crate) const DOUBLED: &[u8] = b"Kinora 2x";

/// Bytes of RGB that are returned at once.
const MEMORY: u64 = 4 << 30;

pub(crate) fn check_memory(frames: usize, [height, width]: [usize; 2]) -> Result<(), MediaError> {
    if height == 0 || width == 0 {
        return Err(MediaError::size(format!(
            "cannot resize to {height}x{width}"
        )));
    }
    let bytes = (frames as u64)
        .saturating_mul(height as u64)
        .saturating_mul(width as u64)
        .saturating_mul(3);
    if bytes > MEMORY {
        return Err(MediaError::TooLarge {
            frames,
            height,
            width,
            bytes,
            limit: MEMORY,
        });
    }
    Ok(())
}
