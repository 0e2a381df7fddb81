//! What the parameters are called in published files.

use super::ClipTextConfig;
use kinora_ckpt::Foreign;

/// Hugging Face's names (transformers, modeling_clip.py).
///
/// # Panics
/// If `path` is no parameter of the encoder.
pub fn hugging_face(config: &ClipTextConfig, path: &str, shape: &[usize]) -> Foreign {
    let same = |name: &str| Foreign::same(format!("text_model.{name}"), shape);
    match path {
        "tokens.weight" => return same("embeddings.token_embedding.weight"),
        "positions" => return same("embeddings.position_embedding.weight"),
        "norm.weight" => return same("final_layer_norm.weight"),
        "norm.bias" => return same("final_layer_norm.bias"),
        "projection.weight" => return Foreign::linear("text_projection.weight", shape),
        _ => {}
    }
    let (layer, field) = match path.split_once('.') {
        Some(("last", field)) => ((config.layers - 1).to_string(), field),
        Some(("layers", rest)) => {
            let (layer, field) = rest.split_once('.').unwrap_or((rest, ""));
            (layer.to_owned(), field)
        }
        _ => panic!("{path} is no parameter of CLIP"),
    };
    let (part, kind) = field.rsplit_once('.').unwrap_or((field, ""));
    let part = match part {
        "norm1" => "layer_norm1",
        "norm2" => "layer_norm2",
        "attn.query" => "self_attn.q_proj",
        "attn.key" => "self_attn.k_proj",
        "attn.value" => "self_attn.v_proj",
        "attn.out" => "self_attn.out_proj",
        "mlp.up" => "mlp.fc1",
        "mlp.down" => "mlp.fc2",
        _ => panic!("{path} is no parameter of CLIP"),
    };
    let name = format!("text_model.encoder.layers.{layer}.{part}.{kind}");
    match shape.len() {
        2 => Foreign::linear(name, shape),
        _ => Foreign::same(name, shape),
    }
}

/// Names in Hugging Face's files that the text encoder has no use for: counted positions, the image
/// encoder of whole models, and a projection that is not asked for.
pub fn hugging_face_unused(config: &ClipTextConfig, name: &str) -> bool {
    name == "text_model.embeddings.position_ids"
        || (name == "text_projection.weight" && config.projection.is_none())
        || name == "logit_scale"
        || name == "visual_projection.weight"
        || name.starts_with("vision_model.")
}
