//! What the parameters of a Wan transformer are called in released files.

use super::WanConfig;
use kinora_ckpt::Foreign;

/// Ours, diffusers' and the original name of a layer with a weight and perhaps a bias.
type Names = [&'static str; 3];

const LAYERS: [Names; 11] = [
    ["patch", "patch_embedding", "patch_embedding"],
    [
        "time.first",
        "condition_embedder.time_embedder.linear_1",
        "time_embedding.0",
    ],
    [
        "time.second",
        "condition_embedder.time_embedder.linear_2",
        "time_embedding.2",
    ],
    [
        "time.project",
        "condition_embedder.time_proj",
        "time_projection.1",
    ],
    [
        "text.first",
        "condition_embedder.text_embedder.linear_1",
        "text_embedding.0",
    ],
    [
        "text.second",
        "condition_embedder.text_embedder.linear_2",
        "text_embedding.2",
    ],
    [
        "image.norm1",
        "condition_embedder.image_embedder.norm1",
        "img_emb.proj.0",
    ],
    [
        "image.first",
        "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.1",
    ],
    [
        "image.second",
        "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.3",
    ],
    [
        "image.norm2",
        "condition_embedder.image_embedder.norm2",
        "img_emb.proj.4",
    ],
    ["head.linear", "proj_out", "head.head"],
];

/// Behind `blocks.` and the block's number, which all three share.
const BLOCK: [Names; 18] = [
    ["attn.query", "attn1.to_q", "self_attn.q"],
    ["attn.key", "attn1.to_k", "self_attn.k"],
    ["attn.value", "attn1.to_v", "self_attn.v"],
    ["attn.query_norm", "attn1.norm_q", "self_attn.norm_q"],
    ["attn.key_norm", "attn1.norm_k", "self_attn.norm_k"],
    ["attn.out", "attn1.to_out.0", "self_attn.o"],
    ["norm2", "norm2", "norm3"],
    ["cross.query", "attn2.to_q", "cross_attn.q"],
    ["cross.key", "attn2.to_k", "cross_attn.k"],
    ["cross.value", "attn2.to_v", "cross_attn.v"],
    ["cross.query_norm", "attn2.norm_q", "cross_attn.norm_q"],
    ["cross.key_norm", "attn2.norm_k", "cross_attn.norm_k"],
    ["cross.out", "attn2.to_out.0", "cross_attn.o"],
    ["cross.image_key", "attn2.add_k_proj", "cross_attn.k_img"],
    ["cross.image_value", "attn2.add_v_proj", "cross_attn.v_img"],
    [
        "cross.image_key_norm",
        "attn2.norm_added_k",
        "cross_attn.norm_k_img",
    ],
    ["mlp.up", "ffn.net.0.proj", "ffn.0"],
    ["mlp.down", "ffn.net.2", "ffn.2"],
];

/// Tables, which have a leading dimension of one there.
const TABLES: [Names; 2] = [
    [
        "image.positions",
        "condition_embedder.image_embedder.pos_embed",
        "img_emb.emb_pos",
    ],
    ["head.table", "scale_shift_table", "head.modulation"],
];

const BLOCK_TABLES: [Names; 1] = [["modulation.table", "scale_shift_table", "modulation"]];

/// Where a parameter of ours, of whole shape `shape`, lies in diffusers' files.
///
/// # Panics
/// If `path` is no parameter of the model.
pub fn diffusers(config: &WanConfig, path: &str, shape: &[usize]) -> Foreign {
    foreign(config, path, shape, 1)
}

/// Where a parameter of ours, of whole shape `shape`, lies in the files of Wan's own code.
///
/// # Panics
/// If `path` is no parameter of the model.
pub fn original(config: &WanConfig, path: &str, shape: &[usize]) -> Foreign {
    foreign(config, path, shape, 2)
}

fn foreign(config: &WanConfig, path: &str, shape: &[usize], layout: usize) -> Foreign {
    let block = path
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'));
    let (prefix, layers, tables, within) = match block {
        Some((number, within)) => (
            format!("blocks.{number}."),
            &BLOCK[..],
            &BLOCK_TABLES[..],
            within,
        ),
        None => (String::new(), &LAYERS[..], &TABLES[..], path),
    };
    let name = |names: &[Names], ours: &str| {
        let names = names.iter().find(|names| names[0] == ours)?;
        Some(format!("{prefix}{}", names[layout]))
    };
    if let Some(name) = name(tables, within) {
        let one: Vec<usize> = [&[1], shape].concat();
        return Foreign::same(name, shape).shaped(&one);
    }
    let (layer, kind) = within.rsplit_once('.').unwrap_or((within, ""));
    let layer = name(layers, layer).unwrap_or_else(|| panic!("Wan has no parameter {path}"));
    let name = format!("{layer}.{kind}");
    if path == "patch.weight" {
        let [frames, height, width] = config.patch;
        let kernel = [config.dim, config.channels, frames, height, width];
        return Foreign::linear(name, shape).shaped(&kernel);
    }
    match shape.len() {
        2 => Foreign::linear(name, shape),
        _ => Foreign::same(name, shape),
    }
}
