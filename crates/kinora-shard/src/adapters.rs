//! What is trained beside frozen weights (LoRA, Hu et al. 2021).

use burn::tensor::DType;

/// Low-rank adapters: beside each linear layer that is a target, `scale (x down) up` is added to its
/// output, with `down` of `[from, rank]` and `up` of `[rank, to]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// The inner width.
    pub rank: usize,
    /// The adapter's output is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The layers: parts of their paths. `attn` is every layer under a field of this name, `attn.query`
    /// those of queries; `*` stands for any one name.
    pub targets: Vec<String>,
    /// What frozen weights are stored in.
    pub frozen: DType,
}

impl Adapters {
    /// What the adapter's output is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// The first target that a layer's path holds.
    pub fn target(&self, path: &str) -> Option<&str> {
        let names: Vec<&str> = path.split('.').collect();
        let holds = |target: &&String| {
            let target: Vec<&str> = target.split('.').collect();
            let fits = |part: &[&str]| {
                let mut pairs = part.iter().zip(&target);
                pairs.all(|(name, wanted)| *wanted == "*" || name == wanted)
            };
            names.windows(target.len()).any(fits)
        };
        self.targets.iter().find(holds).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parts_of_paths() {
        let adapters = |target: &str| Adapters {
            rank: 4,
            alpha: 8.0,
            targets: vec!["nothing".into(), target.into()],
            frozen: DType::BF16,
        };
        for (target, hits) in [
            ("attn", true),
            ("attn.query", true),
            ("blocks.3", true),
            ("blocks.*.attn", true),
            ("query", true),
            ("att", false),
            ("attn.key", false),
            ("blocks.attn", false),
            ("video.blocks.3.attn.query.more", false),
        ] {
            let adapters = adapters(target);
            let found = adapters.target("video.blocks.3.attn.query");
            assert_eq!(found, hits.then_some(target), "{target}");
        }
        assert_eq!(adapters("x").scale(), 2.0);
    }
}
