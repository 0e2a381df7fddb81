//! Decoding: what the bytes are, and the frames in them.

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::clip::Fitter;
use crate::h264::{self, Sequence};
use crate::mp4_read::{self, Track};
use crate::yuv::{Colour, Planes, to_rgb, to_rgb_halved};
use crate::{Clip, MediaError, still};

/// What kind of media some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// H.264 video in MP4.
    Mp4,
    /// A PNG image.
    Png,
    /// A JPEG image.
    Jpeg,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "MP4",
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
        }
    }
}

/// What the headers say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Info {
    /// The kind of media.
    pub kind: Kind,
    /// Frames; 1 for an image.
    pub frames: usize,
    /// Height in pixels of the upright picture.
    pub height: usize,
    /// Width in pixels of the upright picture.
    pub width: usize,
    /// Frames per second (the mean, where the rate varies); 0 for an image.
    pub fps: f64,
}

/// The part of a clip to decode.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First frame, in the order they are shown.
    pub start: usize,
    /// Number of frames, at least one.
    pub frames: usize,
    /// The `[height, width]` to crop and resize to, as [`Clip::fit`] does; `None` keeps the size.
    pub size: Option<[usize; 2]>,
}

/// Kind, size, length and rate, from the headers alone.
///
/// # Errors
/// If the kind is unknown or unsupported, or the headers are damaged or cut off.
pub fn probe(bytes: &[u8]) -> Result<Info, MediaError> {
    let kind = sniff(bytes)?;
    if kind == Kind::Mp4 {
        return Ok(Video::open(bytes)?.info());
    }
    let [height, width] = still::size(bytes, kind)?;
    Ok(Info {
        kind,
        frames: 1,
        height,
        width,
        fps: 0.0,
    })
}

/// Decodes all frames of an MP4 (H.264), or a PNG or JPEG image as one frame.
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
    packet: Vec<u8>,
    frame: Vec<u8>,
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
            packet: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// As [`decode`].
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Clip, MediaError> {
        let info = probe(bytes)?;
        self.window(
            bytes,
            Window {
                start: 0,
                frames: info.frames,
                size: None,
            },
        )
    }

    /// Decodes some frames of a clip, resized as they come, so that a long or large one takes no
    /// more memory than what is returned.
    ///
    /// # Errors
    /// As [`decode`], and if the window reaches past the end.
    pub fn window(&mut self, bytes: &[u8], window: Window) -> Result<Clip, MediaError> {
        let kind = sniff(bytes)?;
        if kind == Kind::Mp4 {
            return self.video(bytes, window);
        }
        check_window(window, 1)?;
        let clip = still::decode(bytes, kind)?;
        Ok(match window.size {
            Some([height, width]) => {
                check_memory(window, [height, width])?;
                clip.fit(height, width)
            }
            None => clip,
        })
    }

    fn video(&mut self, bytes: &[u8], window: Window) -> Result<Clip, MediaError> {
        let video = Video::open(bytes)?;
        check_window(window, video.track.frames.len())?;
        let [height, width] = window.size.unwrap_or(video.upright());
        check_memory(window, [height, width])?;
        let start = video.entry(window.start);
        let mut done = self.run(bytes, &video, window, start);
        if done.is_err() && start > 0 {
            // Some writers mark frames as starting points that are none.
            done = self.run(bytes, &video, window, 0);
        }
        Ok(Clip {
            frames: window.frames,
            height,
            width,
            fps: video.track.fps(),
            rgb: done?,
        })
    }

    /// Decodes from frame `start` of the stream, which is also the `start`th to be shown.
    fn run(
        &mut self,
        bytes: &[u8],
        video: &Video,
        window: Window,
        start: usize,
    ) -> Result<Vec<u8>, MediaError> {
        let size = window.size.unwrap_or(video.upright());
        let mut sink = Sink {
            video,
            size,
            skip: window.start - start,
            left: window.frames,
            out: Vec::with_capacity(window.frames * size[0] * size[1] * 3),
            fitter: &mut self.fitter,
            frame: &mut self.frame,
        };
        // A codec of its own for each stream: after streams with B-frames, even those that ended
        // well, OpenH264 keeps pictures and fails in the middle of a later one.
        let mut codec = open_codec()?;
        let frames = &video.track.frames[start..];
        for (index, frame) in frames.iter().enumerate() {
            let coded = &bytes[frame.offset as usize..][..frame.size as usize];
            let parameters = if index == 0 {
                &video.track.parameters[..]
            } else {
                &[]
            };
            annex_b(
                &mut self.packet,
                parameters,
                coded,
                video.track.length_bytes,
            )?;
            let picture = codec.decode(&self.packet).map_err(|error| {
                MediaError::mp4(format!("frame {} does not decode: {error}", start + index))
            })?;
            if let Some(picture) = picture {
                sink.take(&picture)?;
            }
            if sink.left == 0 && index + 1 < frames.len() {
                return Ok(sink.out);
            }
        }
        let held = codec
            .flush_remaining()
            .map_err(|error| MediaError::mp4(format!("the last frames do not decode: {error}")))?;
        for picture in &held {
            sink.take(picture)?;
        }
        if sink.left > 0 {
            return Err(MediaError::mp4(format!(
                "{} of {} frames came out of the decoder",
                video.track.frames.len() - sink.left,
                video.track.frames.len()
            )));
        }
        let out = sink.out;
        drop(held);
        Ok(out)
    }
}

