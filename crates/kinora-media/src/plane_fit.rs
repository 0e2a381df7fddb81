//! Resizing a picture while it is still planes of luma and chroma. Half as many bytes go through the
//! filter as in RGB, and only the pixels that are kept are converted.

use crate::clip::cut_out;
use crate::resample::{Plane, Resampler};
use crate::window::Crop;
use crate::yuv::{Colour, Planes, to_rgb_dense};

/// Crops and resizes planes, and keeps its scratch memory between them.
#[derive(Default)]
pub(crate) struct PlaneFitter {
    resampler: Resampler,
    fitted: [Vec<u8>; 3],
}

impl PlaneFitter {
    /// The top left `visible` of a picture, cropped at `place` and resized into `out`, `[H, W, 3]`
    /// of size `to`.
    pub(crate) fn fit(
        &mut self,
        planes: &Planes<'_>,
        colour: Colour,
        visible: [usize; 2],
        out: &mut [u8],
        to: [usize; 2],
        place: Crop,
    ) {
        let [top, left, height, width] = cut_out(visible, to, place);
        // Chroma samples lie level with even columns, a quarter of their distance left of the middle
        // of the two pixels they belong to.
        let chroma = [top / 2.0, left / 2.0 + 0.25, height / 2.0, width / 2.0];
        let half = visible.map(|side| side.div_ceil(2));
        let sources = [
            (
                planes.y,
                planes.strides[0],
                visible,
                [top, left, height, width],
            ),
            (planes.u, planes.strides[1], half, chroma),
            (planes.v, planes.strides[1], half, chroma),
        ];
        for (fitted, (bytes, stride, size, cut)) in self.fitted.iter_mut().zip(sources) {
            fitted.resize(to[0] * to[1], 0);
            let plane = Plane {
                bytes,
                stride,
                size,
            };
            self.resampler.run(plane, cut, fitted, to);
        }
        let [y, u, v] = &self.fitted;
        to_rgb_dense([y, u, v], colour, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::Fitter;
    use crate::yuv::{Picture, to_rgb};

    fn planes(picture: &Picture, size: [usize; 2]) -> Planes<'_> {
        let [y, u, v] = picture.planes();
        Planes {
            y,
            u,
            v,
            strides: [size[1], size[1] / 2],
            size,
        }
    }

    #[test]
    fn it_is_what_resizing_in_rgb_gives() {
        let [height, width] = [96usize, 160];
        let rgb: Vec<u8> = (0..height * width)
            .flat_map(|i| {
                let [y, x] = [(i / width) as f64, (i % width) as f64];
                let wave = |a: f64, b: f64| (128.0 + 60.0 * (a * x + b * y).sin()) as u8;
                [wave(0.11, 0.05), wave(-0.07, 0.13), wave(0.03, -0.09)]
            })
            .collect();
        let mut picture = Picture::new([height, width]);
        picture.fill(&rgb, [height, width]);
        let mut whole = vec![0; rgb.len()];
        to_rgb(
            &planes(&picture, [height, width]),
            Colour::BT709,
            [height, width],
            &mut whole,
        );
        let places = [0.0, 0.5, 1.0, 0.37].map(|at| Crop { y: at, x: at });
        for to in [[48, 80], [32, 32], [40, 13], [13, 40], [130, 130], [96, 96]] {
            for place in places {
                for visible in [[96, 160], [95, 159], [90, 120]] {
                    let cut: Vec<u8> = (0..visible[0])
                        .flat_map(|y| whole[y * width * 3..][..visible[1] * 3].to_vec())
                        .collect();
                    let mut wanted = vec![0; to[0] * to[1] * 3];
                    Fitter::new().fit(&cut, visible, &mut wanted, to, place);
                    let mut found = vec![0; wanted.len()];
                    PlaneFitter::default().fit(
                        &planes(&picture, [height, width]),
                        Colour::BT709,
                        visible,
                        &mut found,
                        to,
                        place,
                    );
                    let error: f64 = wanted
                        .iter()
                        .zip(&found)
                        .map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2))
                        .sum();
                    let psnr = 10.0 * (65025.0 * wanted.len() as f64 / error.max(1e-9)).log10();
                    assert!(psnr > 45.0, "{visible:?} to {to:?} at {place:?}: {psnr} dB");
                }
            }
        }
    }
}
