//! Images: PNG, JPEG, and GIF and WebP that do not move. Transparent parts are shown on white.

use std::io::Cursor;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, Limits};

use crate::{Clip, Kind, MediaError, animation};

/// Bytes of decoded pixels: 89 million of RGB. Decoders take up to three times as much for a while.
const MEMORY: u64 = 1 << 28;
/// The longest side of an image that is decoded.
const SIDE: u32 = 32_768;

/// An RGB frame, `[H, W, 3]`, as PNG.
///
/// # Errors
/// If the bytes are not `height * width * 3`, or a side is zero.
pub fn encode_png(rgb: &[u8], height: usize, width: usize) -> Result<Vec<u8>, MediaError> {
    check(rgb, height, width)?;
    let mut out = Vec::new();
    PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive)
        .write_image(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(codec)?;
    Ok(out)
}

/// An RGB frame, `[H, W, 3]`, as JPEG of a quality of 1 to 100.
///
/// # Errors
/// If the bytes are not `height * width * 3`, or a side is zero or more than 65,535.
pub fn encode_jpeg(
    rgb: &[u8],
    height: usize,
    width: usize,
    quality: u8,
) -> Result<Vec<u8>, MediaError> {
    check(rgb, height, width)?;
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100))
        .write_image(rgb, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(codec)?;
    Ok(out)
}

/// The size `[height, width]` that the image has once it is upright.
pub(crate) fn size(bytes: &[u8], kind: Kind) -> Result<[usize; 2], MediaError> {
    let mut decoder = open(bytes, kind)?;
    let turned = decoder.orientation().is_ok_and(turns);
    let (width, height) = decoder.dimensions();
    let size = [height as usize, width as usize];
    Ok(if turned { [size[1], size[0]] } else { size })
}

/// Decodes an image, upright (as its EXIF says), transparent parts on white.
pub(crate) fn decode(bytes: &[u8], kind: Kind) -> Result<Clip, MediaError> {
    let mut decoder = open(bytes, kind)?;
    let orientation = decoder.orientation();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| damaged(kind, e))?;
    if let Ok(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    let [height, width] = [picture.height() as usize, picture.width() as usize];
    let rgb = if picture.color().has_alpha() {
        on_white(&picture.into_rgba8())
    } else {
        picture.into_rgb8().into_raw()
    };
    Ok(Clip {
        frames: 1,
        height,
        width,
        fps: 0.0,
        rgb,
    })
}

fn open(bytes: &[u8], kind: Kind) -> Result<Box<dyn ImageDecoder + '_>, MediaError> {
    let damaged = |e| damaged(kind, e);
    let limits = limits();
    let mut decoder: Box<dyn ImageDecoder> = match kind {
        Kind::Png => {
            Box::new(PngDecoder::with_limits(Cursor::new(bytes), limits.clone()).map_err(damaged)?)
        }
        Kind::Jpeg => Box::new(JpegDecoder::new(Cursor::new(bytes)).map_err(damaged)?),
        _ => animation::open_still(bytes, kind)?,
    };
    decoder.set_limits(limits).map_err(damaged)?;
    limit(&*decoder, kind)?;
    // Deflate shrinks to no less than a 1032nd: a PNG that promises more is not all there, and its
    // pixels need no memory to find that out.
    if kind == Kind::Png && decoder.total_bytes() / 1100 / 8 > bytes.len() as u64 {
        return Err(MediaError::damaged(
            "PNG",
            format!(
                "{} bytes cannot hold {} bytes of pixels",
                bytes.len(),
                decoder.total_bytes()
            ),
        ));
    }
    Ok(decoder)
}

/// What decoders are told to keep to.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE);
    limits.max_image_height = Some(SIDE);
    limits.max_alloc = Some(2 * MEMORY);
    limits
}

/// The `(width, height)` of a picture that may be decoded.
pub(crate) fn limit(decoder: &dyn ImageDecoder, kind: Kind) -> Result<(u32, u32), MediaError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(MediaError::damaged(
            kind.name(),
            format!("a picture of {width}x{height}"),
        ));
    }
    let bytes = decoder.total_bytes();
    if bytes > MEMORY || width.max(height) > SIDE {
        return Err(MediaError::TooLarge {
            frames: 1,
            height: height as usize,
            width: width as usize,
            bytes,
            limit: MEMORY,
        });
    }
    Ok((width, height))
}

