//! Draws a contact sheet of the data set, to look at: `cargo run -p kinora-shapes --example sheet -- shapes.png`.
//! Each row is a clip after its loss in H.264, with its caption.

use std::error::Error;

use kinora_media::{Clip, contact_sheet, decode, encode_mp4};
use kinora_shapes::{Scene, Split, World};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "shapes.png".to_owned());
    let scenes = Scene::of(Split::Seen);
    let mut rows: Vec<(String, Clip)> = Vec::new();
    for (freedom, indices) in [(3.0, 0..6), (99.0, 6..12)] {
        let world = World {
            freedom,
            ..World::default()
        };
        for index in indices {
            let sample = world.video_sample(&scenes, 1, index);
            rows.push((sample.caption, decode(&encode_mp4(&sample.clip)?)?));
        }
    }
    for index in 0..4 {
        let sample = World::default().image_sample(&scenes, 1, index);
        rows.push((sample.caption, sample.clip));
    }
    std::fs::write(&path, contact_sheet(&rows, 8, 2)?)?;
    println!("{path}");
    Ok(())
}
