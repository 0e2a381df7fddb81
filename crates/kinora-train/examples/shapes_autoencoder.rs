//! Trains the autoencoder of `autoencoders/shapes` on moving shapes, as it ships:
//!
//! ```text
//! cargo run --release -p kinora-train --example shapes_autoencoder -- WORK OUT [STEPS]
//! ```
//!
//! `WORK` gets the data set and the checkpoints, from which it goes on if it is started again; `OUT` is
//! the folder that is written.

use burn::tensor::{DType, Device};
use kinora_ckpt::{Checkpoint, Dtype, latest};
use kinora_data::{Bucket, Catalog, DataConfig};
use kinora_models::autoencoder::temporal::{Distance, LossConfig, TemporalVaeConfig};
use kinora_shapes::{ShapesConfig, make};
use kinora_shard::Sharding;
use kinora_train::{
    AutoencoderTraining, Decay, Decays, OptimConfig, checkpoints, train_autoencoder,
    write_autoencoder,
};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut folder = |name: &str| args.next().map(PathBuf::from).ok_or(format!("name {name}"));
    let (work, out) = (folder("WORK")?, folder("OUT")?);
    let steps = args.next().map_or(Ok(1500), |steps| steps.parse())?;

    let data = work.join("data");
    // Shapes anywhere in the picture, so that the autoencoder serves any world.
    let shapes = ShapesConfig {
        videos: 6000,
        images: 1500,
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
    config.buckets = vec![Bucket::new(16, 32, 32, 16), Bucket::new(1, 32, 32, 16)];
    let catalog = Arc::new(Catalog::open(&config)?);

    let training = AutoencoderTraining {
        model: TemporalVaeConfig {
            base: 24,
            multipliers: vec![1, 2, 4],
            blocks: 1,
            channels: 16,
            halves_frames: 2,
            halves_sides: 2,
            patch: 2,
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
            lr: 3e-3,
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.0,
            decays: Decays::Matrices,
            clip: 1.0,
            warmup: 30,
            decay: Decay { from: 0.3, to: 0.01 },
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
    Ok(())
}
