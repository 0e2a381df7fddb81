//! How each weight is cut, over which ranks its gradient is summed, and the bytes of each rank.

use super::{names, size};
use crate::config::RunConfig;
use crate::device::host;
use crate::failure::Outcome;
use burn::tensor::DType;
use kinora_mesh::{Layout, Mesh, Plan};
use kinora_models::TextToVideo;
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

/// What each rank holds.
#[derive(Serialize)]
pub(super) struct Weights {
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

impl Weights {
    /// Looked at on every rank of the mesh; nothing is allocated.
    pub(super) fn of(config: &RunConfig, mesh: Mesh, plan: &Plan) -> Outcome<Self> {
        let video = config.video()?;
        let dtype: DType = config.run.dtype.precision().stored;
        let device = host();
        let on = |rank| {
            let cx = Cx::dry(&device, dtype, &Sharding::pretend(mesh, plan.clone(), rank));
            let cx = match &config.lora {
                Some(lora) => cx.adapting(lora.adapters()),
                None => cx,
            };
            drop(TextToVideo::new(&cx, &video, config.text.as_ref()));
            cx.table().specs().to_vec()
        };
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
        let cuts = |layout: &Layout| layout.axes.iter().map(|axes| names(axes)).collect();
        let weights = on(0).into_iter().map(|spec| Weight {
            cut: cuts(&spec.layout),
            local: spec.layout.local_shape(),
            shape: spec.layout.shape,
            path: spec.path,
            gradient_summed_over: spec.partial.iter().map(ToString::to_string).collect(),
        });
        Ok(Self {
            weights: weights.collect(),
            ranks_bytes: ranks_bytes.collect(),
        })
    }

    pub(super) fn print(&self) {
        say!(
            "{:44} {:>16} {:>16}  {:12} gradient summed over",
            "weight",
            "whole",
            "rank 0",
            "cut on"
        );
        for (shown, times) in fold(&self.weights) {
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
        for rank in &self.ranks_bytes {
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
