//! Animated GIF and WebP: when each picture is shown, without decoding any, and the pictures one
//! after the other, without keeping more than one.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frames, ImageDecoder};

use crate::sink::Sink;
use crate::still::{damaged, limit, limits, on_white};
use crate::window::Timeline;
use crate::{Kind, MediaError};

/// A moving GIF or WebP.
pub(crate) struct Animation {
    kind: Kind,
    /// `[height, width]`.
    pub(crate) size: [usize; 2],
    pub(crate) timeline: Timeline,
}

impl Animation {
    /// Walks over the file; `None` if it holds one picture only, or is no GIF or WebP.
    ///
    /// # Errors
    /// If the file is damaged or cut off, or a picture would take too much memory.
    pub(crate) fn open(bytes: &[u8], kind: Kind) -> Result<Option<Self>, MediaError> {
        let delays = match kind {
            Kind::Gif => gif_delays(bytes)?,
            Kind::WebP => webp_delays(bytes)?,
            _ => return Ok(None),
        };
        if delays.len() < 2 {
            return Ok(None);
        }
        let mut shown = Vec::with_capacity(delays.len());
        let mut at = 0;
        for &delay in &delays {
            shown.push(at);
            at += i64::from(delay);
        }
        let last = delays.last().map_or(0, |&delay| i64::from(delay));
        let (width, height) = match kind {
            Kind::Gif => limit(&gif(bytes)?, kind)?,
            _ => limit(&webp(bytes)?, kind)?,
        };
        Ok(Some(Self {
            kind,
            size: [height as usize, width as usize],
            timeline: Timeline::new(&shown, last, 1e-3),
        }))
    }

    /// Decodes up to the last frame that a sink waits for.
    pub(crate) fn run(&self, bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), MediaError> {
        let frames: Frames<'_> = match self.kind {
            Kind::Gif => gif(bytes)?.into_frames(),
            _ => webp(bytes)?.into_frames(),
        };
        for (index, frame) in frames.enumerate() {
            let frame = frame.map_err(|error| damaged(self.kind, error))?;
            if sink.next() == Some(index) {
                let rgb = on_white(frame.buffer());
                sink.put(|fitter, window, to, out| {
                    fitter.fit(&rgb, self.size, out, to, window.crop);
                    Ok(())
                })?;
            }
            if sink.next().is_none() {
                return Ok(());
            }
        }
        Err(MediaError::damaged(
            self.kind.name(),
            format!(
                "frame {} of {} does not decode",
                sink.next().unwrap_or(0),
                self.timeline.frames()
            ),
        ))
    }
}

/// Milliseconds that a picture stays. Programs that do not care write 0 or 1 hundredth of a second,
/// and all browsers show these for a tenth.
fn stays(milliseconds: u32) -> u32 {
    if milliseconds <= 10 {
        100
    } else {
        milliseconds
    }
}

fn gif(bytes: &[u8]) -> Result<GifDecoder<Cursor<&[u8]>>, MediaError> {
    let damaged = |error| damaged(Kind::Gif, error);
    let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    limit(&decoder, Kind::Gif)?;
    // A picture may claim to be larger than the canvas that it is shown on.
    decoder.set_limits(limits()).map_err(damaged)?;
    Ok(decoder)
}

fn webp(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, MediaError> {
    WebPDecoder::new(Cursor::new(bytes)).map_err(|error| damaged(Kind::WebP, error))
}

/// How long each picture of a GIF stays, in milliseconds (GIF89a, sections 18 to 27).
fn gif_delays(bytes: &[u8]) -> Result<Vec<u32>, MediaError> {
    let mut at = Walk {
        bytes,
        kind: Kind::Gif,
    };
    let head = at.take(13)?;
    if head[10] & 0x80 != 0 {
        at.take(6 << (head[10] & 7))?;
    }
    let (mut delays, mut delay) = (Vec::new(), 0);
    // Some writers leave the end mark out.
    while !at.bytes.is_empty() {
        match at.take(1)?[0] {
            0x21 => {
                let label = at.take(1)?[0];
                let first = at.blocks()?;
                if label == 0xF9 && first.len() >= 4 {
                    delay = 10 * u32::from(u16::from_le_bytes([first[1], first[2]]));
                }
            }
            0x2C => {
                let flags = at.take(9)?[8];
                if flags & 0x80 != 0 {
                    at.take(6 << (flags & 7))?;
                }
                at.take(1)?;
                at.blocks()?;
                delays.push(stays(delay));
                delay = 0;
            }
            0x3B => break,
            // Padding.
            0 => {}
            other => {
                return Err(MediaError::damaged(
                    "GIF",
                    format!("a block of kind {other:#04x}"),
                ));
            }
        }
    }
    Ok(delays)
}

/// How long each picture of a WebP stays, in milliseconds; empty if it does not move.
fn webp_delays(bytes: &[u8]) -> Result<Vec<u32>, MediaError> {
    let mut at = Walk {
        bytes,
        kind: Kind::WebP,
    };
    at.take(12)?;
    let mut delays = Vec::new();
    while at.bytes.len() >= 8 {
        let name = at.take(4)?;
        let size = u32::from_le_bytes(at.take(4)?.try_into().expect("four bytes")) as usize;
        let body = at.take(size)?;
        if name == b"ANMF" && size >= 16 {
            delays.push(stays(u32::from_le_bytes([body[12], body[13], body[14], 0])));
        }
        // Chunks begin at even places; the last one's filling is sometimes missing.
        at.bytes = at.bytes.get(size % 2..).unwrap_or_default();
    }
    Ok(delays)
}

struct Walk<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MediaError> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or_else(|| {
            MediaError::damaged(
                self.kind.name(),
                format!(
                    "{count} bytes are needed where {} are left",
                    self.bytes.len()
                ),
            )
        })?;
        self.bytes = tail;
        Ok(head)
    }

    /// Walks over a GIF's row of blocks, and gives the first.
    fn blocks(&mut self) -> Result<&'a [u8], MediaError> {
        let mut first = None;
        loop {
            let size = usize::from(self.take(1)?[0]);
            let block = self.take(size)?;
            first = first.or(Some(block));
            if size == 0 {
                return Ok(first.unwrap_or_default());
            }
        }
    }
}

