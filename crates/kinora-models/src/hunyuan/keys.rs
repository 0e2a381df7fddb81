//! What the parameters of a HunyuanVideo transformer are called in released files.

use super::HunyuanConfig;
use Part::{All, Columns, Rows};
use kinora_ckpt::Foreign;

/// What part of a tensor there is ours. Places and sizes are given in widths of the model and in hidden
/// units, one behind the other.
#[derive(Clone, Copy, Debug)]
enum Part {
    All,
    /// Rows from so many widths on, of so many widths and so many times the hidden units.
    Rows(usize, [usize; 2]),
    /// Columns of a weight; the bias is whole.
    Columns(usize, [usize; 2]),
}

/// A layer there.
type Place = (&'static str, Part);

/// Ours, diffusers' and the original name of a layer.
type Names = (&'static str, Place, Place);

/// Ours, and the prefixes of numbered blocks there; then the layers behind the number.
type Blocks = (&'static str, [&'static str; 2], &'static [Names]);

const QKV: [usize; 2] = [3, 0];
const IN: [usize; 2] = [3, 1];
const OUT: [usize; 2] = [1, 1];
const TWO: [usize; 2] = [2, 0];

const LAYERS: &[Names] = &[
    ("patch", ("x_embedder.proj", All), ("img_in.proj", All)),
    (
        "condition.time.first",
        ("time_text_embed.timestep_embedder.linear_1", All),
        ("time_in.mlp.0", All),
    ),
    (
        "condition.time.second",
        ("time_text_embed.timestep_embedder.linear_2", All),
        ("time_in.mlp.2", All),
    ),
    (
        "condition.pooled.first",
        ("time_text_embed.text_embedder.linear_1", All),
        ("vector_in.in_layer", All),
    ),
    (
        "condition.pooled.second",
        ("time_text_embed.text_embedder.linear_2", All),
        ("vector_in.out_layer", All),
    ),
    (
        "condition.guidance.first",
        ("time_text_embed.guidance_embedder.linear_1", All),
        ("guidance_in.mlp.0", All),
    ),
    (
        "condition.guidance.second",
        ("time_text_embed.guidance_embedder.linear_2", All),
        ("guidance_in.mlp.2", All),
    ),
    (
        "refiner.time.first",
        (
            "context_embedder.time_text_embed.timestep_embedder.linear_1",
            All,
        ),
        ("txt_in.t_embedder.mlp.0", All),
    ),
    (
        "refiner.time.second",
        (
            "context_embedder.time_text_embed.timestep_embedder.linear_2",
            All,
        ),
        ("txt_in.t_embedder.mlp.2", All),
    ),
    (
        "refiner.pooled.first",
        (
            "context_embedder.time_text_embed.text_embedder.linear_1",
            All,
        ),
        ("txt_in.c_embedder.linear_1", All),
    ),
    (
        "refiner.pooled.second",
        (
            "context_embedder.time_text_embed.text_embedder.linear_2",
            All,
        ),
        ("txt_in.c_embedder.linear_2", All),
    ),
    (
        "refiner.input",
        ("context_embedder.proj_in", All),
        ("txt_in.input_embedder", All),
    ),
    // Diffusers has the scale first.
    (
        "head.shift",
        ("norm_out.linear", Rows(1, TWO)),
        ("final_layer.adaLN_modulation.1", Rows(0, TWO)),
    ),
    (
        "head.scale",
        ("norm_out.linear", Rows(0, TWO)),
        ("final_layer.adaLN_modulation.1", Rows(1, TWO)),
    ),
    (
        "head.linear",
        ("proj_out", All),
        ("final_layer.linear", All),
    ),
];

const BLOCKS: [Blocks; 3] = [
    (
        "refiner.blocks.",
        [
            "context_embedder.token_refiner.refiner_blocks.",
            "txt_in.individual_token_refiner.blocks.",
        ],
        &[
            ("norm1", ("norm1", All), ("norm1", All)),
            ("norm2", ("norm2", All), ("norm2", All)),
            (
                "attn.query",
                ("attn.to_q", All),
                ("self_attn_qkv", Rows(0, QKV)),
            ),
            (
                "attn.key",
                ("attn.to_k", All),
                ("self_attn_qkv", Rows(1, QKV)),
            ),
            (
                "attn.value",
                ("attn.to_v", All),
                ("self_attn_qkv", Rows(2, QKV)),
            ),
            ("attn.out", ("attn.to_out.0", All), ("self_attn_proj", All)),
            ("mlp.up", ("ff.net.0.proj", All), ("mlp.fc1", All)),
            ("mlp.down", ("ff.net.2", All), ("mlp.fc2", All)),
            (
                "modulation",
                ("norm_out.linear", All),
                ("adaLN_modulation.1", All),
            ),
        ],
    ),
    (
        "double.",
        ["transformer_blocks.", "double_blocks."],
        &[
            (
                "video.modulation",
                ("norm1.linear", All),
                ("img_mod.linear", All),
            ),
            (
                "text.modulation",
                ("norm1_context.linear", All),
                ("txt_mod.linear", All),
            ),
            (
                "attn.video.query",
                ("attn.to_q", All),
                ("img_attn_qkv", Rows(0, QKV)),
            ),
            (
                "attn.video.key",
                ("attn.to_k", All),
                ("img_attn_qkv", Rows(1, QKV)),
            ),
            (
                "attn.video.value",
                ("attn.to_v", All),
                ("img_attn_qkv", Rows(2, QKV)),
            ),
            (
                "attn.video.query_norm",
                ("attn.norm_q", All),
                ("img_attn_q_norm", All),
            ),
            (
                "attn.video.key_norm",
                ("attn.norm_k", All),
                ("img_attn_k_norm", All),
            ),
            (
                "attn.video.out",
                ("attn.to_out.0", All),
                ("img_attn_proj", All),
            ),
            (
                "attn.text.query",
                ("attn.add_q_proj", All),
                ("txt_attn_qkv", Rows(0, QKV)),
            ),
            (
                "attn.text.key",
                ("attn.add_k_proj", All),
                ("txt_attn_qkv", Rows(1, QKV)),
            ),
            (
                "attn.text.value",
                ("attn.add_v_proj", All),
                ("txt_attn_qkv", Rows(2, QKV)),
            ),
            (
                "attn.text.query_norm",
                ("attn.norm_added_q", All),
                ("txt_attn_q_norm", All),
            ),
            (
                "attn.text.key_norm",
                ("attn.norm_added_k", All),
                ("txt_attn_k_norm", All),
            ),
            (
                "attn.text.out",
                ("attn.to_add_out", All),
                ("txt_attn_proj", All),
            ),
            ("video.mlp.up", ("ff.net.0.proj", All), ("img_mlp.fc1", All)),
            ("video.mlp.down", ("ff.net.2", All), ("img_mlp.fc2", All)),
            (
                "text.mlp.up",
                ("ff_context.net.0.proj", All),
                ("txt_mlp.fc1", All),
            ),
            (
                "text.mlp.down",
                ("ff_context.net.2", All),
                ("txt_mlp.fc2", All),
            ),
        ],
    ),
    (
        "single.",
        ["single_transformer_blocks.", "single_blocks."],
        &[
            (
                "modulation",
                ("norm.linear", All),
                ("modulation.linear", All),
            ),
            ("attn.query", ("attn.to_q", All), ("linear1", Rows(0, IN))),
            ("attn.key", ("attn.to_k", All), ("linear1", Rows(1, IN))),
            ("attn.value", ("attn.to_v", All), ("linear1", Rows(2, IN))),
            ("attn.query_norm", ("attn.norm_q", All), ("q_norm", All)),
            ("attn.key_norm", ("attn.norm_k", All), ("k_norm", All)),
            ("mlp.up", ("proj_mlp", All), ("linear1", Rows(3, IN))),
            (
                "attn.out",
                ("proj_out", Columns(0, OUT)),
                ("linear2", Columns(0, OUT)),
            ),
            (
                "mlp.down",
                ("proj_out", Columns(1, OUT)),
                ("linear2", Columns(1, OUT)),
            ),
        ],
    ),
];

/// Where a parameter of ours, of whole shape `shape`, lies in diffusers' files.
///
/// # Panics
/// If `path` is no parameter of the model.
pub fn diffusers(config: &HunyuanConfig, path: &str, shape: &[usize]) -> Foreign {
    foreign(config, path, shape, 0)
}

/// Where a parameter of ours, of whole shape `shape`, lies in the files of HunyuanVideo's own code.
///
/// # Panics
/// If `path` is no parameter of the model.
pub fn original(config: &HunyuanConfig, path: &str, shape: &[usize]) -> Foreign {
    foreign(config, path, shape, 1)
}

fn foreign(config: &HunyuanConfig, path: &str, shape: &[usize], layout: usize) -> Foreign {
    let (layer, kind) = path.rsplit_once('.').unwrap_or((path, ""));
    let (prefix, (name, part)) =
        place(layer, layout).unwrap_or_else(|| panic!("HunyuanVideo has no parameter {path}"));
    let name = format!("{prefix}{name}.{kind}");
    if path == "patch.weight" {
        let [frames, height, width] = config.patch;
        let kernel = [config.dim, config.channels, frames, height, width];
        return Foreign::linear(name, shape).shaped(&kernel);
    }
    let matrix = shape.len() == 2;
    let there = if matrix {
        Foreign::linear(name, shape)
    } else {
        Foreign::same(name, shape)
    };
    let size = |[widths, hidden]: [usize; 2]| widths * config.dim + hidden * config.ffn;
    match part {
        Rows(at, of) => there.rows(at * config.dim, size(of)),
        Columns(at, of) if matrix => there.columns(at * config.dim, size(of)),
        Columns(..) | All => there,
    }
}

/// The prefix and the place of a layer of ours.
fn place(layer: &str, layout: usize) -> Option<(String, Place)> {
    let find = |names: &[Names], ours: &str| {
        let (_, diffusers, original) = names.iter().find(|names| names.0 == ours)?;
        Some([*diffusers, *original][layout])
    };
    for (ours, theirs, names) in BLOCKS {
        if let Some((number, within)) = layer
            .strip_prefix(ours)
            .and_then(|rest| rest.split_once('.'))
        {
            let prefix = format!("{}{number}.", theirs[layout]);
            return Some((prefix, find(names, within)?));
        }
    }
    Some((String::new(), find(LAYERS, layer)?))
}
