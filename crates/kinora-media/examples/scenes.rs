//! Prints the scenes of files, one line of JSON each: `scenes FILE...`.

use std::time::Instant;

use kinora_media::{Analysis, analyse, audio_info};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        let begun = Instant::now();
        let footage = analyse(&bytes, &Analysis::default())?;
        let seconds = begun.elapsed().as_secs_f64();
        let frames: usize = footage.scenes.iter().map(|scene| scene.frames).sum();
        println!(
            "{{\"file\": {path:?}, \"frames\": {frames}, \"seconds\": {seconds:.3}, \"sound\": {:?}}}",
            format!("{:?}", audio_info(&bytes)?)
        );
        for scene in &footage.scenes {
            println!(
                "{{\"start\": {:.3}, \"end\": {:.3}, \"frames\": {}, \"motion\": {:.4}, \"hash\": \"{:016x}\", \"brightness\": {:.3}, \"contrast\": {:.3}}}",
                scene.start,
                scene.end,
                scene.frames,
                scene.motion,
                scene.hash,
                scene.brightness,
                scene.contrast
            );
        }
    }
    Ok(())
}
