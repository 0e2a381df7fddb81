//! A decoded picture on its way to the clip: colour, turning and resizing.

use crate::MediaError;
use crate::clip::Fitter;
use crate::h264_video::Video;
use crate::sink::Sink;
use crate::window::Crop;
use crate::yuv::{Planes, to_rgb, to_rgb_halved};

/// Paints a picture of a video into the places of the frame that a sink waits for.
pub(crate) fn put(
    planes: &Planes<'_>,
    video: &Video,
    sink: &mut Sink<'_>,
    scratch: &mut Vec<u8>,
) -> Result<(), MediaError> {
    if planes.size != video.sequence.size {
        return Err(MediaError::mp4(format!(
            "a picture of {}x{} in a stream of {}x{}",
            planes.size[1], planes.size[0], video.sequence.size[1], video.sequence.size[0]
        )));
    }
    let colour = video.sequence.colour;
    let turns = video.track.turns;
    let convert = if video.doubled { to_rgb_halved } else { to_rgb };
    sink.put(|fitter, window, size, out| {
        let visible = video.visible;
        if video.upright() == size && turns == 0 {
            convert(planes, colour, visible, out);
            return Ok(());
        }
        scratch.resize(visible[0] * visible[1] * 3, 0);
        convert(planes, colour, visible, scratch);
        fit_turned(fitter, scratch, visible, turns, out, size, window.crop);
        Ok(())
    })
}

/// Crops and resizes a frame `[H, W, 3]` that is then turned clockwise by quarters into `out`, an
/// upright one of `to`.
pub(crate) fn fit_turned(
    fitter: &mut Fitter,
    rgb: &[u8],
    from: [usize; 2],
    turns: u8,
    out: &mut [u8],
    to: [usize; 2],
    crop: Crop,
) {
    if turns == 0 {
        fitter.fit(rgb, from, out, to, crop);
        return;
    }
    let lying = if turns % 2 == 1 { [to[1], to[0]] } else { to };
    let mut small = vec![0; out.len()];
    fitter.fit(rgb, from, &mut small, lying, turn_crop(crop, turns));
    turn(&small, lying, turns, out);
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
