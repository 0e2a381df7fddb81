//! A decoded picture on its way to the clip: colour, turning and resizing.

use crate::MediaError;
use crate::sink::Sink;
use crate::window::Crop;
use crate::yuv::{Colour, Planes, to_rgb, to_rgb_halved};

/// How a decoded picture is to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) colour: Colour,
    /// The top left `[height, width]` of it that is shown.
    pub(crate) visible: [usize; 2],
    /// Clockwise quarter turns that make it upright.
    pub(crate) turns: u8,
    /// Whether each pixel is coded as a block of 2x2.
    pub(crate) doubled: bool,
}

/// Paints a picture into the places of the frame that a sink waits for.
pub(crate) fn put(planes: &Planes<'_>, look: Look, sink: &mut Sink<'_>) -> Result<(), MediaError> {
    let Look {
        colour,
        visible,
        turns,
        doubled,
    } = look;
    sink.put(|fitter, window, to, out| {
        let lying = if turns % 2 == 1 { [to[1], to[0]] } else { to };
        let crop = turn_crop(window.crop, turns);
        let mut draw = |out: &mut [u8]| {
            if doubled {
                let mut rgb = vec![0; visible[0] * visible[1] * 3];
                to_rgb_halved(planes, colour, visible, &mut rgb);
                fitter.fit(&rgb, visible, out, lying, crop);
            } else if lying == visible {
                to_rgb(planes, colour, visible, out);
            } else {
                fitter.planes.fit(planes, colour, visible, out, lying, crop);
            }
        };
        if turns == 0 {
            draw(out);
        } else {
            let mut small = vec![0; out.len()];
            draw(&mut small);
            turn(&small, lying, turns, out);
        }
        Ok(())
    })
}

/// Paints a picture that is RGB already, `[H, W, 3]` of `size`, into the places of the frame that a
/// sink waits for.
#[cfg(feature = "ffmpeg")]
pub(crate) fn put_rgb(
    rgb: &[u8],
    size: [usize; 2],
    turns: u8,
    sink: &mut Sink<'_>,
) -> Result<(), MediaError> {
    sink.put(|fitter, window, to, out| {
        if turns == 0 {
            fitter.fit(rgb, size, out, to, window.crop);
        } else {
            let lying = if turns % 2 == 1 { [to[1], to[0]] } else { to };
            let mut small = vec![0; out.len()];
            fitter.fit(rgb, size, &mut small, lying, turn_crop(window.crop, turns));
            turn(&small, lying, turns, out);
        }
        Ok(())
    })
}

/// The place in the picture as it is coded that turns into a place in the upright one.
fn turn_crop(crop: Crop, quarters: u8) -> Crop {
    match quarters {
        1 => Crop {
            y: 1.0 - crop.x,
            x: crop.y,
        },
        2 => Crop {
            y: 1.0 - crop.y,
            x: 1.0 - crop.x,
        },
        3 => Crop {
            y: crop.x,
            x: 1.0 - crop.y,
        },
        _ => crop,
    }
}

/// A frame `[H, W, 3]` turned clockwise by quarters.
fn turn(rgb: &[u8], [height, width]: [usize; 2], quarters: u8, out: &mut [u8]) {
    let columns = if quarters % 2 == 1 { height } else { width };
    for (at, pixel) in out.chunks_exact_mut(3).enumerate() {
        let [y, x] = [at / columns, at % columns];
        let [y, x] = match quarters {
            1 => [height - 1 - x, y],
            2 => [height - 1 - y, width - 1 - x],
            _ => [x, width - 1 - y],
        };
        pixel.copy_from_slice(&rgb[(y * width + x) * 3..][..3]);
    }
}