/// The kinds' decoders, for what they have in common.
pub(crate) fn open_still<'a>(
    bytes: &'a [u8],
    kind: Kind,
) -> Result<Box<dyn ImageDecoder + 'a>, MediaError> {
    Ok(match kind {
        Kind::Gif => Box::new(gif(bytes)?),
        _ => Box::new(webp(bytes)?),
    })
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{Delay, Frame, Rgba, RgbaImage};

    use super::*;
    use crate::{Decoder, Window, decode, probe};

    const COLOURS: [[u8; 4]; 4] = [
        [255, 0, 0, 255],
        [0, 255, 0, 255],
        [0, 0, 255, 255],
        [9, 9, 9, 0],
    ];

    /// Red, green, blue and transparent, for 100, 300, 50 and 0 milliseconds.
    pub(crate) fn animated_gif(frames: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        {
            let mut encoder = GifEncoder::new(&mut bytes);
            for (colour, delay) in COLOURS.into_iter().zip([100, 300, 50, 0]).take(frames) {
                let image = RgbaImage::from_pixel(6, 4, Rgba(colour));
                let delay = Delay::from_numer_denom_ms(delay, 1);
                encoder
                    .encode_frame(Frame::from_parts(image, 0, 0, delay))
                    .unwrap();
            }
        }
        bytes
    }

    #[test]
    fn a_gif_is_a_video_of_its_delays() {
        let bytes = animated_gif(4);
        let info = probe(&bytes).unwrap();
        assert_eq!(
            (info.kind, info.frames, info.height, info.width),
            (Kind::Gif, 4, 4, 6)
        );
        // 0.1 + 0.3 + 0.05 seconds, and the last one's 0 is a tenth.
        assert!((info.duration - 0.55).abs() < 1e-9, "{}", info.duration);
        assert!((info.fps - 4.0 / 0.55).abs() < 1e-9, "{}", info.fps);
        let clip = decode(&bytes).unwrap();
        for (t, wanted) in [(0, [255, 0, 0]), (1, [0, 255, 0]), (2, [0, 0, 255])] {
            assert_eq!(clip.frame(t)[..3], wanted);
        }
        // At ten a second: red, green three times, blue.
        let clip = Decoder::new()
            .window(&bytes, Window::time(0.0, 10.0, 5))
            .unwrap();
        let seen: Vec<&[u8]> = (0..5).map(|t| &clip.frame(t)[..3]).collect();
        assert_eq!(
            seen,
            [
                [255, 0, 0],
                [0, 255, 0],
                [0, 255, 0],
                [0, 255, 0],
                [0, 0, 255]
            ]
        );
        assert_eq!(clip.fps, 10.0);
    }

    #[test]
    fn a_gif_of_one_picture_is_an_image() {
        let info = probe(&animated_gif(1)).unwrap();
        assert_eq!((info.frames, info.fps, info.duration), (1, 0.0, 0.0));
        assert_eq!(decode(&animated_gif(1)).unwrap().rgb[..3], [255, 0, 0]);
    }

    #[test]
    fn cut_animations_are_errors_and_never_panics() {
        let bytes = animated_gif(4);
        for length in 0..bytes.len() {
            // Without the end mark alone, all pictures are there.
            if length < bytes.len() - 1 {
                _ = decode(&bytes[..length]);
            }
        }
        assert!(decode(&bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn a_huge_canvas_is_refused() {
        let mut bytes = animated_gif(4);
        bytes[6..10].fill(0xFF);
        assert!(matches!(decode(&bytes), Err(MediaError::TooLarge { .. })));
    }

    #[test]
    fn a_webp_is_read_and_its_transparent_parts_are_white() {
        let mut bytes = Vec::new();
        image::codecs::webp::WebPEncoder::new_lossless(&mut bytes)
            .encode(
                &[200, 100, 50, 255, 1, 2, 3, 0],
                2,
                1,
                image::ExtendedColorType::Rgba8,
            )
            .unwrap();
        let info = probe(&bytes).unwrap();
        assert_eq!((info.kind, info.frames, info.fps), (Kind::WebP, 1, 0.0));
        assert_eq!(decode(&bytes).unwrap().rgb, [200, 100, 50, 255, 255, 255]);
        // The same picture twice, not blended, as an animation: 40 ms, then 80 ms.
        let coded = &bytes[12..];
        let frame = |delay: u8| {
            let mut body = vec![0; 16];
            body[6] = 1;
            (body[12], body[15]) = (delay, 2);
            body.extend(coded);
            [&b"ANMF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
        };
        let head = b"VP8X\x0a\0\0\0\x12\0\0\0\x01\0\0\0\0\0ANIM\x06\0\0\0\xFF\xFF\xFF\xFF\0\0";
        let body = [&b"WEBP"[..], head, &frame(40), &frame(80)].concat();
        let moving = [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat();
        let info = probe(&moving).unwrap();
        assert_eq!((info.frames, info.height, info.width), (2, 1, 2));
        assert!((info.duration - 0.12).abs() < 1e-9);
        let clip = decode(&moving).unwrap();
        assert_eq!(clip.frame(1), [200, 100, 50, 255, 255, 255]);
    }
}
