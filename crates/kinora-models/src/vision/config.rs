//! Sizes of a CLIP image encoder.

use crate::text::EncoderConfigError;
use kinora_mesh::{Axis, Extent};
use kinora_nn::Activation;
use serde::{Deserialize, Deserializer};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// The sides of an image, in pixels.
    pub image: usize,
    /// The sides of a patch, in pixels.
    pub patch: usize,
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
    /// The width of the space shared with texts, if images are projected there.
    pub projection: Option<usize>,
    /// Added to variances.
    pub epsilon: f64,
}

/// The keys of Hugging Face's `config.json`, with the defaults of its `CLIPVisionConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

/// A file: of such an encoder, or of a model that has one.
#[derive(Deserialize)]
struct File {
    architectures: Option<Vec<String>>,
    vision_config: Option<HuggingFace>,
    #[serde(flatten)]
    own: HuggingFace,
}

impl Default for HuggingFace {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// OpenCLIP's ViT-H/14, which Wan's image-to-video models read (wan/modules/clip.py,
    /// `clip_xlm_roberta_vit_h_14`).
    pub fn vit_h_14() -> Self {
        Self {
            image: 224,
            patch: 14,
            width: 1280,
            layers: 32,
            heads: 16,
            ffn: 5120,
            activation: Activation::Gelu,
            projection: Some(1024),
            epsilon: 1e-5,
        }
    }

    /// From Hugging Face's `config.json`, parsed, of an image encoder or of a whole CLIP model.
    /// Images are projected if `architectures` names a class that does.
    ///
    /// # Errors
    /// What cannot be read, and the first size that does not fit.
    pub fn from_hugging_face<'de>(
        config: impl Deserializer<'de>,
    ) -> Result<Self, EncoderConfigError> {
        let file = File::deserialize(config).map_err(EncoderConfigError::unread("CLIP vision"))?;
        let own = file.vision_config.unwrap_or(file.own);
        let projects = |name: &String| name == "CLIPModel" || name.ends_with("WithProjection");
        let mut classes = file.architectures.iter().flatten();
        let config = Self {
            image: own.image_size,
            patch: own.patch_size,
            width: own.hidden_size,
            layers: own.num_hidden_layers,
            heads: own.num_attention_heads,
            ffn: own.intermediate_size,
            activation: EncoderConfigError::activation("hidden_act", &own.hidden_act)?,
            projection: classes.any(projects).then_some(own.projection_dim),
            epsilon: own.layer_norm_eps,
        };
        config.check()?;
        Ok(config)
    }

    /// Tokens of an image: its patches, and one for the whole.
    pub fn tokens(&self) -> usize {
        (self.image / self.patch).pow(2) + 1
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first that does not fit, with what would.
    pub fn check(&self) -> Result<(), EncoderConfigError> {
        EncoderConfigError::sizes(&[
            ("image_size", self.image),
            ("patch_size", self.patch),
            ("hidden_size", self.width),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("intermediate_size", self.ffn),
            ("projection_dim", self.projection.unwrap_or(1)),
        ])?;
        let image = ("image_size", self.image);
        EncoderConfigError::multiple(image, ("patch_size", self.patch))?;
        let width = ("hidden_size", self.width);
        EncoderConfigError::multiple(width, ("num_attention_heads", self.heads))?;
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

    fn read(json: &str) -> Result<ClipVisionConfig, EncoderConfigError> {
        ClipVisionConfig::from_hugging_face(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn published_configurations_are_read() {
        let huge = r#"{"architectures": ["CLIPVisionModelWithProjection"], "hidden_act": "gelu",
            "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16,
            "num_hidden_layers": 32, "patch_size": 14, "projection_dim": 1024}"#;
        let config = read(huge).unwrap();
        assert_eq!(config, ClipVisionConfig::vit_h_14());
        assert_eq!(config.tokens(), 257);
        let whole = r#"{"architectures": ["CLIPModel"], "vision_config": {"patch_size": 10}}"#;
        let error = read(whole).unwrap_err();
        let want = "image_size = 224 is not a multiple of patch_size = 10";
        assert!(error.to_string().contains(want), "{error}");
    }
}
