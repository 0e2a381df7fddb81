//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

/// An error of decoding or encoding.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The bytes are not what their header promises: skip them or fetch them again.
    #[error("damaged {kind}: {what}")]
    Damaged {
        /// The kind of media ("MP4", "PNG", ...).
        kind: &'static str,
        /// What is wrong, with the numbers.
        what: String,
    },
    /// The media is sound, but of a kind that this crate does not read or write.
    #[error("unsupported media: {what}\n  help: {help}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What it can be converted to.
        help: &'static str,
    },
    /// Decoding would take more memory than is allowed.
    #[error(
        "{frames} frames of {height}x{width} take {bytes} bytes of RGB, but at most {limit} are decoded at once\n  help: decode a window of fewer frames, or give the decoder a size to reduce to"
    )]
    TooLarge {
        /// Frames asked for.
        frames: usize,
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Bytes of RGB that this takes.
        bytes: u64,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The window reaches past the end of the clip.
    #[error(
        "a window of {frames} frames from frame {start} does not fit into a clip of {have} frames"
    )]
    Window {
        /// First frame asked for.
        start: usize,
        /// Frames asked for.
        frames: usize,
        /// Frames there are.
        have: usize,
    },
    /// The window goes by time, and reaches past the end of the clip by more than one frame.
    #[error(
        "{frames} frames at {fps} per second from second {start} on reach to second {last}, but the clip ends at {duration}"
    )]
    PastEnd {
        /// Frames asked for.
        frames: usize,
        /// Frames per second asked for.
        fps: f64,
        /// The first instant asked for, in seconds.
        start: f64,
        /// The last instant asked for, in seconds.
        last: f64,
        /// When the clip ends, in seconds.
        duration: f64,
    },
    /// The caller's pixels do not match the size they are said to have, or a size is impossible.
    #[error("{what}")]
    Size {
        /// What was given and what is needed.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The codec library failed for a reason of its own.
    #[error("codec: {what}")]
    Codec {
        /// What the library said.
        what: String,
    },
}

impl MediaError {
    pub(crate) fn damaged(kind: &'static str, what: impl Into<String>) -> Self {
        Self::Damaged {
            kind,
            what: what.into(),
        }
    }

    pub(crate) fn mp4(what: impl Into<String>) -> Self {
        Self::damaged("MP4", what)
    }

    pub(crate) fn size(what: impl Into<String>) -> Self {
        Self::Size { what: what.into() }
    }

    pub(crate) fn codec(source: openh264::Error) -> Self {
        Self::Codec {
            what: source.to_string(),
        }
    }
}
