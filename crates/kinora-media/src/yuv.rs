//! Colour: RGB to and from Y'CbCr with chroma at half the resolution (4:2:0).
//!
//! Written here because the decoder library's own conversion knows one matrix and repeats chroma
//! samples. Chroma samples lie level with even columns and between rows, which is H.264's default.

use openh264::formats::YUVSlices;

/// How a stream codes colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Colour {
    /// The weights of red and blue in luma.
    pub(crate) weights: [f64; 2],
    /// Whether luma spans 0..255 instead of 16..235.
    pub(crate) full_range: bool,
}

impl Colour {
    /// What [`crate::Mp4Writer`] writes.
    pub(crate) const BT709: Self = Self {
        weights: [0.2126, 0.0722],
        full_range: false,
    };
    /// Standard definition.
    pub(crate) const BT601: Self = Self {
        weights: [0.299, 0.114],
        full_range: false,
    };

    /// The six numbers of the conversion to RGB, as integers times `1 << SHIFT`.
    fn decode(self) -> Decode {
        let [red, blue] = self.weights;
        let green = 1.0 - red - blue;
        let (offset, luma, chroma) = if self.full_range {
            (0, 1.0, 1.0)
        } else {
            (16, 255.0 / 219.0, 255.0 / 224.0)
        };
        let fixed = |x: f64| (x * f64::from(1 << SHIFT)).round() as i32;
        Decode {
            offset,
            luma: fixed(luma),
            red_v: fixed(chroma * 2.0 * (1.0 - red)),
            green_u: fixed(-chroma * 2.0 * (1.0 - blue) * blue / green),
            green_v: fixed(-chroma * 2.0 * (1.0 - red) * red / green),
            blue_u: fixed(chroma * 2.0 * (1.0 - blue)),
        }
    }
}

// Chroma comes in eighths, so 14 + 3 bits of it and 8 of the value fit into 31 with the sign.
const SHIFT: u32 = 14;

#[derive(Clone, Copy)]
struct Decode {
    offset: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl Decode {
    /// One pixel from luma and the two centred chroma values.
    #[inline(always)]
    fn pixel(self, y: i32, u: i32, v: i32, out: &mut [u8]) {
        let y = (y - self.offset) * self.luma + (1 << (SHIFT - 1));
        let level = |x: i32| (x >> SHIFT).clamp(0, 255) as u8;
        out[0] = level(y + self.red_v * v);
        out[1] = level(y + self.green_u * u + self.green_v * v);
        out[2] = level(y + self.blue_u * u);
    }
}

/// One decoded picture: planes, and how many bytes lie between the starts of two rows.
pub(crate) struct Planes<'a> {
    pub(crate) y: &'a [u8],
    pub(crate) u: &'a [u8],
    pub(crate) v: &'a [u8],
    pub(crate) strides: [usize; 2],
    /// Coded `[height, width]`.
    pub(crate) size: [usize; 2],
}

/// The top left `size` of a picture as RGB, `[H, W, 3]`, with chroma interpolated.
pub(crate) fn to_rgb(planes: &Planes<'_>, colour: Colour, size: [usize; 2], out: &mut [u8]) {
    let decode = colour.decode();
    let [height, width] = size;
    let [rows, columns] = planes.size.map(|side| side.div_ceil(2));
    let mut line = vec![[0i32; 2]; columns + 1];
    for y in 0..height {
        // A row of pixels lies a quarter of a chroma row from the nearer one.
        let near = y / 2;
        let far = if y % 2 == 0 {
            near.saturating_sub(1)
        } else {
            (near + 1).min(rows - 1)
        };
        for (x, at) in line[..columns].iter_mut().enumerate() {
            let blend = |plane: &[u8]| {
                let near = i32::from(plane[near * planes.strides[1] + x]);
                let far = i32::from(plane[far * planes.strides[1] + x]);
                3 * near + far - 4 * 128
            };
            *at = [blend(planes.u), blend(planes.v)];
        }
        line[columns] = line[columns - 1];
        let luma = &planes.y[y * planes.strides[0]..][..width];
        let out = &mut out[y * width * 3..][..width * 3];
        for (x, (&luma, pixel)) in luma.iter().zip(out.chunks_exact_mut(3)).enumerate() {
            let left = line[x / 2];
            let right = line[x.div_ceil(2)];
            let [u, v] = [0, 1].map(|c| (left[c] + right[c] + 4) >> 3);
            decode.pixel(i32::from(luma), u, v, pixel);
        }
    }
}

