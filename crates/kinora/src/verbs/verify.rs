//! `kinora verify`: the user's plan beside one rank.

use super::{console, json};
use crate::cli::Verify;
use crate::config::{RunConfig, read};
use crate::device::{RankDevices, host};
use crate::failure::{Failure, OrInput, Outcome};
use crate::ranks::Here;
use burn::tensor::DType;
use kinora_comm::HostBuffer;
use kinora_comm::local::{self, World};
use kinora_flow::{Schedule, Solver};
use kinora_generate::SampleConfig;
use kinora_mesh::{Axis, Mesh, Plan};
use kinora_models::TextToVideo;
use kinora_shard::{Cx, DeviceKind, Precision, Sharding};
use kinora_train::{TrainConfig, TrainError};
use kinora_verify::{
    Case, Difference, Record, Shrunk, Tolerance, compare, record, shrink_mesh, shrink_model,
    train_config,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

// What the bar says.
const WORK: &str = "verifying: one rank, all ranks, comparison";
// A rank may compute for long while its peers wait: many threads share few cores.
const PATIENCE: Duration = Duration::from_secs(600);

/// What one rank found.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Finding {
    rank: usize,
    share: (usize, usize),
    batches: Vec<u64>,
    tensors: usize,
    worst: Vec<Compared>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Compared {
    rank: usize,
    what: String,
    relative: f64,
    differs: bool,
}

#[derive(Serialize)]
struct Report {
    mesh: String,
    attention: Option<String>,
    ranks: usize,
    computed_in: String,
    device: DeviceKind,
    beside_cpu: bool,
    tolerance: f64,
    tensors: usize,
    holds: bool,
    worst: Vec<Compared>,
    samples: Option<String>,
}

pub(crate) fn verify(args: &Verify, here: &Here) -> Outcome {
    let mut config = read(&args.config.config, &args.config.changes.set)?;
    if let Some(device) = args.device {
        config.run.device = device;
    }
    let here_only = args.here || args.device.is_some();
    let mesh = if here_only {
        config.mesh
    } else {
        shrink_mesh(config.mesh)
    };
    let plan = config.plan.clone();
    let precision = if here_only {
        config.run.dtype.precision()
    } else {
        DType::F64.into()
    };
    let case = case(&config, &mesh, precision)?;
    let tolerance = match (precision.stored, precision.computed) {
        (_, DType::BF16) => Tolerance::BF16,
        (DType::F64, _) => Tolerance::F64,
        _ if args.device.is_some_and(|device| device != DeviceKind::Flex) => Tolerance::TF32,
        _ => Tolerance::F32,
    };
    let beside_cpu = args.device.is_some();
    let devices = RankDevices::open(&config)?;
    let bar = |lead: bool| console(args.quiet || !lead).progress(3, WORK);
    let (bar, findings) = if here_only {
        let ranks = here.ranks(&config)?;
        let bar = bar(ranks.lead());
        let on_cpu = case.clone();
        let findings = ranks.run(devices, move |sharding, device| {
            let case = Case {
                device,
                ..case.clone()
            };
            // Each process computes the whole by itself; it is small.
            let world = sharding.world();
            let whole = if beside_cpu { &on_cpu } else { &case };
            let whole = world.busy(|| record(whole, &Sharding::single()))?;
            found(&case, &sharding, &whole, tolerance)
        })?;
        let Some(findings) = findings else {
            return Ok(());
        };
        (bar, findings)
    } else {
        let bar = bar(true);
        let whole = one_rank(&case)?;
        bar.advance(1);
        (bar, many_ranks(&case, mesh, &plan, whole, tolerance)?)
    };
    bar.advance(1);
    let mut report = report(&config, mesh, precision, tolerance, findings);
    if here_only {
        report.device = config.run.device;
    }
    report.beside_cpu = beside_cpu;
    bar.finish();
    if args.json {
        json(&report);
    } else {
        print(&report, args.show);
    }
    if report.holds {
        Ok(())
    } else {
        Err(Failure::run("the plan does not compute what one rank does"))
    }
}

/// A small model of the same cut, and how it is trained and sampled.
fn case(config: &RunConfig, mesh: &Mesh, precision: Precision) -> Outcome<Case<TextToVideo>> {
    let Shrunk {
        video,
        text,
        latents,
    } = shrink_model(&config.video()?, config.text.as_ref(), mesh);
    for (name, extent) in video.extents() {
        config.plan.check_even(name, extent, mesh).or_input()?;
    }
    for (name, extent) in text.extents() {
        config.plan.check_even(name, extent, mesh).or_input()?;
    }
    let path = config.train.as_ref().map(|train| (train.path, train.times));
    let (path, times) = path.unwrap_or_default();
    let shares = mesh.span(&config.plan.cuts(Axis::Batch, mesh));
    let guidance = config.sample.as_ref().map_or(3.0, |sample| sample.guidance);
    Ok(Case {
        config: TrainConfig {
            recompute: config
                .train
                .as_ref()
                .map_or_else(Default::default, |train| train.recompute),
            path,
            times,
            ..train_config()
        },
        precision,
        device: host(),
        global: 2 * shares,
        latents,
        // Of bfloat16 steps, only the first starts from the same weights.
        steps: if precision.computed == DType::BF16 {
            1
        } else {
            5
        },
        sample: Some(SampleConfig {
            schedule: Schedule::Linear { steps: 2 },
            solver: Solver::default(),
            guidance,
            negative: String::new(),
            overlap: 1,
        }),
        build: Arc::new(move |cx: &Cx| TextToVideo::new(cx, &video, Some(&text))),
    })
}

fn one_rank(case: &Case<TextToVideo>) -> Outcome<Record> {
    let case = case.clone();
    let world = World {
        deadline: PATIENCE,
        ..World::new(1, 0)
    };
    let mut all = local::run(&world, move |_| record(&case, &Sharding::single()))?;
    Ok(all.remove(0))
}

fn many_ranks(
    case: &Case<TextToVideo>,
    mesh: Mesh,
    plan: &Plan,
    whole: Record,
    tolerance: Tolerance,
) -> Outcome<Vec<Finding>> {
    let (case, plan) = (case.clone(), plan.clone());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let world = World {
        deadline: PATIENCE,
        ..World::new(mesh.ranks(), (cores / mesh.ranks()).max(1))
    };
    let mut all = local::run(&world, move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone())?;
        found(&case, &sharding, &whole, tolerance)
    })?;
    Ok(all.swap_remove(0))
}

