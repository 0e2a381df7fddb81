//! Until kinora-media has these: the whole clip is one scene.
#![allow(missing_docs)]
use kinora_media::{AudioInfo, Decoder, MediaError, Window, probe};
pub struct Analysis { pub threshold: f64 }
impl Default for Analysis { fn default() -> Self { Self { threshold: 3.0 } } }
#[derive(Clone, Debug)]
pub struct Scene { pub start: f64, pub end: f64, pub frames: usize, pub motion: f64, pub hash: u64, pub brightness: f64, pub contrast: f64 }
pub struct Footage { pub scenes: Vec<Scene> }
pub struct Cut { pub bytes: Vec<u8>, pub start: f64 }
pub struct Pcm { pub rate: u32, pub channels: u16, pub samples: Vec<f32> }
pub fn audio(_: &[u8], _: f64, _: Option<f64>) -> Result<Option<Pcm>, MediaError> { Ok(None) }
pub fn audio_info(_: &[u8]) -> Result<Option<AudioInfo>, MediaError> { Ok(Some(AudioInfo { codec: "?".into(), rate: 1, channels: 1, duration: 1.0 })) }
pub fn cut(bytes: &[u8], start: f64, _: f64) -> Result<Cut, MediaError> { Ok(Cut { bytes: bytes.to_vec(), start }) }
pub fn analyse(bytes: &[u8], _: &Analysis) -> Result<Footage, MediaError> {
    let info = probe(bytes)?;
    let clip = Decoder::new().window(bytes, Window::frames(0, info.frames).sized([16, 16]))?;
    let luma: Vec<f64> = clip.rgb.chunks_exact(3).map(|p| (f64::from(p[0]) + f64::from(p[1]) + f64::from(p[2])) / 765.0).collect();
    let mean = luma.iter().sum::<f64>() / luma.len() as f64;
    let contrast = (luma.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / luma.len() as f64).sqrt();
    let middle = &luma[256 * (info.frames / 2)..][..256];
    let mut hash = 0u64;
    for y in 0..8 { for x in 0..8 { hash = hash << 1 | u64::from(middle[y * 32 + 2 * x] < middle[y * 32 + (2 * x + 2).min(15)]); } }
    Ok(Footage { scenes: vec![Scene { start: 0.0, end: info.duration, frames: info.frames, motion: 0.0, hash, brightness: mean, contrast }] })
}
