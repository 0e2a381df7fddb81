//! `kinora data make`: data sets that are drawn.

use crate::cli::{Make, Shapes};
use crate::failure::Outcome;
use crate::verbs::console;
use kinora_shapes::{ShapesConfig, difficulty, make as draw};
use kinora_track::Console;
use std::path::Path;

pub(super) fn make(args: &Make) -> Outcome {
    match args {
        Make::Shapes(args) => make_shapes(args),
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
    let made = draw(config, out, |done, _| bar.at(done))?;
    bar.finish();
    Ok(made.fresh)
}
