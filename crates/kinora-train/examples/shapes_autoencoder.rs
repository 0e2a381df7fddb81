//! Trains the autoencoder of `autoencoders/shapes` on moving shapes, as it ships:
//!
//! ```text
//! cargo run --release -p kinora-train --example shapes_autoencoder -- WORK OUT [STEPS]
//! ```
//!
//! `WORK` gets the data set and the checkpoints, from which it goes on if it is started again; `OUT` is
//! the folder that is written, and scored. If it is there already it is scored only.

use burn::tensor::{DType, Device};
use kinora_ckpt::{Checkpoint, Dtype, latest};
use kinora_data::{Bucket, Catalog, DataConfig};
use kinora_media::Clip;
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::temporal::{Distance, LossConfig, TemporalVaeConfig};
use kinora_shapes::score::Tally;
use kinora_shapes::{Scene, ShapesConfig, Split, World, check, make};
use kinora_shard::{Cx, Sharding};
use kinora_train::{
    AutoencoderTraining, Decay, Decays, OptimConfig, checkpoints, read_autoencoder,
    train_autoencoder, videos, write_autoencoder,
};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut folder = |name: &str| args.next().map(PathBuf::from).ok_or(format!("name {name}"));
    let (work, out) = (folder("WORK")?, folder("OUT")?);
    let steps = args.next().map_or(Ok(850), |steps| steps.parse())?;
    if out.is_dir() {
        return score(&out, 300);
    }

    let data = work.join("data");
    // Shapes anywhere in the picture, so that the autoencoder serves any world.
    let shapes = ShapesConfig {
        videos: 3000,
        images: 1000,
        freedom: 99.0,
        seed: 100,
        ..ShapesConfig::default()
    };
    make(&shapes, &data, |_, _| {})?;
    let toml = format!(
        "paths = {:?}\nimage_ratio = 0.25\nworkers = 1\n",
        data.display().to_string()
    );
    let mut config: DataConfig = toml::from_str(&toml)?;
    config.buckets = vec![Bucket::new(16, 32, 32, 8), Bucket::new(1, 32, 32, 16)];
    let catalog = Arc::new(Catalog::open(&config)?);

    let training = AutoencoderTraining {
        model: TemporalVaeConfig {
            base: 48,
            multipliers: vec![1, 1],
            blocks: 1,
            channels: 16,
            halves_frames: 2,
            halves_sides: 0,
            patch: 4,
            tile: 32,
            overlap: 16,
            mean: vec![],
            std: vec![],
        },
        loss: LossConfig {
            distance: Distance::L1,
            divergence: 1e-4,
            ..LossConfig::default()
        },
        steps,
        accumulate: 1,
        measured: 512,
        checkpoint_every: 100,
        keep: 2,
        optim: OptimConfig {
            lr: 1e-3,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.0,
            decays: Decays::Matrices,
            clip: 1.0,
            warmup: 30,
            decay: Decay {
                from: 0.2,
                to: 0.01,
            },
            ema: 0.98,
            ema_warmup: true,
        },
    };
    let begun = Instant::now();
    let mut recent = 0.0;
    let tell = |report: &kinora_train::AutoencoderReport| {
        if !report.images {
            let step = report.step.step;
            let weight = if recent == 0.0 { 1.0 } else { 0.05 };
            recent += (report.reconstruction - recent) * weight;
            if step % 10 < 2 {
                println!(
                    "step {step}, {:.0} s: reconstruction {recent:.4}, divergence {:.2}, norm {:.2}",
                    begun.elapsed().as_secs_f64(),
                    report.divergence,
                    report.step.norm,
                );
            }
        }
    };
    let sharding = Sharding::single();
    let device = Device::flex();
    train_autoencoder(
        &training,
        0,
        (&catalog, &sharding),
        (&device, DType::F32),
        &work,
        tell,
    )?;
    let newest = latest(&checkpoints(&work))?.ok_or("no checkpoint was written")?;
    write_autoencoder(Checkpoint::open(&newest)?, Dtype::BF16, &out)?;
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    score(&out, 300)
}

/// Prints how often the checker is right about clips of scenes that were never trained on, as they are
/// and as they come back from latents, and how far these are from those.
fn score(folder: &Path, clips: u64) -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    let vae = read_autoencoder(folder, &Cx::single(&device))?;
    for freedom in [World::default().freedom, 99.0] {
        let world = World {
            freedom,
            ..World::default()
        };
        let mut tallies = [Tally::default(), Tally::default()];
        let mut squares = 0.0;
        for index in 0..clips {
            let sample = world.video_sample(&Scene::of(Split::Held), 777, index);
            let video = videos(&[&sample.clip], &device);
            let back = vae.decode(vae.encode(video.clone()));
            squares += (back.clone() - video).square().mean().into_scalar::<f64>();
            let pixels = back.permute([0, 2, 3, 4, 1]).into_data();
            let byte = |x: f32| ((x + 1.0) * 127.5).round() as u8;
            let clip = Clip {
                rgb: pixels.iter::<f32>().map(byte).collect(),
                ..sample.clip.clone()
            };
            for (tally, clip) in tallies.iter_mut().zip([&sample.clip, &clip]) {
                tally.add(&sample.scene, &check(clip));
            }
        }
        let noise = 10.0 * (4.0 * clips as f64 / squares).log10();
        let [real, back] = tallies.map(|tally| tally.score());
        println!("freedom {freedom}, {noise:.2} dB\nreal clips\n{real}\nreconstructed\n{back}");
    }
    Ok(())
}
