//! The `[lora]` table: adapters instead of full training.

use crate::failure::{Failure, Outcome};
use burn::tensor::{DType, Device};
use kinora_models::{Video, VideoConfig};
use kinora_shard::{Adapters, Cx, Sharding};
use serde::{Deserialize, Serialize};

/// What is trained beside the frozen transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoraSection {
    /// The inner width of each adapter.
    pub(crate) rank: usize,
    /// What an adapter adds is multiplied by `alpha / rank`; the rank if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    /// The layers that get one, by parts of their paths.
    #[serde(default = "targets")]
    targets: Vec<String>,
    /// What frozen weights are stored in.
    #[serde(default)]
    base: Base,
}

/// The kind of number of frozen weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Base {
    /// bfloat16, as weights are released.
    #[default]
    Bf16,
    /// 32-bit float.
    F32,
    /// 64-bit float, for tests.
    F64,
}

/// All linear layers of the blocks.
fn targets() -> Vec<String> {
    ["attn", "cross", "mlp"].map(String::from).to_vec()
}

impl LoraSection {
    pub(crate) fn adapters(&self) -> Adapters {
        Adapters {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(self.rank as f64),
            targets: self.targets.clone(),
            within: "video",
            frozen: match self.base {
                Base::Bf16 => DType::BF16,
                Base::F32 => DType::F32,
                Base::F64 => DType::F64,
            },
        }
    }

    /// Checks the numbers, and that every target names a layer.
    pub(crate) fn check(&self, video: &VideoConfig) -> Outcome {
        let adapters = self.adapters();
        if self.rank == 0 || self.rank > 4096 {
            return Err(Failure::input(format!(
                "lora.rank = {}\n  help: use 1 to 4096; 16 or 32 is usual",
                self.rank
            )));
        }
        if !(adapters.alpha > 0.0 && adapters.alpha < 1e6) {
            return Err(Failure::input(format!(
                "lora.alpha = {}\n  help: use a positive number, such as the rank",
                adapters.alpha
            )));
        }
        if self.targets.is_empty() {
            return Err(Failure::input(
                "lora.targets is empty, so nothing would be trained\n  help: leave it out, or name layers such as \"attn\"",
            ));
        }
        let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
        let cx = cx.adapting(adapters.clone()).at("video");
        drop(Video::new(&cx, video));
        let table = cx.table();
        for target in &self.targets {
            let alone = Adapters {
                targets: vec![target.clone()],
                ..adapters.clone()
            };
            let layers = table
                .specs()
                .iter()
                .filter_map(|spec| spec.path.strip_suffix(".lora_up"));
            if layers.into_iter().all(|path| alone.target(path).is_none()) {
                return Err(Failure::input(format!(
                    "lora.targets names \"{target}\", and no layer of the model has it in its path\n  help: `kinora plan CONFIG --weights` shows the paths; \"attn\" and \"mlp\" are in every model"
                )));
            }
        }
        Ok(())
    }
}
