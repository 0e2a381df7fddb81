//! What the parameters are called in published files.

use super::ClipVisionConfig;
use kinora_ckpt::Foreign;

/// Hugging Face's names (transformers, modeling_clip.py).
///
/// # Panics
/// If `path` is no parameter of the encoder.
pub fn hugging_face(config: &ClipVisionConfig, path: &str, shape: &[usize]) -> Foreign {
    let same = |name: &str| Foreign::same(format!("vision_model.{name}"), shape);
    match path {
        "patch.weight" => {
            return Foreign::linear("vision_model.embeddings.patch_embedding.weight", shape)
                .shaped(&kernel(config));
        }
        "class" => return same("embeddings.class_embedding"),
        "positions" => return same("embeddings.position_embedding.weight"),
        // The misspelling is the files'.
        "norm_in.weight" => return same("pre_layrnorm.weight"),
        "norm_in.bias" => return same("pre_layrnorm.bias"),
        "norm_out.weight" => return same("post_layernorm.weight"),
        "norm_out.bias" => return same("post_layernorm.bias"),
        "projection.weight" => return Foreign::linear("visual_projection.weight", shape),
        _ => {}
    }
    let (layer, part, kind) = in_layer(config, path);
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
    of_layer(
        format!("vision_model.encoder.layers.{layer}.{part}.{kind}"),
        shape,
    )
}

/// Names in Hugging Face's files that the image encoder has no use for: counted positions, the text
/// encoder of whole models, and a projection that is not asked for.
pub fn hugging_face_unused(config: &ClipVisionConfig, name: &str) -> bool {
    name == "vision_model.embeddings.position_ids"
        || (name == "visual_projection.weight" && config.projection.is_none())
        || ["logit_scale", "text_projection.weight"].contains(&name)
        || name.starts_with("text_model.")
}

/// Wan's own names, of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`
/// (wan/modules/clip.py): queries, keys and values are one matrix there.
///
/// # Panics
/// If `path` is no parameter of the encoder.
pub fn wan(config: &ClipVisionConfig, path: &str, shape: &[usize]) -> Foreign {
    let width = config.width;
    let same = |name: &str| Foreign::same(format!("visual.{name}"), shape);
    match path {
        "patch.weight" => {
            return Foreign::linear("visual.patch_embedding.weight", shape).shaped(&kernel(config));
        }
        "class" => return same("cls_embedding").shaped(&[1, 1, width]),
        "positions" => return same("pos_embedding").shaped(&[1, config.tokens(), width]),
        "norm_in.weight" => return same("pre_norm.weight"),
        "norm_in.bias" => return same("pre_norm.bias"),
        "norm_out.weight" => return same("post_norm.weight"),
        "norm_out.bias" => return same("post_norm.bias"),
        // Written as a parameter, not as a linear layer, and so not transposed.
        "projection.weight" => return same("head"),
        _ => {}
    }
    let (layer, part, kind) = in_layer(config, path);
    let (part, fused) = match part {
        "norm1" | "norm2" => (part, None),
        "attn.query" => ("attn.to_qkv", Some(0)),
        "attn.key" => ("attn.to_qkv", Some(width)),
        "attn.value" => ("attn.to_qkv", Some(2 * width)),
        "attn.out" => ("attn.proj", None),
        "mlp.up" => ("mlp.0", None),
        "mlp.down" => ("mlp.2", None),
        _ => panic!("{path} is no parameter of CLIP"),
    };
    let found = of_layer(format!("visual.transformer.{layer}.{part}.{kind}"), shape);
    match fused {
        Some(first) => found.rows(first, 3 * width),
        None => found,
    }
}

/// Names in Wan's file that the image encoder has no use for: the text encoder, and a projection that
/// is not asked for.
pub fn wan_unused(config: &ClipVisionConfig, name: &str) -> bool {
    name == "log_scale"
        || (name == "visual.head" && config.projection.is_none())
        || name.starts_with("textual.")
}

/// The shape of the convolution that is our linear layer of patches.
fn kernel(config: &ClipVisionConfig) -> [usize; 4] {
    [config.width, 3, config.patch, config.patch]
}

/// `layers.3.norm1.weight` as 3, `norm1` and `weight`.
fn in_layer<'a>(config: &ClipVisionConfig, path: &'a str) -> (usize, &'a str, &'a str) {
    let parts = match path.split_once('.') {
        Some(("last", field)) => Some((config.layers - 1, field)),
        Some(("layers", rest)) => rest
            .split_once('.')
            .and_then(|(layer, field)| Some((layer.parse().ok()?, field))),
        _ => None,
    };
    parts
        .and_then(|(layer, field)| {
            let (part, kind) = field.rsplit_once('.')?;
            Some((layer, part, kind))
        })
        .unwrap_or_else(|| panic!("{path} is no parameter of CLIP"))
}

fn of_layer(name: String, shape: &[usize]) -> Foreign {
    match shape.len() {
        2 => Foreign::linear(name, shape),
        _ => Foreign::same(name, shape),
    }
}
