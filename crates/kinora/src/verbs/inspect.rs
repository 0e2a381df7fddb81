//! `kinora inspect`: what a run has done.

use super::json;
use crate::cli::Inspect;
use crate::config::read_run;
use crate::failure::{OrRun, Outcome};
use kinora_ckpt::{Checkpoint, TensorSource, latest};
use kinora_train::checkpoints;
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

#[derive(Serialize)]
struct Report {
    run: String,
    mesh: String,
    steps_done: u64,
    steps_planned: Option<u64>,
    checkpoint: Option<Newest>,
    first_losses: Option<f64>,
    last_losses: Option<f64>,
    samples_per_second: Option<f64>,
    skipped_clips: u64,
    previews: Vec<String>,
}

#[derive(Serialize)]
struct Newest {
    path: String,
    step: u64,
    tensors: usize,
    meta: Value,
}

pub(crate) fn inspect(args: &Inspect) -> Outcome {
    let config = read_run(&args.run, &[])?;
    let checkpoint = match latest(&checkpoints(&args.run))? {
        Some(path) => {
            let checkpoint = Checkpoint::open(&path)?;
            checkpoint.verify()?;
            Some(Newest {
                path: path.display().to_string(),
                step: checkpoint.step(),
                tensors: checkpoint.names().len(),
                meta: checkpoint.meta().clone(),
            })
        }
        None => None,
    };
    let rows: Vec<Value> = match fs::read_to_string(args.run.join("metrics.jsonl")) {
        Ok(text) => text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect(),
        Err(_) => vec![],
    };
    let mean = |rows: &[Value], key: &str| {
        let values: Vec<f64> = rows.iter().filter_map(|row| row[key].as_f64()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let some = rows.len().min(100);
    let mut previews: Vec<PathBuf> = match fs::read_dir(args.run.join("previews")) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .or_run()?,
        Err(_) => vec![],
    };
    previews.sort();
    let last = rows.last();
    let report = Report {
        run: args.run.display().to_string(),
        mesh: config.mesh.to_string(),
        steps_done: last.and_then(|row| row["step"].as_u64()).unwrap_or(0),
        steps_planned: config.train.as_ref().map(|train| train.steps),
        checkpoint,
        first_losses: mean(&rows[..some], "loss"),
        last_losses: mean(&rows[rows.len() - some..], "loss"),
        samples_per_second: mean(&rows[rows.len() - some..], "samples_per_second"),
        skipped_clips: last.and_then(|row| row["skipped"].as_u64()).unwrap_or(0),
        previews: previews
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
    };
    if args.json {
        json(&report);
        return Ok(());
    }
    say!("{} on {}", report.run, report.mesh);
    let planned = report
        .steps_planned
        .map_or(String::new(), |steps| format!(" of {steps}"));
    say!("steps: {}{planned}", report.steps_done);
    match &report.checkpoint {
        Some(newest) => say!(
            "checkpoint: {} (step {}, {} tensors, checksums right)",
            newest.path,
            newest.step,
            newest.tensors
        ),
        None => say!("checkpoint: none yet"),
    }
    if let (Some(first), Some(last)) = (report.first_losses, report.last_losses) {
        say!("loss: {first:.4} over the first {some} steps, {last:.4} over the last");
    }
    if let Some(rate) = report.samples_per_second {
        say!("rate: {rate:.1} samples/s over the last {some} steps");
    }
    say!("skipped clips: {}", report.skipped_clips);
    if let Some(newest) = report.previews.last() {
        say!(
            "previews: {} files, the newest {}",
            report.previews.len(),
            newest
        );
    }
    Ok(())
}
