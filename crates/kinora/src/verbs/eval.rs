//! `kinora eval`: a run's videos, scored by rules that need no learning.

use super::{console, json};
use crate::cli::Eval;
use crate::config::read_run;
use crate::failure::{Failure, OrRun, Outcome};
use crate::ranks::{Here, Ranks};
use crate::run::Trained;
use crate::verbs::generate::writable;
use crate::whole;
use kinora_generate::Sampler;
use kinora_media::{Clip, contact_sheet};
use kinora_mesh::MeshAxis;
use kinora_shapes::{
    Difficulty, Kind, Prompt, Score, Split, Tally, calibrate, check, difficulty, prompts,
};
use kinora_track::Console;
use kinora_train::TrainError;
use serde::Serialize;
use std::sync::Arc;

// The checker must read real clips this well before it may judge others.
const CALIBRATED: f64 = 0.98;
// Videos sampled at once, which bounds memory.
const AT_ONCE: usize = 26;
// Rows of the contact sheet.
const SHEET_ROWS: usize = 12;

/// What the command reports.
#[derive(Serialize)]
struct Report {
    run: String,
    step: u64,
    seed: u64,
    difficulty: Difficulty,
    calibration: Score,
    held_out: Score,
    seen: Score,
}

pub(crate) fn eval(args: &Eval, here: &Here) -> Outcome {
    let config = read_run(&args.run, &args.changes.set)?;
    let ranks = here.ranks(&config)?;
    let trained = ranks.busy(|| Trained::open(&args.run, &args.changes.set, "eval"))?;
    trained.check_guidance()?;
    let shapes = trained
        .config
        .need(&trained.config.shapes, "shapes", "eval")?
        .clone();
    if args.prompts == 0 {
        return Err(Failure::input(
            "--prompts 0\n  help: use at least 1; 100 or more for figures to rely on",
        ));
    }
    if let Some(sheet) = &args.sheet {
        writable(sheet)?;
    }
    let world = shapes.world();
    let calibration = ranks.first(|| {
        let calibration = calibrate(&world, 200, args.seed).or_run()?;
        trustworthy(&calibration)?;
        Ok(calibration)
    })?;
    let step = trained.checkpoint.step();
    let trained = Arc::new(trained);
    let shown = console(args.quiet);
    let ask = |split| prompts(Kind::Video, split, args.prompts, args.seed);
    let (held, seen) = (ask(Split::Held), ask(Split::Seen));
    let all: Vec<Prompt> = held.iter().chain(&seen).cloned().collect();
    let videos = sample(&ranks, &trained, all, args.seed, shown)?;
    // The process that leads has both.
    let (Some(calibration), Some(videos)) = (calibration, videos) else {
        return Ok(());
    };
    let (held_videos, seen_videos) = videos.split_at(held.len());
    let report = Report {
        run: args.run.display().to_string(),
        step,
        seed: args.seed,
        difficulty: difficulty(&world, 200, args.seed),
        calibration,
        held_out: score(&held, held_videos),
        seen: score(&seen, seen_videos),
    };
    if args.json {
        json(&report);
    } else {
        print(&report);
    }
    if let Some(path) = &args.sheet {
        let rows: Vec<(String, Clip)> = held
            .iter()
            .zip(held_videos)
            .take(SHEET_ROWS)
            .map(|(prompt, clip)| (prompt.caption.clone(), clip.clone()))
            .collect();
        whole::write(path, &contact_sheet(&rows, 8, 2).or_run()?).or_run()?;
    }
    Ok(())
}

/// Refuses a checker that misreads real clips.
fn trustworthy(calibration: &Score) -> Outcome {
    for (name, rate) in calibration.rates() {
        if rate.share() < CALIBRATED && name != "all" {
            return Err(Failure::run(format!(
                "the checker reads {name} of real clips right in {:.1} % only, so it cannot judge others\n  help: shapes need frames of at least 32x32",
                100.0 * rate.share()
            )));
        }
    }
    Ok(())
}

fn print(report: &Report) {
    say!(
        "{} at step {}, seed {}",
        report.run,
        report.step,
        report.seed
    );
    say!("difficulty: {}", report.difficulty);
    say!("\nthe checker on real clips\n{}", report.calibration);
    say!(
        "\nprompts with combinations held out of training\n{}",
        report.held_out
    );
    say!("\nprompts without\n{}", report.seen);
}

fn score(prompts: &[Prompt], videos: &[Clip]) -> Score {
    let mut tally = Tally::default();
    for (prompt, clip) in prompts.iter().zip(videos) {
        tally.add(&prompt.scene, &check(clip));
    }
    tally.score()
}

/// A video for each prompt, in order.
fn sample(
    ranks: &Ranks<'_>,
    trained: &Arc<Trained>,
    prompts: Vec<Prompt>,
    seed: u64,
    console: Console,
) -> Outcome<Option<Vec<Clip>>> {
    let trained = trained.clone();
    ranks.run(trained.devices, move |sharding, device| {
        let asked = prompts.chunks(AT_ONCE).map(|some| {
            let captions: Vec<String> = some.iter().map(|prompt| prompt.caption.clone()).collect();
            trained.ask(&captions, &sharding, &device)
        });
        let asked = asked.collect::<Result<Vec<_>, _>>()?;
        let model = trained.model(&sharding, &device)?;
        let sampler = Sampler {
            model: &model,
            config: &trained.sample,
            device: &device,
            dtype: trained.dtype(),
            cfg: sharding.group(&[MeshAxis::Cfg]),
        };
        let shape = trained
            .latent(trained.bucket.frames)
            .map_err(|error| TrainError::Sample(error.to_string()))?;
        let steps = trained.sample.schedule.steps() * prompts.len().div_ceil(AT_ONCE);
        let bar = (sharding.rank() == 0).then(|| console.progress(steps as u64, "sampling, step"));
        let mut videos = vec![];
        for (i, asked) in asked.iter().enumerate() {
            let first = (i * AT_ONCE) as u64;
            let latents = sampler.sample(asked, shape, (seed, first), |_| {
                if let Some(bar) = &bar {
                    bar.advance(1);
                }
            });
            if sharding.rank() == 0 {
                videos.extend(sharding.world().busy(|| trained.decode(latents)));
            }
        }
        Ok(videos)
    })
}
