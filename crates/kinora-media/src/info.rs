//! What the bytes are, and what their headers and tables say.

use crate::source::Source;
use crate::{MediaError, audio_info};

/// What kind of media some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Video in MP4 or QuickTime: H.264 in 8 bits and 4:2:0, and with the feature `ffmpeg` all else.
    Mp4,
    /// A PNG image.
    Png,
    /// A JPEG image.
    Jpeg,
    /// A GIF image, or an animated one, which is a video.
    Gif,
    /// A WebP image, or an animated one, which is a video.
    WebP,
    /// Any other video that FFmpeg reads (feature `ffmpeg`).
    Other,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "MP4",
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Other => "video",
        }
    }
}

/// What the headers and tables say.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The kind of media.
    pub kind: Kind,
    /// Frames; 1 for an image.
    pub frames: usize,
    /// Height in pixels of the upright picture.
    pub height: usize,
    /// Width in pixels of the upright picture.
    pub width: usize,
    /// Frames per second: the mean, by when the frames are shown, not by what a header claims;
    /// 0 for an image.
    pub fps: f64,
    /// Seconds from when the first frame is shown to the end of the last; 0 for an image.
    pub duration: f64,
    /// The sound track, if there is one.
    pub audio: Option<AudioInfo>,
}

/// A sound track.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioInfo {
    /// The codec's name ("aac", "mp3", ...).
    pub codec: String,
    /// Samples per second, of each channel.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// Seconds.
    pub duration: f64,
}

/// Kind, size, length and rate. Nothing is decoded; of an animated GIF or WebP all bytes are walked
/// over, of the others the headers and tables.
///
/// # Errors
/// If the kind is unknown or unsupported, or the headers are damaged or cut off.
pub fn probe(bytes: &[u8]) -> Result<Info, MediaError> {
    let kind = sniff(bytes)?;
    let source = Source::open(bytes, kind)?;
    let [height, width] = source.size();
    let timeline = source.timeline();
    Ok(Info {
        kind,
        frames: timeline.frames(),
        height,
        width,
        fps: timeline.fps(),
        duration: timeline.duration(),
        // Pictures are worth decoding even where the sound is damaged; `audio_info` says how.
        audio: audio_info(bytes).unwrap_or(None),
    })
}

pub(crate) fn sniff(bytes: &[u8]) -> Result<Kind, MediaError> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Kind::Png);
    }
    if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return Ok(Kind::Jpeg);
    }
    if matches!(
        bytes.get(4..8),
        Some(b"ftyp" | b"moov" | b"mdat" | b"free" | b"wide" | b"skip" | b"styp")
    ) {
        return Ok(Kind::Mp4);
    }
    if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        return Ok(Kind::Gif);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Kind::WebP);
    }
    unknown(bytes)
}

/// What is left to FFmpeg, or refused by name.
fn unknown(bytes: &[u8]) -> Result<Kind, MediaError> {
    let text = matches!(bytes.first(), Some(b'<' | b'{' | b'#'));
    if cfg!(feature = "ffmpeg") && bytes.len() >= 16 && !text {
        return Ok(Kind::Other);
    }
    let known: [(&str, &[u8]); 6] = [
        ("a RIFF file (AVI or WAV)", b"RIFF"),
        ("Matroska or WebM video", b"\x1A\x45\xDF\xA3"),
        ("Flash video", b"FLV"),
        ("MPEG video", b"\0\0\x01"),
        ("an MPEG transport stream", b"G"),
        ("a web page", b"<"),
    ];
    let what = match known.iter().find(|(_, magic)| bytes.starts_with(magic)) {
        Some((name, _)) => (*name).to_owned(),
        None => format!(
            "{} bytes that begin with {:02x?}",
            bytes.len(),
            &bytes[..bytes.len().min(8)]
        ),
    };
    Err(MediaError::Unsupported { what, help: HELP })
}

const HELP: &str = if cfg!(feature = "ffmpeg") {
    "give a video or image file"
} else {
    "give MP4 (H.264), PNG, JPEG, GIF or WebP, or build with --features ffmpeg for all other video"
};