fn turns(orientation: image::metadata::Orientation) -> bool {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(
        orientation,
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH
    )
}

pub(crate) fn on_white(picture: &image::RgbaImage) -> Vec<u8> {
    picture
        .pixels()
        .flat_map(|pixel| {
            let [r, g, b, alpha] = pixel.0.map(u32::from);
            [r, g, b].map(|x| ((x * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
        })
        .collect()
}

fn check(rgb: &[u8], height: usize, width: usize) -> Result<(), MediaError> {
    let sides = [height, width]
        .iter()
        .all(|side| (1..=SIDE as usize).contains(side));
    if sides && rgb.len() == height * width * 3 {
        return Ok(());
    }
    Err(MediaError::size(format!(
        "an image of {height}x{width} takes height * width * 3 bytes with sides of 1 to {SIDE}, but {} bytes were given",
        rgb.len()
    )))
}

pub(crate) fn damaged(kind: Kind, error: image::ImageError) -> MediaError {
    MediaError::damaged(kind.name(), error.to_string())
}

fn codec(error: image::ImageError) -> MediaError {
    MediaError::Codec {
        what: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, probe};

    fn picture() -> Vec<u8> {
        (0..20 * 30 * 3).map(|i| (i / 9 % 256) as u8).collect()
    }

    #[test]
    fn png_is_lossless() {
        let bytes = encode_png(&picture(), 20, 30).unwrap();
        let clip = decode(&bytes).unwrap();
        assert_eq!(
            (clip.frames, clip.height, clip.width, clip.fps),
            (1, 20, 30, 0.0)
        );
        assert_eq!(clip.rgb, picture());
        let info = probe(&bytes).unwrap();
        assert_eq!(
            (info.kind, info.frames, info.height, info.width),
            (Kind::Png, 1, 20, 30)
        );
    }

    #[test]
    fn jpeg_is_close() {
        let bytes = encode_jpeg(&picture(), 20, 30, 95).unwrap();
        let clip = decode(&bytes).unwrap();
        let error: u64 = clip
            .rgb
            .iter()
            .zip(picture())
            .map(|(&a, b)| u64::from(a.abs_diff(b)))
            .sum();
        assert!(error / (20 * 30 * 3) <= 4, "mean error {error} / 1800");
        assert_eq!(probe(&bytes).unwrap().kind, Kind::Jpeg);
    }

    #[test]
    fn transparent_parts_are_white() {
        let mut bytes = Vec::new();
        let rgba = [
            [10u8, 20, 30, 0],
            [10, 20, 30, 255],
            [0, 0, 0, 128],
            [255, 0, 0, 255],
        ];
        PngEncoder::new(&mut bytes)
            .write_image(rgba.as_flattened(), 2, 2, ExtendedColorType::Rgba8)
            .unwrap();
        let rgb = decode(&bytes).unwrap().rgb;
        assert_eq!(rgb, [255, 255, 255, 10, 20, 30, 127, 127, 127, 255, 0, 0]);
    }

    #[test]
    fn cut_images_are_errors_and_never_panics() {
        let png = encode_png(&picture(), 20, 30).unwrap();
        let jpeg = encode_jpeg(&picture(), 20, 30, 90).unwrap();
        for bytes in [&png, &jpeg] {
            for length in (0..bytes.len() / 2).step_by(7) {
                assert!(
                    decode(&bytes[..length]).is_err(),
                    "{length} of {}",
                    bytes.len()
                );
            }
            for length in (0..bytes.len()).step_by(3) {
                _ = decode(&bytes[..length]);
                _ = probe(&bytes[..length]);
            }
        }
    }

    #[test]
    fn an_absurd_png_is_refused_before_memory_is_taken() {
        let mut png = encode_png(&picture(), 20, 30).unwrap();
        // The header's sides, and the checksum behind them.
        png[16..24].copy_from_slice(&[0x00, 0x7F, 0, 0, 0x00, 0x7F, 0, 0]);
        assert!(decode(&png).is_err());
    }

    #[test]
    fn a_wrong_number_of_bytes_is_an_error() {
        assert!(encode_png(&picture(), 20, 31).is_err());
        assert!(encode_jpeg(&[], 0, 0, 90).is_err());
    }
}
