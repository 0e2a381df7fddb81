//! `kinora data ingest`: a data set of media and captions that the user has.

use super::store_options;
use crate::cli::Ingest;
use crate::failure::Outcome;
use crate::verbs::{console, json};
use kinora_data::StoreOptions;
use kinora_ingest::{IngestConfig, MediaPlace, Options, SourceKind};
use std::time::Instant;

pub(super) fn ingest(args: &Ingest) -> Outcome {
    let config = settings(args)?;
    let mut options = Options {
        memory_mb: args.memory,
        store: store_options(StoreOptions::default()),
        ..Options::default()
    };
    if let Some(jobs) = args.jobs {
        options.jobs = jobs.clamp(1, 1024);
    }
    let mut bar = None;
    let began = Instant::now();
    let mut first = None;
    let done = kinora_ingest::ingest(&args.sources, &args.out, &config, options, |progress| {
        let bar = bar
            .get_or_insert_with(|| console(args.quiet).progress(progress.total, "ingesting, item"));
        let before = *first.get_or_insert(progress.bytes);
        let rate = (progress.bytes - before) as f64 / 1e6 / began.elapsed().as_secs_f64().max(1e-3);
        let (kept, dropped) = (progress.kept, progress.dropped);
        bar.say(
            progress.items,
            format!("{kept} kept, {dropped} dropped, {rate:.1} MB/s"),
        );
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    if args.json {
        json(&done.report);
        return Ok(());
    }
    let out = args.out.display();
    if !done.fresh {
        say!("{out} is already done with these settings and sources");
    } else if done.resumed_at > 0 {
        say!("went on from item {}", done.resumed_at);
    }
    for line in done.report.lines() {
        say!("{line}");
    }
    if done.fresh {
        let took = began.elapsed().as_secs_f64();
        say!("took {took:.1} s; all that was dropped is listed in {out}/dropped.jsonl");
        say!("look at it:  kinora data inspect {out} --sheet sheet.png");
    }
    Ok(())
}

/// The configuration, with what the command line says on top.
fn settings(args: &Ingest) -> Outcome<IngestConfig> {
    let mut config = match &args.config {
        Some(path) => IngestConfig::read(path)?,
        None => IngestConfig::default(),
    };
    if let Some(name) = &args.kind {
        let kind = SourceKind::NAMES.iter().find(|(other, _)| other == name);
        config.kind = kind.map(|(_, kind)| *kind);
    }
    if args.media_column.is_some() {
        config.columns.media.clone_from(&args.media_column);
    }
    if args.caption_column.is_some() {
        config.columns.caption.clone_from(&args.caption_column);
    }
    if args.no_cut {
        config.scenes.cut = false;
    }
    if args.max_seconds.is_some() {
        // Whole clips cannot be split, so longer ones are left out.
        if config.scenes.cut {
            config.scenes.max_seconds = args.max_seconds;
        } else {
            config.filters.max_seconds = args.max_seconds;
        }
    }
    if let Some(seconds) = args.min_seconds {
        config.scenes.min_seconds = seconds;
        config.filters.min_seconds = seconds;
    }
    if let Some(pixels) = args.min_side {
        config.filters.min_side = pixels;
    }
    if args.near.is_some() {
        config.duplicates.near = args.near;
    }
    if args.uri {
        config.media = MediaPlace::Uri;
    }
    if args.no_audio {
        config.audio = false;
    }
    if args.uncaptioned {
        config.captions.required = false;
    }
    Ok(config)
}
