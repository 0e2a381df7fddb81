//! Training and sampling beside those of the references: their weights, their batches, their noise.

mod pipeline;
mod train;

use crate::fixture::Cut;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{CkptError, Foreign, Renamed};
use kinora_comm::Transport;
use kinora_comm::local::{self, World};
use kinora_golden::{File, Set};
use kinora_mesh::{ContextAttention, Mesh, MeshAxis, Plan};
use kinora_models::movie_gen::TextTokens;
use kinora_models::wan::{Wan, WanConfig, keys};
use kinora_models::{TextToVideo, Video};
use kinora_shard::{Cx, load};
use kinora_train::TrainError;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The sizes of a Wan as diffusers writes them, for texts of `tokens`.
fn wan(sizes: &Value, tokens: usize) -> WanConfig {
    let number = |value: &Value| value.as_u64().expect("a size") as usize;
    let size = |key: &str| number(&sizes[key]);
    let patch = sizes["patch_size"].as_array().expect("a patch");
    let heads = size("num_attention_heads");
    WanConfig {
        layers: size("num_layers"),
        dim: heads * size("attention_head_dim"),
        ffn: size("ffn_dim"),
        heads,
        channels: size("in_channels"),
        out_channels: size("out_channels"),
        patch: [0, 1, 2].map(|i| number(&patch[i])),
        text: size("text_dim"),
        text_tokens: tokens,
        sinusoids: size("freq_dim"),
        epsilon: sizes["eps"].as_f64().expect("an epsilon"),
        image: None,
        boundary: None,
    }
}

/// A model of weights in a file of the set under diffusers' names.
fn model(cx: &Cx, set: &Set, file: &str, config: &WanConfig) -> Result<TextToVideo, CkptError> {
    let keys = |path: &str, shape: &[usize]| keys::diffusers(config, path, shape);
    let video = read(&cx.at("video"), set, file, keys, |cx| Wan::new(cx, config))?;
    let sizes = config.clone().into();
    Ok(TextToVideo::with(cx, &sizes, None, Video::Wan(video)))
}

/// A model of weights in a file of the set.
fn read<M>(
    cx: &Cx,
    set: &Set,
    file: &str,
    keys: impl Fn(&str, &[usize]) -> Foreign,
    build: impl Fn(&Cx) -> M,
) -> Result<M, CkptError> {
    let weights = set.weights(file).expect("weights of the set");
    let open = |params: &[(String, Vec<usize>)]| {
        Renamed::new(weights, params, keys).map(|renamed| Arc::new(renamed) as _)
    };
    load(cx, open, build)
}

/// A tensor of a case.
fn tensor<const D: usize>(file: &File, name: &str, dtype: DType) -> Tensor<D> {
    let data = TensorData::new(file.f64(name), file.shape(name));
    Tensor::from_data(data, (&Device::flex(), dtype))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Texts none of whose tokens is padding.
fn without_padding(embedding: Tensor<3>) -> TextTokens {
    let [b, tokens, _] = embedding.dims();
    let mask = Tensor::full([b, tokens], true, &embedding.device());
    TextTokens { embedding, mask }
}

/// A mesh of `[fsdp, cp, cfg, tp]`, with the sequence cut over cp and tp.
fn cut(
    name: &'static str,
    [fsdp, cp, cfg, tp]: [usize; 4],
    attention: Option<ContextAttention>,
) -> Cut {
    let mesh = Mesh {
        fsdp,
        cp,
        cfg,
        tp,
        ..Mesh::default()
    };
    let plan = Plan {
        batch: vec![MeshAxis::Fsdp],
        seq: vec![MeshAxis::Cp, MeshAxis::Tp],
        heads: vec![MeshAxis::Tp],
        hidden: vec![MeshAxis::Tp],
        params: vec![MeshAxis::Fsdp],
        attention,
    };
    Cut { name, mesh, plan }
}

/// What `body` makes on each rank of a cut.
fn on_ranks<T: Send + 'static>(
    cut: &Cut,
    body: impl Fn(Arc<dyn Transport>, &Cut) -> Result<T, TrainError> + Send + Sync + 'static,
) -> Vec<T> {
    let world = World {
        deadline: Duration::from_secs(120),
        ..World::new(cut.mesh.ranks(), 1)
    };
    let (name, cut) = (cut.name, cut.clone());
    local::run(&world, move |transport| body(transport, &cut))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}
