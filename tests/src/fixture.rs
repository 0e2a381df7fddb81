//! A small model, batches for it, and a way to train it on any mesh.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_comm::local::{self, RankFailure, World};
use kinora_mesh::rng::Stream;
use kinora_mesh::{Mesh, MeshAxis, Plan};
use kinora_models::TextToVideo;
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use kinora_shard::{Precision, Sharding};
use kinora_train::{Decay, LatentBatch, OptimConfig, TrainConfig, TrainError, Trainer};
use std::sync::Arc;
use std::time::Duration;

/// How a model is cut.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) name: &'static str,
    pub(crate) mesh: Mesh,
    pub(crate) plan: Plan,
}

/// `replicate x tp`, with or without the sequence cut over tp.
pub(crate) fn cut(name: &'static str, replicate: usize, tp: usize, seq: bool) -> Cut {
    Cut {
        name,
        mesh: Mesh {
            replicate,
            tp,
            ..Mesh::default()
        },
        plan: Plan {
            batch: vec![MeshAxis::Replicate],
            seq: if seq { vec![MeshAxis::Tp] } else { vec![] },
            heads: vec![MeshAxis::Tp],
            hidden: vec![MeshAxis::Tp],
            params: vec![],
            attention: None,
        },
    }
}

/// A model whose sizes are all unlike, with an odd number of hidden units and of tokens.
pub(crate) fn video() -> MovieGenConfig {
    MovieGenConfig {
        layers: 2,
        dim: 24,
        ffn: 37,
        heads: 4,
        channels: 3,
        patch: [1, 1, 1],
        max_latent: [5, 7, 3],
        position_scale: 1.0,
        texts: vec![TextInput {
            name: "bytes".into(),
            width: 20,
        }],
    }
}

pub(crate) fn text() -> BytesConfig {
    BytesConfig {
        width: 20,
        layers: 1,
        heads: 4,
        ffn: 23,
        windows: 31,
        max_words: 4,
    }
}

pub(crate) fn train_config() -> TrainConfig {
    TrainConfig {
        steps: 20,
        accumulate: 1,
        caption_dropout: 0.2,
        checkpoint_every: 7,
        keep: 2,
        preview_every: 0,
        recompute: Default::default(),
        path: Default::default(),
        times: Default::default(),
        optim: OptimConfig {
            lr: 1e-2,
            betas: [0.9, 0.99],
            // Large against the rounding of gradients near zero, whose sign Adam would follow.
            epsilon: 1e-4,
            weight_decay: 0.01,
            // Below every norm here, so that a norm counted twice shows in the weights.
            clip: 0.1,
            warmup: 3,
            decay: Decay { from: 0.6, to: 0.1 },
            ema: 0.9,
        },
    }
}

/// A step's global batch of four, the share of this rank's data group. Even steps hold videos of
/// 5 x 7 x 3 tokens, odd ones images.
pub(crate) fn batch(step: u64, sharding: &Sharding) -> LatentBatch {
    let (index, of) = sharding.share();
    let global = 4;
    let each = global / of;
    let image = step % 2 == 1;
    let [c, t, h, w] = if image { [3, 1, 7, 3] } else { [3, 5, 7, 3] };
    let len = c * t * h * w;
    let captions = ["a red circle", "two", "", "a long caption that is cut"];
    let positions: Vec<usize> = (index * each..(index + 1) * each).collect();
    let data: Vec<f32> = positions
        .iter()
        .flat_map(|&i| {
            Stream::new(9, "data")
                .at(step % 2)
                .at(i as u64)
                .normals(0..len as u64)
        })
        // A mean to be learned in twenty steps.
        .map(|x| x as f32 + 1.5)
        .collect();
    LatentBatch {
        step,
        global,
        first: positions[0] as u64,
        latents: Tensor::from_data(TensorData::new(data, [each, c, t, h, w]), &Device::flex()),
        captions: positions.iter().map(|&i| captions[i].to_string()).collect(),
        image,
        epoch: 0,
        skipped: 0,
    }
}

/// The small model at step 0, on one rank of a cut.
pub(crate) fn trainer(
    config: &TrainConfig,
    precision: impl Into<Precision>,
    sharding: &Arc<Sharding>,
) -> Trainer<TextToVideo> {
    let device = (&Device::flex(), precision);
    Trainer::new(config, 3, device, sharding, |cx| {
        TextToVideo::new(cx, &video().into(), Some(&text()))
    })
}

/// Runs `body` with a new trainer on every rank of a cut.
pub(crate) fn on_ranks<T: Send + 'static>(
    cut: &Cut,
    dtype: DType,
    config: TrainConfig,
    body: impl Fn(Trainer<TextToVideo>, Arc<Sharding>) -> Result<T, TrainError> + Send + Sync + 'static,
) -> Result<Vec<T>, Box<RankFailure<TrainError>>> {
    let world = World {
        deadline: Duration::from_secs(60),
        ..World::new(cut.mesh.ranks(), 1)
    };
    let (mesh, plan) = (cut.mesh, cut.plan.clone());
    local::run(&world, move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone())?;
        body(trainer(&config, dtype, &sharding), sharding)
    })
    .map_err(Box::new)
}
