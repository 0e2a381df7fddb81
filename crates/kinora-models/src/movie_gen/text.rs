//! The text that the transformer reads: several encoders' embeddings, each projected and normalised,
//! then concatenated (paper, section 3.1.4).

use super::MovieGenConfig;
use burn::module::Module;
use burn::tensor::{Bool, Tensor};
use kinora_mesh::Axis;
use kinora_nn::{LayerNorm, Linear, LinearConfig, TextEntry};
use kinora_shard::Cx;

/// What one text encoder made of the prompts.
#[derive(Clone, Debug)]
pub struct TextTokens {
    /// `[B, L, width]`.
    pub embedding: Tensor<3>,
    /// `[B, L]`, false for padding.
    pub mask: Tensor<2, Bool>,
}

/// All encoders' tokens, at the model's width.
#[derive(Clone, Debug)]
pub struct Text {
    /// `[B, L, D]`.
    pub tokens: Tensor<3>,
    /// `[B, L]`, false for padding.
    pub mask: Tensor<2, Bool>,
}

/// One encoder's projection.
#[derive(Module, Debug)]
struct Projection {
    linear: Linear,
    norm: LayerNorm,
}

/// The projections of all encoders.
#[derive(Module, Debug)]
pub struct Texts {
    projections: Vec<Projection>,
    entry: TextEntry,
}

impl Texts {
    /// One projection for each text of the config.
    pub fn new(cx: &Cx, config: &MovieGenConfig) -> Self {
        let cx = &cx.on(Axis::Text);
        let dim = Axis::Embed.of(config.dim);
        let projections = config.texts.iter().enumerate().map(|(i, text)| {
            let cx = cx.at("projections").at(i);
            let width = Axis::Channel.of(text.width);
            Projection {
                linear: LinearConfig::new(width, dim).init(&cx.at("linear")),
                norm: LayerNorm::new(&cx.at("norm"), dim),
            }
        });
        Self {
            projections: projections.collect(),
            entry: TextEntry::new(cx),
        }
    }

    /// The encoders' tokens, in the order of the config, to one sequence.
    pub fn forward(&self, texts: Vec<TextTokens>) -> Text {
        assert_eq!(
            texts.len(),
            self.projections.len(),
            "one text for each encoder of the config"
        );
        let (tokens, masks) = texts
            .into_iter()
            .zip(&self.projections)
            .map(|(text, p)| (p.norm.forward(p.linear.forward(text.embedding)), text.mask))
            .unzip();
        Text {
            tokens: self.entry.forward(Tensor::cat(tokens, 1)),
            mask: Tensor::cat(masks, 1),
        }
    }
}