// The encoder's name in files of this crate, which promises that the picture is the top left part of
// what is coded, of the size that is shown, or of twice that size.
pub(crate) const SINGLE: &[u8] = b"Kinora";
pub(crate) const DOUBLED: &[u8] = b"Kinora 2x";

/// Bytes of RGB that are returned at once.
const MEMORY: u64 = 4 << 30;

fn sniff(bytes: &[u8]) -> Result<Kind, MediaError> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Kind::Png);
    }
    if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return Ok(Kind::Jpeg);
    }
    if matches!(bytes.get(4..8), Some(b"ftyp" | b"moov" | b"mdat" | b"free")) {
        return Ok(Kind::Mp4);
    }
    let known: [(&str, &[u8]); 5] = [
        ("a GIF image", b"GIF8"),
        ("a RIFF file (WebP or AVI)", b"RIFF"),
        ("Matroska or WebM video", b"\x1A\x45\xDF\xA3"),
        ("Flash video", b"FLV"),
        ("a text file or web page", b"<"),
    ];
    let what = match known.iter().find(|(_, magic)| bytes.starts_with(magic)) {
        Some((name, _)) => (*name).to_owned(),
        None => format!(
            "{} bytes that begin with {:02x?}",
            bytes.len(),
            &bytes[..bytes.len().min(8)]
        ),
    };
    Err(MediaError::Unsupported {
        what,
        help: "give MP4 (H.264), PNG or JPEG",
    })
}

fn check_window(window: Window, have: usize) -> Result<(), MediaError> {
    let Window { start, frames, .. } = window;
    if frames == 0 || start.checked_add(frames).is_none_or(|end| end > have) {
        return Err(MediaError::Window {
            start,
            frames,
            have,
        });
    }
    Ok(())
}

