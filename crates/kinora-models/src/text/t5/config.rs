//! Sizes of a T5 encoder.

use crate::text::EncoderConfigError;
use kinora_mesh::{Axis, Extent};
use kinora_nn::Activation;
use serde::{Deserialize, Deserializer};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// Symbols of the vocabulary.
    pub vocabulary: usize,
    /// Model width.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// The activation of the feed-forward network.
    pub activation: Activation,
    /// Whether hidden units are multiplied by gates.
    pub gated: bool,
    /// Buckets of relative positions.
    pub buckets: usize,
    /// The distance from which on all share a bucket.
    pub furthest: usize,
    /// Whether all layers share one table of relative positions; umT5's have one each.
    pub shared_positions: bool,
    /// Added to mean squares.
    pub epsilon: f64,
}

/// The keys of Hugging Face's `config.json`, with the defaults of its `T5Config`.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    feed_forward_proj: String,
    layer_norm_epsilon: f64,
}

/// A file: these, and the class of the model.
#[derive(Deserialize)]
struct File {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    #[serde(flatten)]
    own: HuggingFace,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self {
            vocab_size: 32_128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            feed_forward_proj: "relu".into(),
            layer_norm_epsilon: 1e-6,
        }
    }
}

impl T5Config {
    /// umT5-XXL, which Wan reads (wan/modules/t5.py, `umt5_xxl`).
    pub fn umt5_xxl() -> Self {
        Self {
            vocabulary: 256_384,
            shared_positions: false,
            ..Self::t5_xxl()
        }
    }

    /// T5 1.1 XXL, which Open-Sora, LTX-Video and CogVideoX read.
    pub fn t5_xxl() -> Self {
        Self {
            vocabulary: 32_128,
            width: 4096,
            layers: 24,
            heads: 64,
            head_dim: 64,
            ffn: 10_240,
            activation: Activation::GeluTanh,
            gated: true,
            buckets: 32,
            furthest: 128,
            shared_positions: true,
            epsilon: 1e-6,
        }
    }

    /// From Hugging Face's `config.json`, parsed. Whether layers share their positions follows
    /// from `model_type` or `architectures`: umT5's do not.
    ///
    /// # Errors
    /// What cannot be read, and the first size that does not fit.
    pub fn from_hugging_face<'de>(
        config: impl Deserializer<'de>,
    ) -> Result<Self, EncoderConfigError> {
        let file = File::deserialize(config).map_err(EncoderConfigError::unread("T5"))?;
        let own = file.own;
        let mut classes = file.architectures.iter().flatten();
        let umt5 = file.model_type.as_deref() == Some("umt5")
            || classes.any(|name| name.starts_with("UMT5"));
        let (gated, name) = match own.feed_forward_proj.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, own.feed_forward_proj.as_str()),
        };
        // The gated network of T5 1.1 was trained with the approximation (transformers,
        // configuration_t5.py).
        let name = if gated && name == "gelu" {
            "gelu_new"
        } else {
            name
        };
        let config = Self {
            vocabulary: own.vocab_size,
            width: own.d_model,
            layers: own.num_layers,
            heads: own.num_heads,
            head_dim: own.d_kv,
            ffn: own.d_ff,
            activation: EncoderConfigError::activation("feed_forward_proj", name)?,
            gated,
            buckets: own.relative_attention_num_buckets,
            furthest: own.relative_attention_max_distance,
            shared_positions: !umt5,
            epsilon: own.layer_norm_epsilon,
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first that does not fit, with what would.
    pub fn check(&self) -> Result<(), EncoderConfigError> {
        EncoderConfigError::sizes(&[
            ("vocab_size", self.vocabulary),
            ("d_model", self.width),
            ("num_layers", self.layers),
            ("num_heads", self.heads),
            ("d_kv", self.head_dim),
            ("d_ff", self.ffn),
            ("relative_attention_num_buckets", self.buckets),
            ("relative_attention_max_distance", self.furthest),
        ])?;
        EncoderConfigError::multiple(
            ("relative_attention_num_buckets", self.buckets),
            ("both sides, near and far", 4),
        )?;
        if self.furthest <= self.buckets / 4 {
            return Err(EncoderConfigError::Size {
                key: "relative_attention_max_distance",
                size: self.furthest,
            });
        }
        EncoderConfigError::epsilon(self.epsilon)
    }

    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        let heads = Axis::Heads.of(self.heads * self.head_dim).by(self.head_dim);
        [("num_heads", heads)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<T5Config, EncoderConfigError> {
        T5Config::from_hugging_face(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn published_configurations_are_read() {
        let umt5 = r#"{"architectures": ["UMT5EncoderModel"], "d_ff": 10240, "d_kv": 64,
            "d_model": 4096, "feed_forward_proj": "gated-gelu", "num_heads": 64, "num_layers": 24,
            "model_type": "umt5", "vocab_size": 256384, "is_gated_act": true}"#;
        assert_eq!(read(umt5).unwrap(), T5Config::umt5_xxl());
        let small = r#"{"model_type": "t5", "num_layers": 12, "d_model": 768, "d_ff": 3072}"#;
        let small = read(small).unwrap();
        assert!(small.shared_positions && !small.gated && small.activation == Activation::Relu);
        let ul2 = read(r#"{"feed_forward_proj": "gated-silu"}"#).unwrap();
        assert!(ul2.gated && ul2.activation == Activation::Silu);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (json, part) in [
            ("{", "config.json"),
            (r#"{"num_heads": 0}"#, "num_heads = 0"),
            (r#"{"feed_forward_proj": "gated-maxout"}"#, "maxout"),
            (r#"{"relative_attention_num_buckets": 30}"#, "30"),
            (
                r#"{"relative_attention_max_distance": 8}"#,
                "max_distance = 8",
            ),
            (r#"{"layer_norm_epsilon": -1.0}"#, "-1"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("\n  help: "),
                "{error}"
            );
        }
    }
}
