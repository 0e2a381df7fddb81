//! What the parameters are called in published files.

use super::T5Config;
use kinora_ckpt::Foreign;

/// Hugging Face's names (transformers, modeling_t5.py and modeling_umt5.py).
///
/// # Panics
/// If `path` is no parameter of the encoder.
pub fn hugging_face(config: &T5Config, path: &str, shape: &[usize]) -> Foreign {
    let Some((layer, field)) = in_layer(path) else {
        return match path {
            "tokens.weight" => Foreign::same("shared.weight", shape),
            "positions.weight" => {
                Foreign::same(format!("encoder.block.0.layer.0.{POSITIONS}"), shape)
            }
            "norm.weight" => Foreign::same("encoder.final_layer_norm.weight", shape),
            _ => panic!("{path} is no parameter of T5"),
        };
    };
    let name = match field {
        "positions.weight" => format!("layer.0.{POSITIONS}"),
        "norm1.weight" => "layer.0.layer_norm.weight".into(),
        "norm2.weight" => "layer.1.layer_norm.weight".into(),
        "attn.query.weight" => "layer.0.SelfAttention.q.weight".into(),
        "attn.key.weight" => "layer.0.SelfAttention.k.weight".into(),
        "attn.value.weight" => "layer.0.SelfAttention.v.weight".into(),
        "attn.out.weight" => "layer.0.SelfAttention.o.weight".into(),
        "mlp.gate.weight" => "layer.1.DenseReluDense.wi_0.weight".into(),
        "mlp.up.weight" if config.gated => "layer.1.DenseReluDense.wi_1.weight".into(),
        "mlp.up.weight" => "layer.1.DenseReluDense.wi.weight".into(),
        "mlp.down.weight" => "layer.1.DenseReluDense.wo.weight".into(),
        _ => panic!("{path} is no parameter of T5"),
    };
    of_layer(format!("encoder.block.{layer}.{name}"), field, shape)
}

/// Names in Hugging Face's files of whole models that an encoder has no use for: the decoder, the head,
/// and the embedding under its second name.
pub fn hugging_face_unused(_: &T5Config, name: &str) -> bool {
    name.starts_with("decoder.")
        || ["encoder.embed_tokens.weight", "lm_head.weight"].contains(&name)
}

/// Wan's own names, of `models_t5_umt5-xxl-enc-bf16.pth` (wan/modules/t5.py).
///
/// # Panics
/// If `path` is no parameter of the encoder.
pub fn wan(_: &T5Config, path: &str, shape: &[usize]) -> Foreign {
    let Some((layer, field)) = in_layer(path) else {
        return match path {
            "tokens.weight" => Foreign::same("token_embedding.weight", shape),
            "positions.weight" => Foreign::same("pos_embedding.embedding.weight", shape),
            "norm.weight" => Foreign::same("norm.weight", shape),
            _ => panic!("{path} is no parameter of T5"),
        };
    };
    let name = match field {
        "positions.weight" => "pos_embedding.embedding.weight",
        "norm1.weight" | "norm2.weight" => field,
        "attn.query.weight" => "attn.q.weight",
        "attn.key.weight" => "attn.k.weight",
        "attn.value.weight" => "attn.v.weight",
        "attn.out.weight" => "attn.o.weight",
        "mlp.gate.weight" => "ffn.gate.0.weight",
        "mlp.up.weight" => "ffn.fc1.weight",
        "mlp.down.weight" => "ffn.fc2.weight",
        _ => panic!("{path} is no parameter of T5"),
    };
    of_layer(format!("blocks.{layer}.{name}"), field, shape)
}

const POSITIONS: &str = "SelfAttention.relative_attention_bias.weight";

/// `layers.3.norm1.weight` as `3` and `norm1.weight`.
fn in_layer(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("layers.")?.split_once('.')
}

/// The linear layers are those of attention and of the feed-forward network.
fn of_layer(name: String, field: &str, shape: &[usize]) -> Foreign {
    if field.starts_with("attn.") || field.starts_with("mlp.") {
        Foreign::linear(name, shape)
    } else {
        Foreign::same(name, shape)
    }
}