/// What all ranks found, on every rank.
fn found(
    case: &Case<TextToVideo>,
    sharding: &Arc<Sharding>,
    whole: &Record,
    tolerance: Tolerance,
) -> Result<Vec<Finding>, TrainError> {
    let got = record(case, sharding)?;
    let rank = sharding.rank();
    let all = compare(whole, rank, &got, tolerance);
    let shown = |d: &Difference| Compared {
        rank,
        what: d.what.clone(),
        relative: d.rms,
        differs: d.exceeds(tolerance),
    };
    let finding = Finding {
        rank,
        share: got.share,
        batches: got.batches,
        tensors: all.len(),
        worst: all.iter().take(50).map(shown).collect(),
    };
    let text = serde_json::to_vec(&finding).expect("a finding of numbers and strings");
    let mut findings = vec![];
    // One after the other: a rank's finding is short.
    for root in 0..sharding.world().size() {
        let mine = if root == rank { text.clone() } else { vec![] };
        let theirs = sharding
            .world()
            .broadcast_from(HostBuffer::U8(mine), root, "finding")?;
        let HostBuffer::U8(theirs) = theirs else {
            unreachable!("a broadcast keeps the element type");
        };
        findings.push(serde_json::from_slice(&theirs).expect("what a rank has written"));
    }
    Ok(findings)
}

fn report(
    config: &RunConfig,
    mesh: Mesh,
    precision: Precision,
    tolerance: Tolerance,
    findings: Vec<Finding>,
) -> Report {
    let samples = samples(&findings);
    let tensors = findings.iter().map(|finding| finding.tensors).sum();
    let mut worst: Vec<Compared> = findings.into_iter().flat_map(|f| f.worst).collect();
    worst.sort_by(|a, b| {
        let score = |c: &Compared| {
            (
                c.differs,
                if c.relative.is_nan() {
                    f64::MAX
                } else {
                    c.relative
                },
            )
        };
        score(b).partial_cmp(&score(a)).expect("no score is NaN")
    });
    let holds = samples.is_none() && !worst.iter().any(|compared| compared.differs);
    Report {
        mesh: mesh.to_string(),
        attention: config.plan.context(&mesh).map(|a| a.to_string()),
        ranks: mesh.ranks(),
        computed_in: format!("{:?}", precision.computed).to_lowercase(),
        device: DeviceKind::Flex,
        beside_cpu: true,
        tolerance: tolerance.rms,
        tensors,
        holds,
        worst,
        samples,
    }
}

/// Ranks that drew what they should not have, in words.
fn samples(findings: &[Finding]) -> Option<String> {
    for a in findings {
        for b in &findings[a.rank + 1..] {
            let (same, group) = (a.batches == b.batches, a.share == b.share);
            if same != group {
                let what = if group {
                    "share a sample, but drew different ones"
                } else {
                    "are of different data groups, but drew the same samples"
                };
                return Some(format!("ranks {} and {} {what}", a.rank, b.rank));
            }
        }
    }
    None
}

fn print(report: &Report, show: usize) {
    let attention = report
        .attention
        .as_ref()
        .map_or(String::new(), |attention| {
            format!(", attention {attention}")
        });
    say!(
        "{} ({} ranks{attention}) on {}, computed in {}, beside one rank{}",
        report.mesh,
        report.ranks,
        report.device,
        report.computed_in,
        if report.beside_cpu { " on the CPU" } else { "" }
    );
    say!(
        "outputs, input gradients, every parameter's gradient, training steps, generated latents: {} tensors",
        report.tensors
    );
    for compared in report.worst.iter().take(show) {
        say!(
            "  {:8.1e}  {}{} (rank {})",
            compared.relative,
            if compared.differs { "DIFFERS " } else { "" },
            compared.what,
            compared.rank
        );
    }
    match &report.samples {
        Some(wrong) => say!("samples: {wrong}"),
        None => say!(
            "samples: the plan gives data groups different ones, and the ranks of a group the same"
        ),
    }
    if report.holds {
        say!(
            "the plan holds: nothing differs by more than {:.0e} relative",
            report.tolerance
        );
    }
}
