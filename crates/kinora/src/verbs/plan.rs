//! `kinora plan`: the mesh, how each weight is cut, and the bytes of each rank.

use super::json;
use crate::cli::Plan;
use crate::config::read;
use crate::device::host;
use crate::failure::Outcome;
use burn::tensor::DType;
use kinora_mesh::{Axis, Layout, MeshAxis};
use kinora_models::TextToVideo;
use kinora_models::movie_gen::MovieGen;
use kinora_shard::{Cx, ParamSpec, Sharding};
use serde::Serialize;

// Weights, their average, gradients and AdamW's two moments.
const COPIES: [&str; 5] = [
    "weights",
    "average",
    "gradients",
    "first moments",
    "second moments",
];

#[derive(Serialize)]
struct Report {
    ranks: usize,
    mesh: String,
    plan: Vec<(String, String)>,
    parameters: usize,
    dtype: String,
    data_groups: usize,
    weights: Vec<Weight>,
    ranks_bytes: Vec<RankBytes>,
}

#[derive(Serialize)]
struct Weight {
    path: String,
    shape: Vec<usize>,
    cut: Vec<String>,
    local: Vec<usize>,
    gradient_summed_over: Vec<String>,
}

#[derive(Serialize)]
struct RankBytes {
    rank: usize,
    elements: usize,
    bytes_by_kind: Vec<(&'static str, usize)>,
    bytes: usize,
}

pub(crate) fn plan(args: &Plan) -> Outcome {
    let config = read(&args.config.config, &args.config.changes.set)?;
    let video = config.video()?;
    let dtype: DType = config.run.dtype.precision().stored;
    let (mesh, plan) = (config.mesh, &config.plan);
    let device = host();
    let on = |rank| {
        let cx = Cx::dry(&device, dtype, &Sharding::pretend(mesh, plan.clone(), rank));
        match &config.text {
            Some(text) => drop(TextToVideo::new(&cx, &video, text)),
            None => drop(MovieGen::new(&cx, &video)),
        }
        cx.table().specs().to_vec()
    };
    let specs = on(0);
    let width = dtype.size();
    let ranks_bytes = (0..mesh.ranks()).map(|rank| {
        let elements = on(rank).iter().map(ParamSpec::local_len).sum::<usize>();
        let bytes_by_kind: Vec<_> = COPIES
            .iter()
            .map(|&kind| (kind, elements * width))
            .collect();
        RankBytes {
            rank,
            elements,
            bytes_by_kind,
            bytes: COPIES.len() * elements * width,
        }
    });
    let names = |axes: &[MeshAxis]| axes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let cuts = |layout: &Layout| {
        layout
            .axes
            .iter()
            .map(|axes| names(axes).join(" x "))
            .collect::<Vec<_>>()
    };
    let report = Report {
        ranks: mesh.ranks(),
        mesh: mesh.to_string(),
        plan: [Axis::Batch, Axis::Seq, Axis::Heads, Axis::Hidden]
            .map(|axis| (axis.to_string(), names(&plan.cuts(axis, &mesh)).join(" x ")))
            .to_vec(),
        parameters: specs
            .iter()
            .map(|spec| spec.layout.shape.iter().product::<usize>())
            .sum(),
        dtype: format!("{dtype:?}").to_lowercase(),
        data_groups: mesh.span(&plan.cuts(Axis::Batch, &mesh)),
        ranks_bytes: ranks_bytes.collect(),
        weights: specs
            .iter()
            .map(|spec| Weight {
                path: spec.path.clone(),
                shape: spec.layout.shape.clone(),
                cut: cuts(&spec.layout),
                local: spec.layout.local_shape(),
                gradient_summed_over: names(&spec.partial),
            })
            .collect(),
    };
    if args.json {
        json(&report);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report) {
    say!(
        "mesh: {} ({} ranks, {} data groups)",
        report.mesh,
        report.ranks,
        report.data_groups
    );
    for (axis, cut) in &report.plan {
        let cut = if cut.is_empty() {
            "whole on every rank"
        } else {
            cut
        };
        say!("  {axis:8} {cut}");
    }
    say!(
        "\n{} parameters in {}\n",
        count(report.parameters),
        report.dtype
    );
    say!(
        "{:44} {:>16} {:>16}  {:12} gradient summed over",
        "weight",
        "whole",
        "rank 0",
        "cut on"
    );
    for (shown, times) in fold(&report.weights) {
        let shape = |shape: &[usize]| {
            shape
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("x")
        };
        let cut: Vec<&str> = shown
            .cut
            .iter()
            .map(|cut| if cut.is_empty() { "-" } else { cut.as_str() })
            .collect();
        let cut = if cut.iter().all(|cut| *cut == "-") {
            "-".into()
        } else {
            cut.join(",")
        };
        let path = if times > 1 {
            format!("{} (x{times})", shown.path)
        } else {
            shown.path.clone()
        };
        let sums = shown.gradient_summed_over.join(", ");
        say!(
            "{path:44} {:>16} {:>16}  {cut:12} {sums}",
            shape(&shown.shape),
            shape(&shown.local)
        );
    }
    say!("\nbytes per rank, without activations:");
    for rank in &report.ranks_bytes {
        let kinds: Vec<String> = rank
            .bytes_by_kind
            .iter()
            .map(|(kind, bytes)| format!("{kind} {}", size(*bytes)))
            .collect();
        say!(
            "  rank {:3}: {} ({})",
            rank.rank,
            size(rank.bytes),
            kinds.join(", ")
        );
    }
}

/// Layers that repeat are shown once, with a star for their number.
fn fold(weights: &[Weight]) -> Vec<(Weight, usize)> {
    let mut folded: Vec<(Weight, usize)> = vec![];
    for weight in weights {
        let parts: Vec<&str> = weight
            .path
            .split('.')
            .map(|part| {
                if part.parse::<usize>().is_ok() {
                    "*"
                } else {
                    part
                }
            })
            .collect();
        let path = parts.join(".");
        match folded
            .iter_mut()
            .find(|(shown, _)| shown.path == path && shown.shape == weight.shape)
        {
            Some((_, times)) => *times += 1,
            None => folded.push((
                Weight {
                    path,
                    shape: weight.shape.clone(),
                    cut: weight.cut.clone(),
                    local: weight.local.clone(),
                    gradient_summed_over: weight.gradient_summed_over.clone(),
                },
                1,
            )),
        }
    }
    folded
}

fn count(n: usize) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} billion", n / 1e9),
        n if n >= 1e6 => format!("{:.2} million", n / 1e6),
        _ => n.to_string(),
    }
}

fn size(bytes: usize) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}
