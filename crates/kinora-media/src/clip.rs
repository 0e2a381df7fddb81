//! A clip: frames of RGB bytes, and the few things that are done to it.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::plane_fit::PlaneFitter;
use crate::window::Crop;

/// Frames of RGB pixels in memory. An image is a clip of one frame, with `fps` 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Number of frames, T.
    pub frames: usize,
    /// Height in pixels, H.
    pub height: usize,
    /// Width in pixels, W.
    pub width: usize,
    /// Frames per second; 0 for an image.
    pub fps: f64,
    /// The pixels, `[T, H, W, 3]`, red first, 0 to 255.
    pub rgb: Vec<u8>,
}

impl Clip {
    /// The bytes of one frame, `[H, W, 3]`. Panics if there is no such frame.
    pub fn frame(&self, index: usize) -> &[u8] {
        assert!(
            index < self.frames,
            "frame {index} of a clip of {} frames",
            self.frames
        );
        let bytes = self.height * self.width * 3;
        &self.rgb[index * bytes..][..bytes]
    }

    /// The clip cropped at its centre to the aspect ratio of `height` x `width`, then resized to it
    /// (Lanczos, widened when it shrinks, so that fine patterns turn gray instead of into moire).
    /// Panics if a side is zero.
    pub fn fit(&self, height: usize, width: usize) -> Clip {
        let mut fitter = Fitter::new();
        let mut rgb = vec![0; self.frames * height * width * 3];
        for (index, out) in rgb.chunks_exact_mut(height * width * 3).enumerate() {
            fitter.fit(
                self.frame(index),
                [self.height, self.width],
                out,
                [height, width],
                Crop::default(),
            );
        }
        Clip {
            frames: self.frames,
            height,
            width,
            fps: self.fps,
            rgb,
        }
    }

    /// `frames` consecutive frames from `start` on. Panics if they are not all there.
    pub fn sample(&self, start: usize, frames: usize) -> Clip {
        assert!(
            start + frames <= self.frames,
            "frames {start}..{} of a clip of {} frames",
            start + frames,
            self.frames
        );
        let bytes = self.height * self.width * 3;
        let rgb = self.rgb[start * bytes..(start + frames) * bytes].to_vec();
        Clip {
            frames,
            rgb,
            ..*self
        }
    }
}

/// Crops and resizes frames, and keeps its scratch memory between them.
pub(crate) struct Fitter {
    resizer: Resizer,
    /// For pictures that are still planes.
    pub(crate) planes: PlaneFitter,
}

impl Fitter {
    pub(crate) fn new() -> Self {
        Self {
            resizer: Resizer::new(),
            planes: PlaneFitter::default(),
        }
    }

    /// One frame, `[H, W, 3]`, cropped at `place` and resized from size `from` into `out` of size
    /// `to`, both `[height, width]` and at least one pixel.
    pub(crate) fn fit(
        &mut self,
        rgb: &[u8],
        from: [usize; 2],
        out: &mut [u8],
        to: [usize; 2],
        place: Crop,
    ) {
        assert!(
            from.into_iter()
                .chain(to)
                .all(|side| (1..=u32::MAX as usize).contains(&side)),
            "cannot resize {from:?} to {to:?}"
        );
        if from == to {
            out.copy_from_slice(rgb);
            return;
        }
        let [top, left, crop_height, crop_width] = cut_out(from, to, place);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
            .crop(left, top, crop_width, crop_height);
        // The sizes were just checked, so none of the three can fail. The pixels' type is named,
        // because the compiler would otherwise build the filters of all types.
        let source = TypedImageRef::<U8x3>::from_buffer(from[1] as u32, from[0] as u32, rgb)
            .expect("a frame holds its pixels");
        let mut target = TypedImage::<U8x3>::from_buffer(to[1] as u32, to[0] as u32, out)
            .expect("the target holds its pixels");
        self.resizer
            .resize_typed(&source, &mut target, &options)
            .expect("the crop lies inside the frame");
    }
}