/// A picture that was written at twice its size, at its true `size`: each chroma sample is a pixel's
/// own, and luma is the mean of four.
pub(crate) fn to_rgb_halved(planes: &Planes<'_>, colour: Colour, size: [usize; 2], out: &mut [u8]) {
    let decode = colour.decode();
    let [height, width] = size;
    for y in 0..height {
        let upper = &planes.y[2 * y * planes.strides[0]..][..2 * width];
        let lower = &planes.y[(2 * y + 1) * planes.strides[0]..][..2 * width];
        let u = &planes.u[y * planes.strides[1]..][..width];
        let v = &planes.v[y * planes.strides[1]..][..width];
        let out = &mut out[y * width * 3..][..width * 3];
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            let sum = [
                upper[2 * x],
                upper[2 * x + 1],
                lower[2 * x],
                lower[2 * x + 1],
            ]
            .iter()
            .map(|&luma| i32::from(luma))
            .sum::<i32>();
            decode.pixel(
                (sum + 2) >> 2,
                i32::from(u[x]) - 128,
                i32::from(v[x]) - 128,
                pixel,
            );
        }
    }
}

/// Planes of luma and of both chromas, all of the same size and without gaps, as RGB, `[H, W, 3]`.
pub(crate) fn to_rgb_dense([y, u, v]: [&[u8]; 3], colour: Colour, out: &mut [u8]) {
    let decode = colour.decode();
    let planes = y.iter().zip(u).zip(v);
    for (pixel, ((&y, &u), &v)) in out.chunks_exact_mut(3).zip(planes) {
        decode.pixel(y.into(), i32::from(u) - 128, i32::from(v) - 128, pixel);
    }
}

/// A picture to encode, in BT.709 with limited range.
pub(crate) struct Picture {
    size: [usize; 2],
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl Picture {
    /// A picture of `[height, width]`, both even.
    pub(crate) fn new(size: [usize; 2]) -> Self {
        let pixels = size[0] * size[1];
        Self {
            size,
            y: vec![0; pixels],
            u: vec![0; pixels / 4],
            v: vec![0; pixels / 4],
        }
    }

    pub(crate) fn slices(&self) -> YUVSlices<'_> {
        let [height, width] = self.size;
        YUVSlices::new(
            (&self.y, &self.u, &self.v),
            (width, height),
            (width, width / 2, width / 2),
        )
    }

    /// Luma and both chromas.
    #[cfg(test)]
    pub(crate) fn planes(&self) -> [&[u8]; 3] {
        [&self.y, &self.u, &self.v]
    }

    /// Takes an RGB frame of `[height, width]`; what lies past its edge repeats the edge.
    pub(crate) fn fill(&mut self, rgb: &[u8], size: [usize; 2]) {
        let [rows, columns] = self.size;
        let pixel = |y: usize, x: usize| {
            let at = (y.min(size[0] - 1) * size[1] + x.min(size[1] - 1)) * 3;
            [rgb[at], rgb[at + 1], rgb[at + 2]].map(i32::from)
        };
        for y in 0..rows {
            for x in 0..columns {
                self.y[y * columns + x] = luma(pixel(y, x));
            }
        }
        for y in 0..rows / 2 {
            for x in 0..columns / 2 {
                // Weights 1 2 1 across, around the sample's own column, and 1 1 down.
                let mut sum = [0; 3];
                for row in [2 * y, 2 * y + 1] {
                    let columns = [(2 * x).saturating_sub(1), 2 * x, 2 * x + 1];
                    for (column, weight) in columns.into_iter().zip([1, 2, 1]) {
                        let pixel = pixel(row, column);
                        (0..3).for_each(|c| sum[c] += weight * pixel[c]);
                    }
                }
                let [u, v] = chroma(sum.map(|x| f64::from(x) / 8.0));
                self.u[y * (columns / 2) + x] = u;
                self.v[y * (columns / 2) + x] = v;
            }
        }
    }

    /// Takes an RGB frame of `[height, width]`, each pixel as a block of 2x2, so that chroma keeps its
    /// full resolution; what lies past its edge repeats the edge.
    pub(crate) fn fill_doubled(&mut self, rgb: &[u8], size: [usize; 2]) {
        let columns = self.size[1];
        for y in 0..self.size[0] / 2 {
            for x in 0..columns / 2 {
                let from = (y.min(size[0] - 1) * size[1] + x.min(size[1] - 1)) * 3;
                let pixel = [rgb[from], rgb[from + 1], rgb[from + 2]];
                let luma = luma(pixel.map(i32::from));
                for row in [2 * y, 2 * y + 1] {
                    self.y[row * columns + 2 * x..][..2].fill(luma);
                }
                let at = y * (columns / 2) + x;
                [self.u[at], self.v[at]] = chroma(pixel.map(f64::from));
            }
        }
    }
}

