//! Sizes of a CLIP text encoder.

use crate::text::EncoderConfigError;
use kinora_mesh::{Axis, Extent};
use kinora_nn::Activation;
use serde::{Deserialize, Deserializer};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Symbols of the vocabulary.
    pub vocabulary: usize,
    /// The longest text, in tokens.
    pub context: usize,
    /// Model width.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the feed-forward network.
    pub ffn: usize,
    /// The activation: OpenAI's models have the quick GELU, OpenCLIP's the exact one.
    pub activation: Activation,
    /// The width of the space shared with images, if texts are projected there.
    pub projection: Option<usize>,
    /// Which token stands for the text.
    pub end: ClipEnd,
    /// Added to variances.
    pub epsilon: f64,
}

/// Which token stands for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipEnd {
    /// The first of this number.
    First(u32),
    /// The one with the highest number, as in OpenAI's own code: their end mark has it.
    Highest,
}

/// The keys of Hugging Face's `config.json`, with the defaults of its `CLIPTextConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    eos_token_id: u32,
}

/// A file: of such an encoder, or of a model that has one.
#[derive(Deserialize)]
struct File {
    architectures: Option<Vec<String>>,
    text_config: Option<HuggingFace>,
    #[serde(flatten)]
    own: HuggingFace,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

impl ClipTextConfig {
    /// OpenAI's ViT-L/14, whose pooled output HunyuanVideo reads.
    pub fn clip_l() -> Self {
        Self {
            vocabulary: 49_408,
            context: 77,
            width: 768,
            layers: 12,
            heads: 12,
            ffn: 3072,
            activation: Activation::QuickGelu,
            projection: None,
            end: ClipEnd::First(49_407),
            epsilon: 1e-5,
        }
    }

    /// From Hugging Face's `config.json`, parsed, of a text encoder or of a whole CLIP model. Texts
    /// are projected if `architectures` names a class that does.
    ///
    /// # Errors
    /// What cannot be read, and the first size that does not fit.
    pub fn from_hugging_face<'de>(
        config: impl Deserializer<'de>,
    ) -> Result<Self, EncoderConfigError> {
        let file = File::deserialize(config).map_err(EncoderConfigError::unread("CLIP text"))?;
        let own = file.text_config.unwrap_or(file.own);
        let projects = |name: &String| name == "CLIPModel" || name.ends_with("WithProjection");
        let mut classes = file.architectures.iter().flatten();
        let config = Self {
            vocabulary: own.vocab_size,
            context: own.max_position_embeddings,
            width: own.hidden_size,
            layers: own.num_hidden_layers,
            heads: own.num_attention_heads,
            ffn: own.intermediate_size,
            activation: EncoderConfigError::activation("hidden_act", &own.hidden_act)?,
            projection: classes.any(projects).then_some(own.projection_dim),
            // Early files give a 2 that no text ends with (transformers, modeling_clip.py).
            end: match own.eos_token_id {
                2 => ClipEnd::Highest,
                id => ClipEnd::First(id),
            },
            epsilon: own.layer_norm_eps,
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
            ("max_position_embeddings", self.context),
            ("hidden_size", self.width),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("intermediate_size", self.ffn),
            ("projection_dim", self.projection.unwrap_or(1)),
        ])?;
        EncoderConfigError::multiple(
            ("hidden_size", self.width),
            ("num_attention_heads", self.heads),
        )?;
        EncoderConfigError::epsilon(self.epsilon)
    }

    /// What can only be cut into equal parts, by the name of its setting.
    pub fn extents(&self) -> [(&'static str, Extent); 1] {
        let heads = Axis::Heads.of(self.width).by(self.width / self.heads);
        [("num_attention_heads", heads)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ClipTextConfig, EncoderConfigError> {
        ClipTextConfig::from_hugging_face(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn published_configurations_are_read() {
        // OpenAI's ViT-L/14 as a text model of its own.
        let large = r#"{"architectures": ["CLIPTextModel"], "hidden_size": 768, "eos_token_id": 2,
            "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768,
            "model_type": "clip_text_model", "pad_token_id": 1}"#;
        let config = read(large).unwrap();
        let end = ClipEnd::Highest;
        assert_eq!(
            config,
            ClipTextConfig {
                end,
                ..ClipTextConfig::clip_l()
            }
        );
        let whole = r#"{"architectures": ["CLIPModel"], "projection_dim": 1024, "text_config":
            {"hidden_act": "gelu", "hidden_size": 1024, "num_attention_heads": 16,
            "projection_dim": 1024}}"#;
        let config = read(whole).unwrap();
        assert_eq!(config.activation, Activation::Gelu);
        assert_eq!(config.projection, Some(1024));
        let error = read(r#"{"num_attention_heads": 7}"#);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("512 is not a multiple of num_attention_heads = 7"),
            "{error}"
        );
    }
}
