//! `kinora data`: making and looking into data sets.

use super::{console, json};
use crate::cli::{Data, DataInspect, Make, Shapes};
use crate::config::read;
use crate::failure::Outcome;
use crate::ranks::Here;
use kinora_data::Catalog;
use kinora_shapes::{ShapesConfig, difficulty, make};
use kinora_track::Console;
use std::path::Path;

pub(crate) fn data(args: &Data, here: &Here) -> Outcome {
    match args {
        Data::Make(Make::Shapes(args)) => make_shapes(args),
        Data::Inspect(args) => inspect(args),
        Data::Encode(args) => super::encode::encode(args, here),
    }
}

fn make_shapes(args: &Shapes) -> Outcome {
    let config = ShapesConfig {
        videos: args.videos,
        images: args.images,
        frames: args.frames,
        height: args.size,
        width: args.size,
        freedom: args.freedom,
        seed: args.seed,
        ..ShapesConfig::default()
    };
    let made = make_if_missing(&config, &args.out, console(args.quiet))?;
    if made {
        say!(
            "made {} videos and {} images in {}",
            args.videos,
            args.images,
            args.out.display()
        );
    } else {
        say!("{} is already made with these settings", args.out.display());
    }
    say!(
        "difficulty: {}",
        difficulty(&config.world(), 200, args.seed)
    );
    Ok(())
}

/// Makes the data set if its folder is not there; whether it did.
pub(crate) fn make_if_missing(
    config: &ShapesConfig,
    out: &Path,
    console: Console,
) -> Outcome<bool> {
    let bar = console.progress(config.videos + config.images, "making data, clip");
    let made = make(config, out, |done, _| bar.at(done))?;
    bar.finish();
    Ok(made.fresh)
}

fn inspect(args: &DataInspect) -> Outcome {
    let config = read(&args.config.config, &args.config.changes.set)?;
    let data = config.need(&config.data, "data", "data inspect")?;
    let catalog = Catalog::open(data)?;
    let summary = catalog.summary()?;
    if args.json {
        json(&summary);
        return Ok(());
    }
    say!(
        "{} rows in {} row groups of {} shards, {:.1} MB",
        summary.rows,
        summary.row_groups,
        summary.shards,
        summary.bytes as f64 / 1e6
    );
    let columns: Vec<String> = summary
        .columns
        .iter()
        .map(|(name, kind)| format!("{name} ({kind})"))
        .collect();
    say!("columns: {}", columns.join(", "));
    for bucket in &summary.buckets {
        say!(
            "bucket {}: {} samples, {:.1} steps of {} an epoch",
            bucket.bucket,
            bucket.samples,
            bucket.steps_per_epoch,
            bucket.bucket.batch
        );
    }
    let captions = &summary.captions;
    say!(
        "captions: {} to {} characters, {:.1} on average, {} empty",
        captions.shortest,
        captions.longest,
        captions.mean,
        captions.empty
    );
    let left_out = &summary.left_out;
    say!(
        "left out: {} too short, {} that fit no bucket, {} unreadable",
        left_out.too_short,
        left_out.no_bucket,
        left_out.unreadable
    );
    for example in &left_out.examples {
        say!("  {example}");
    }
    Ok(())
}
