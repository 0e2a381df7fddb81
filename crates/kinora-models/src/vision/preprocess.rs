//! Images as the encoder was trained on them.

use burn::tensor::{Tensor, TensorData};

/// What is subtracted from red, green and blue, which lie in 0..=1.
pub const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// What red, green and blue are divided by after that.
pub const STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

// PyTorch's cubic kernel; Pillow's has -0.5.
const SHARPNESS: f64 = -0.75;

/// Images `[B, 3, H, W]` with values in -1..=1 to what the encoder reads, `[B, 3, size, size]`: both
/// sides scaled to `size`, whatever their ratio, then normalised (wan/modules/clip.py, `visual`).
///
/// Diffusers' pipeline scales the shorter side instead, with smoothing, and cuts the middle out.
pub fn preprocess(images: Tensor<4>, size: usize) -> Tensor<4> {
    let (device, dtype) = (images.device(), images.dtype());
    let channels = |values: [f64; 3]| {
        let data = TensorData::new(values.to_vec(), [1, 3, 1, 1]);
        Tensor::<4>::from_data(data, (&device, dtype))
    };
    let scaled = resize_bicubic(images, [size, size]);
    (scaled * 0.5 + 0.5 - channels(MEAN)) / channels(STD)
}

/// `[B, C, H, W]` to `[B, C, height, width]` by cubic convolution (Keys 1981) of the four nearest
/// pixels along each side, without smoothing and with the border repeated: PyTorch's `interpolate` with
/// `mode="bicubic"` and `align_corners=False`.
pub fn resize_bicubic(images: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, _, from_height, from_width] = images.dims();
    let (device, dtype) = (images.device(), images.dtype());
    let matrix = |from: usize, to: usize| {
        let data = TensorData::new(weights(from, to), [1, 1, to, from]);
        Tensor::<4>::from_data(data, (&device, dtype))
    };
    let rows = matrix(from_height, height);
    let columns = matrix(from_width, width).swap_dims(2, 3);
    rows.matmul(images.matmul(columns))
}

/// The share of each of `from` pixels in each of `to`, `[to, from]`.
fn weights(from: usize, to: usize) -> Vec<f64> {
    let mut weights = vec![0.0; to * from];
    let step = from as f64 / to as f64;
    for (i, row) in weights.chunks_exact_mut(from).enumerate() {
        // Pixels are areas, and these are their middles.
        let place = (i as f64 + 0.5) * step - 0.5;
        let first = place.floor();
        for offset in -1..=2 {
            let at = first + f64::from(offset);
            row[at.clamp(0.0, (from - 1) as f64) as usize] += cubic(place - at);
        }
    }
    weights
}

fn cubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), SHARPNESS);
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn nothing_is_lost_of_an_even_image_and_the_same_size_is_the_same() {
        let device = Device::flex();
        for (from, to) in [(5, 3), (3, 7), (4, 4)] {
            for row in weights(from, to).chunks_exact(from) {
                assert!(
                    (row.iter().sum::<f64>() - 1.0).abs() < 1e-12,
                    "{from} to {to}"
                );
            }
        }
        let image = Tensor::<4>::from_data([[[[0.1, 0.7], [0.3, -0.2]]]], &device);
        let same = resize_bicubic(image.clone(), [2, 2]);
        let far = (same - image).abs().max().into_scalar::<f32>();
        assert!(far < 1e-6, "{far}");
    }
}