/// BT.709's luma of a pixel, 16 to 235.
fn luma([r, g, b]: [i32; 3]) -> u8 {
    // The weights times 219 / 255 * 2^16.
    ((11966 * r + 40254 * g + 4064 * b + (16 << 16) + (1 << 15)) >> 16) as u8
}

/// BT.709's two chroma values of a pixel, 16 to 240.
fn chroma([r, g, b]: [f64; 3]) -> [u8; 2] {
    let luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    let code = |difference: f64, span: f64| {
        (128.0 + 224.0 / 255.0 * difference / span)
            .round()
            .clamp(16.0, 240.0) as u8
    };
    [code(b - luma, 1.8556), code(r - luma, 1.5748)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(rgb: &[u8], size: [usize; 2]) -> Vec<u8> {
        let coded = size.map(|side| side.next_multiple_of(2));
        let mut picture = Picture::new(coded);
        picture.fill(rgb, size);
        let planes = Planes {
            y: &picture.y,
            u: &picture.u,
            v: &picture.v,
            strides: [coded[1], coded[1] / 2],
            size: coded,
        };
        let mut out = vec![0; rgb.len()];
        to_rgb(&planes, Colour::BT709, size, &mut out);
        out
    }

    #[test]
    fn flat_colours_come_back_within_two_levels() {
        for r in (0..=255).step_by(51) {
            for g in (0..=255).step_by(51) {
                for b in (0..=255).step_by(51) {
                    let pixel = [r as u8, g as u8, b as u8];
                    for (a, b) in round_trip(&pixel.repeat(15), [3, 5])
                        .iter()
                        .zip(pixel.repeat(15))
                    {
                        assert!(a.abs_diff(b) <= 2, "{pixel:?} came back as {a}");
                    }
                }
            }
        }
    }

    #[test]
    fn doubled_pixels_come_back_within_two_levels_whatever_their_neighbours() {
        let rgb: Vec<u8> = (0..4 * 6 * 3).map(|i| (i * 89 % 256) as u8).collect();
        let mut picture = Picture::new([8, 12]);
        picture.fill_doubled(&rgb, [4, 6]);
        let planes = Planes {
            y: &picture.y,
            u: &picture.u,
            v: &picture.v,
            strides: [12, 6],
            size: [8, 12],
        };
        let mut out = vec![0; rgb.len()];
        to_rgb_halved(&planes, Colour::BT709, [4, 6], &mut out);
        assert!(
            rgb.iter().zip(&out).all(|(a, b)| a.abs_diff(*b) <= 2),
            "{rgb:?}\n{out:?}"
        );
    }

    #[test]
    fn a_slow_colour_ramp_is_neither_shifted_nor_stepped() {
        // Opposite ramps of red and blue: a chroma sample taken from the wrong place shifts them.
        let width = 64;
        let row: Vec<u8> = (0..width)
            .flat_map(|x| [4 * x as u8, 90, 255 - 4 * x as u8])
            .collect();
        let out = round_trip(&row.repeat(4), [4, width]);
        for (x, (a, b)) in row
            .chunks(3)
            .zip(out.chunks(3))
            .enumerate()
            .take(width - 2)
            .skip(2)
        {
            assert!(
                (0..3).all(|c| a[c].abs_diff(b[c]) <= 3),
                "column {x}: {a:?} came back {b:?}"
            );
        }
    }

    #[test]
    fn full_range_and_other_weights_are_decoded() {
        // BT.601 red at limited range is (81, 90, 240); at full range (76, 85, 255).
        let decode = |colour: Colour, [y, u, v]: [u8; 3]| {
            let planes = Planes {
                y: &[y; 4],
                u: &[u],
                v: &[v],
                strides: [2, 1],
                size: [2, 2],
            };
            let mut out = [0; 12];
            to_rgb(&planes, colour, [2, 2], &mut out);
            [out[0], out[1], out[2]]
        };
        let limited = decode(Colour::BT601, [81, 90, 240]);
        let full = decode(
            Colour {
                full_range: true,
                ..Colour::BT601
            },
            [76, 85, 255],
        );
        for [r, g, b] in [limited, full] {
            assert!(r >= 253 && g <= 2 && b <= 2, "{limited:?} {full:?}");
        }
    }
}
