//! What the headers and tables of a file say, and by that, how its frames are decoded.

use crate::animation::Animation;
use crate::h264_video::Video;
use crate::window::Timeline;
use crate::{Kind, MediaError, still};

/// A file whose headers and tables have been read.
pub(crate) enum Source<'a> {
    /// H.264 in MP4.
    Track(Box<Video>),
    /// Any other video.
    #[cfg(feature = "ffmpeg")]
    Container(Box<crate::ffmpeg::Container<'a>>),
    /// A moving GIF or WebP.
    Animation(Animation),
    /// An image.
    Still {
        bytes: &'a [u8],
        kind: Kind,
        /// Upright `[height, width]`.
        size: [usize; 2],
        timeline: Timeline,
    },
}

impl<'a> Source<'a> {
    pub(crate) fn open(bytes: &'a [u8], kind: Kind) -> Result<Self, MediaError> {
        if let Some(animation) = Animation::open(bytes, kind)? {
            return Ok(Self::Animation(animation));
        }
        match kind {
            Kind::Mp4 => Self::movie(bytes),
            #[cfg(feature = "ffmpeg")]
            Kind::Other => Ok(Self::Container(Box::new(crate::ffmpeg::Container::open(
                bytes,
            )?))),
            _ => Ok(Self::Still {
                bytes,
                kind,
                size: still::size(bytes, kind)?,
                timeline: Timeline::still(),
            }),
        }
    }

    fn movie(bytes: &'a [u8]) -> Result<Self, MediaError> {
        match Video::open(bytes) {
            Ok(video) => Ok(Self::Track(Box::new(video))),
            #[cfg(feature = "ffmpeg")]
            Err(MediaError::Unsupported { .. }) => Ok(Self::Container(Box::new(
                crate::ffmpeg::Container::open(bytes)?,
            ))),
            Err(error) => Err(error),
        }
    }

    /// The upright `[height, width]`.
    pub(crate) fn size(&self) -> [usize; 2] {
        match self {
            Self::Track(video) => video.upright(),
            #[cfg(feature = "ffmpeg")]
            Self::Container(container) => container.size(),
            Self::Animation(animation) => animation.size,
            Self::Still { size, .. } => *size,
        }
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        match self {
            Self::Track(video) => &video.timeline,
            #[cfg(feature = "ffmpeg")]
            Self::Container(container) => &container.timeline,
            Self::Animation(animation) => &animation.timeline,
            Self::Still { timeline, .. } => timeline,
        }
    }
}
