//! Tensors to frames.

use burn::tensor::Tensor;
use kinora_media::Clip;

/// Videos `[B, 3, T, H, W]` in -1..=1 to clips.
pub fn clips(videos: Tensor<5>, fps: f64) -> Vec<Clip> {
    let [b, _, frames, height, width] = videos.dims();
    // Channels last, as frames are stored.
    let pixels = videos
        .permute([0, 2, 3, 4, 1])
        .add_scalar(1.0)
        .mul_scalar(127.5);
    let rgb: Vec<u8> = pixels
        .into_data()
        .iter::<f32>()
        .map(|x| x.round().clamp(0.0, 255.0) as u8)
        .collect();
    rgb.chunks_exact(rgb.len() / b)
        .map(|rgb| Clip {
            frames,
            height,
            width,
            fps,
            rgb: rgb.to_vec(),
        })
        .collect()
}
