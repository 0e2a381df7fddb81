//! `kinora plan`: what a mesh and a plan cost, before anything is started.

mod job;
mod show;
mod weights;

use super::json;
use crate::cli::Plan as Args;
use crate::config::read;
use crate::failure::{Failure, OrInput, Outcome};
use job::{Asked, scaled};
use kinora_mesh::cost::{Arrangement, Estimate, Hardware, Job, estimate, search_jobs};
use kinora_mesh::{Axis, Mesh, MeshAxis};
use serde::Serialize;
use std::fs;
use std::path::Path;
use weights::Weights;

// Configurations of more ranks than this are taken to be meant for GPUs.
const SMALL: usize = 8;
// Plans that a search shows.
const SHOWN: usize = 10;

#[derive(Serialize)]
struct Report {
    ranks: usize,
    mesh: String,
    plan: Vec<(String, String)>,
    data_groups: usize,
    parameters: usize,
    dtype: String,
    hardware: String,
    assumed: Vec<String>,
    #[serde(flatten)]
    found: Found,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    /// What each rank holds.
    Weights(Weights),
    /// What the configured plan costs rank 0, which has the longest parts.
    Estimate { job: Job, estimate: Box<Estimate> },
    /// The fastest plans that fit, of so many.
    Search { fit: usize, best: Vec<Ranked> },
}

#[derive(Serialize)]
struct Ranked {
    arrangement: Arrangement,
    estimate: Estimate,
}

pub(crate) fn plan(args: &Args) -> Outcome {
    let mut config = read(&args.config.config, &args.config.changes.set)?;
    let own = config.mesh;
    if args.generate && args.gpus.is_some() && !args.search {
        return Err(Failure::input(
            "--gpus makes more data groups, but one sample needs only one\n  help: add --search, or set mesh.cp or mesh.cfg",
        ));
    }
    if !args.generate {
        config.plan.check_training(&own).or_input()?;
    }
    let ranks = args.gpus.unwrap_or_else(|| own.ranks());
    match (args.gpus, args.search) {
        (Some(0), true) => {
            return Err(Failure::input("--gpus 0\n  help: use at least 1"));
        }
        (Some(ranks), false) => config.mesh = scaled(own, &config.plan, ranks)?,
        // The search finds a mesh; the batch is that of as many data groups as the configured one makes.
        (Some(ranks), true) => {
            let groups = (ranks / (own.cp * own.tp)).max(1);
            config.mesh = Mesh {
                replicate: groups,
                fsdp: 1,
                ..own
            };
        }
        (None, _) => {}
    }
    let arrangement = Arrangement {
        mesh: config.mesh,
        plan: config.plan.clone(),
    };
    let groups = if args.search {
        config.mesh.replicate * config.mesh.fsdp
    } else {
        arrangement.span(Axis::Batch)
    };
    let asked = Asked::new(&config, groups, args.generate)?;
    let hardware = hardware(args, ranks)?;
    let parameters = asked.anatomy.elements();
    let dtype = {
        let precision = config.run.dtype.precision();
        let [stored, computed] =
            [precision.stored, precision.computed].map(|dtype| format!("{dtype:?}").to_lowercase());
        if stored == computed {
            stored
        } else {
            format!("{stored}, computed in {computed}")
        }
    };
    let mut assumed = asked.assumed.clone();
    let found = if args.weights {
        assumed.clear();
        Found::Weights(Weights::of(&config, config.mesh, &config.plan)?)
    } else if args.search {
        let asked = asked.free();
        let all = search_jobs(
            &asked.anatomy,
            &asked.job,
            &hardware,
            ranks,
            |arrangement| asked.on(arrangement).ok(),
        );
        let ranked = |(arrangement, estimate)| Ranked {
            arrangement,
            estimate,
        };
        Found::Search {
            fit: all.len(),
            best: all.into_iter().take(SHOWN).map(ranked).collect(),
        }
    } else {
        let job = asked.on(&arrangement)?;
        let estimate = estimate(&asked.anatomy, &job, &hardware, &arrangement, 0).or_input()?;
        let estimate = Box::new(estimate);
        Found::Estimate { job, estimate }
    };
    let axes = [
        Axis::Batch,
        Axis::Seq,
        Axis::Heads,
        Axis::Hidden,
        Axis::Params,
    ];
    let Arrangement { mesh, plan } = &arrangement;
    let mut cuts: Vec<(String, String)> = axes
        .map(|axis| (axis.to_string(), names(&plan.cuts(axis, mesh))))
        .to_vec();
    if let Some(attention) = plan.context(mesh) {
        cuts.push(("attention".into(), attention.to_string()));
    }
    let report = Report {
        ranks,
        mesh: mesh.to_string(),
        plan: cuts,
        data_groups: groups,
        parameters,
        dtype,
        hardware: hardware.name.clone(),
        assumed,
        found,
    };
    if args.json {
        json(&report);
    } else {
        show::print(&report, &hardware);
    }
    Ok(())
}

/// The device that was asked for, or the usual one for so many ranks.
fn hardware(args: &Args, ranks: usize) -> Outcome<Hardware> {
    let usual = if args.gpus.is_some() || ranks > SMALL {
        "h100-sxm"
    } else {
        "cpu"
    };
    let name = args.hardware.as_deref().unwrap_or(usual);
    let path = Path::new(name);
    if path.extension().is_none() {
        return Hardware::named(name).or_input();
    }
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::input(format!(
            "{name} cannot be read: {error}\n  help: give a file, or one of {}",
            Hardware::names().join(", ")
        ))
    })?;
    Hardware::parse(&text).map_err(|error| Failure::input(format!("{name}: {error}")))
}

fn names(axes: &[MeshAxis]) -> String {
    let names: Vec<String> = axes.iter().map(ToString::to_string).collect();
    names.join(" x ")
}

fn size(bytes: usize) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}