fn check_memory(window: Window, [height, width]: [usize; 2]) -> Result<(), MediaError> {
    if height == 0 || width == 0 {
        return Err(MediaError::size(format!(
            "cannot resize to {height}x{width}"
        )));
    }
    let bytes = (window.frames as u64)
        .saturating_mul(height as u64)
        .saturating_mul(width as u64)
        .saturating_mul(3);
    if bytes > MEMORY {
        let frames = window.frames;
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

fn open_codec() -> Result<openh264::decoder::Decoder, MediaError> {
    // Flushing after each packet would show frames before those that B-frames put in front.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    openh264::decoder::Decoder::with_api_config(OpenH264API::from_source(), config)
        .map_err(MediaError::codec)
}

/// A video's tables and parameters.
struct Video {
    track: Track,
    sequence: Sequence,
    /// The `[height, width]` of the picture before it is turned upright.
    visible: [usize; 2],
    doubled: bool,
}

impl Video {
    fn open(bytes: &[u8]) -> Result<Self, MediaError> {
        let track = mp4_read::read(bytes)?;
        let first = track.frames[0];
        let first = &bytes[first.offset as usize..][..first.size as usize];
        let sequence = track
            .parameters
            .iter()
            .map(Vec::as_slice)
            .chain(nal_units(first, track.length_bytes).filter_map(Result::ok))
            .find(|nal| h264::nal_type(nal) == 7)
            .ok_or_else(|| MediaError::mp4("no sequence parameter set"))?;
        let sequence = h264::sequence(sequence)?;
        let coded = sequence.size;
        let fits = |factor: usize| {
            let [height, width] = track.shown;
            height.min(width) > 0 && factor * height <= coded[0] && factor * width <= coded[1]
        };
        let doubled = track.encoder == DOUBLED && fits(2);
        let cut = track.encoder == SINGLE && fits(1);
        let visible = if doubled || cut { track.shown } else { coded };
        Ok(Self {
            track,
            sequence,
            visible,
            doubled,
        })
    }

    fn info(&self) -> Info {
        let [height, width] = self.upright();
        let frames = self.track.frames.len();
        Info {
            kind: Kind::Mp4,
            frames,
            height,
            width,
            fps: self.track.fps(),
        }
    }

    fn upright(&self) -> [usize; 2] {
        let [height, width] = self.visible;
        if self.track.turns % 2 == 1 {
            [width, height]
        } else {
            [height, width]
        }
    }

    /// The last frame from which decoding can start to show frame `shown`: all frames decoded
    /// before it are shown before it, and all others after, so that both orders agree on its number.
    fn entry(&self, shown: usize) -> usize {
        let frames = &self.track.frames;
        let mut later = i64::MAX;
        let mut after = vec![i64::MAX; frames.len()];
        for (index, frame) in frames.iter().enumerate().rev() {
            after[index] = later;
            later = later.min(frame.shown_at);
        }
        let (mut before, mut entry) = (i64::MIN, 0);
        for (index, frame) in frames.iter().enumerate().take(shown + 1) {
            if frame.sync && before < frame.shown_at && frame.shown_at < after[index] {
                entry = index;
            }
            before = before.max(frame.shown_at);
        }
        entry
    }
}

/// Where decoded pictures go.
struct Sink<'a> {
    video: &'a Video,
    size: [usize; 2],
    skip: usize,
    left: usize,
    out: Vec<u8>,
    fitter: &'a mut Fitter,
    frame: &'a mut Vec<u8>,
}

impl Sink<'_> {
    fn take(&mut self, picture: &DecodedYUV<'_>) -> Result<(), MediaError> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        if self.left == 0 {
            return Ok(());
        }
        let (width, height) = picture.dimensions();
        let coded = [height, width];
        if coded != self.video.sequence.size {
            return Err(MediaError::mp4(format!(
                "a picture of {width}x{height} in a stream of {}x{}",
                self.video.sequence.size[1], self.video.sequence.size[0]
            )));
        }
        let (luma, chroma, _) = picture.strides();
        let planes = Planes {
            y: picture.y(),
            u: picture.u(),
            v: picture.v(),
            strides: [luma, chroma],
            size: coded,
        };
        let colour: Colour = self.video.sequence.colour;
        let visible = self.video.visible;
        let convert = if self.video.doubled {
            to_rgb_halved
        } else {
            to_rgb
        };
        let start = self.out.len();
        self.out.resize(start + self.size[0] * self.size[1] * 3, 0);
        let out = &mut self.out[start..];
        let upright = self.video.upright();
        if upright == self.size && self.video.track.turns == 0 {
            convert(&planes, colour, visible, out);
        } else {
            self.frame.resize(visible[0] * visible[1] * 3, 0);
            convert(&planes, colour, visible, self.frame);
            if self.video.track.turns > 0 {
                *self.frame = turn(self.frame, visible, self.video.track.turns);
            }
            self.fitter.fit(self.frame, upright, out, self.size);
        }
        self.left -= 1;
        Ok(())
    }
}

/// A frame `[H, W, 3]` turned clockwise by quarters.
fn turn(rgb: &[u8], [height, width]: [usize; 2], quarters: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len());
    let [rows, columns] = if quarters % 2 == 1 {
        [width, height]
    } else {
        [height, width]
    };
    for y in 0..rows {
        for x in 0..columns {
            let [y, x] = match quarters {
                1 => [height - 1 - x, y],
                2 => [height - 1 - y, width - 1 - x],
                _ => [x, width - 1 - y],
            };
            out.extend(&rgb[(y * width + x) * 3..][..3]);
        }
    }
    out
}

/// Turns a frame of an MP4 into what the codec takes: start codes instead of lengths.
fn annex_b(
    packet: &mut Vec<u8>,
    parameters: &[Vec<u8>],
    coded: &[u8],
    length_bytes: usize,
) -> Result<(), MediaError> {
    packet.clear();
    let units = nal_units(coded, length_bytes);
    for nal in parameters.iter().map(|nal| Ok(nal.as_slice())).chain(units) {
        packet.extend([0, 0, 0, 1]);
        packet.extend(nal?);
    }
    Ok(())
}

/// The NAL units of a frame, each behind its length.
fn nal_units(coded: &[u8], length_bytes: usize) -> impl Iterator<Item = Result<&[u8], MediaError>> {
    let mut rest = coded;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = rest
            .split_at_checked(length_bytes)
            .and_then(|(length, tail)| {
                let length = length
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
                tail.split_at_checked(length)
            });
        let Some((nal, tail)) = split else {
            rest = &[];
            return Some(Err(MediaError::mp4("a frame ends inside a NAL unit")));
        };
        rest = tail;
        Some(Ok(nal))
    })
}