/// The largest part of `from` with the aspect ratio of `to`, both `[height, width]`, at a place in
/// what is left over: its top, left, height and width in pixels.
pub(crate) fn cut_out(from: [usize; 2], to: [usize; 2], place: Crop) -> [f64; 4] {
    let [height, width] = from.map(|side| side as f64);
    let aspect = to[1] as f64 / to[0] as f64;
    let [crop_height, crop_width] = if width > height * aspect {
        [height, (height * aspect).min(width)]
    } else {
        [(width / aspect).min(height), width]
    };
    let start = |left_over: f64, place: f64| {
        let place = if place.is_nan() { 0.5 } else { place };
        left_over * place.clamp(0.0, 1.0)
    };
    [
        start(height - crop_height, place.y),
        start(width - crop_width, place.x),
        crop_height,
        crop_width,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(frames: usize, height: usize, width: usize) -> Clip {
        let mut rgb = Vec::new();
        for t in 0..frames {
            for y in 0..height {
                for x in 0..width {
                    rgb.extend([x as u8, y as u8, t as u8]);
                }
            }
        }
        Clip {
            frames,
            height,
            width,
            fps: 8.0,
            rgb,
        }
    }

    #[test]
    fn fitting_to_the_same_size_changes_nothing() {
        let clip = gradient(3, 8, 12);
        assert_eq!(clip.fit(8, 12), clip);
    }

    #[test]
    fn fitting_crops_at_the_centre() {
        // A quarter of the width is lost on each side: red runs over 25..75.
        let fitted = gradient(1, 50, 100).fit(50, 50);
        assert_eq!(&fitted.frame(0)[..2], &[25, 0]);
        assert_eq!(&fitted.frame(0)[49 * 3..][..2], &[74, 0]);
        let fitted = gradient(1, 100, 50).fit(50, 50);
        assert_eq!(&fitted.frame(0)[..2], &[0, 25]);
    }

    #[test]
    fn a_crop_lies_where_it_is_told() {
        let clip = gradient(1, 50, 100);
        for (x, left) in [
            (0.0, 0),
            (0.5, 25),
            (1.0, 50),
            (0.2, 10),
            (-1.0, 0),
            (7.0, 50),
        ] {
            let mut out = vec![0; 50 * 50 * 3];
            let place = Crop { y: 0.5, x };
            Fitter::new().fit(clip.frame(0), [50, 100], &mut out, [50, 50], place);
            assert_eq!(out[..3], [left, 0, 0], "x {x}");
        }
        let tall = gradient(1, 100, 50);
        let mut out = vec![0; 50 * 50 * 3];
        let place = Crop { y: 1.0, x: 0.0 };
        Fitter::new().fit(tall.frame(0), [100, 50], &mut out, [50, 50], place);
        assert_eq!(out[..3], [0, 50, 0]);
    }

    #[test]
    fn a_fine_checkerboard_turns_gray() {
        // At a seventh of its size, plain sampling would show black and white, or slow waves.
        let side = 7 * 32;
        let clip = Clip {
            frames: 1,
            height: side,
            width: side,
            fps: 0.0,
            rgb: (0..side * side)
                .flat_map(|i| {
                    [if (i / side + i % side) % 2 == 0 {
                        255
                    } else {
                        0
                    }; 3]
                })
                .collect(),
        };
        let small = clip.fit(32, 32);
        for (index, &value) in small.rgb.iter().enumerate() {
            assert!(value.abs_diff(127) <= 3, "byte {index} is {value}");
        }
    }

    #[test]
    fn fitting_keeps_a_flat_field_flat() {
        let clip = Clip {
            frames: 1,
            height: 7,
            width: 9,
            fps: 0.0,
            rgb: [9, 99, 199].repeat(63),
        };
        for [height, width] in [[3, 3], [20, 11], [1, 1], [7, 100]] {
            assert_eq!(
                clip.fit(height, width).rgb,
                [9, 99, 199].repeat(height * width)
            );
        }
    }

    #[test]
    fn a_sample_is_its_frames() {
        let clip = gradient(5, 4, 6);
        let part = clip.sample(2, 2);
        assert_eq!((part.frames, part.fps), (2, 8.0));
        assert_eq!(part.frame(0), clip.frame(2));
        assert_eq!(part.frame(1), clip.frame(3));
    }
}
