//! Sound that belongs to a part of a clip.

use kinora_media::{Pcm, audio};

/// The part of a sound file from `start` on, as a WAV file of 16 bits; none if it ends before.
pub(crate) fn part(bytes: &[u8], start: f64, seconds: f64) -> Result<Option<Vec<u8>>, String> {
    let pcm = audio(bytes, start, Some(seconds)).map_err(|error| error.to_string())?;
    Ok(pcm
        .filter(|pcm| !pcm.samples.is_empty())
        .map(|pcm| wav(&pcm)))
}

fn wav(pcm: &Pcm) -> Vec<u8> {
    let data = 2 * pcm.samples.len() as u32;
    let frame = 2 * pcm.channels;
    let mut bytes = Vec::with_capacity(44 + data as usize);
    bytes.extend(b"RIFF");
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    // 1 stands for plain samples.
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(pcm.channels.to_le_bytes());
    bytes.extend(pcm.rate.to_le_bytes());
    bytes.extend((pcm.rate * u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    for sample in &pcm.samples {
        let value = (sample.clamp(-1.0, 1.0) * 32767.0).round() as i16;
        bytes.extend(value.to_le_bytes());
    }
    bytes
}
