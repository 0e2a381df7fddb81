//! Models of the reference sets' weights, and tensors of their cases.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Foreign, Renamed};
use kinora_golden::{File, Set};
use kinora_models::wan::{ImageConfig, Wan, WanConfig, keys};
use kinora_shard::{Cx, load};
use serde_json::Value;
use std::sync::Arc;

/// A layout of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Diffusers,
    Original,
}

impl Layout {
    pub(crate) fn key(self, config: &WanConfig, path: &str, shape: &[usize]) -> Foreign {
        match self {
            Self::Diffusers => keys::diffusers(config, path, shape),
            Self::Original => keys::original(config, path, shape),
        }
    }

    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Diffusers => "weights.diffusers.safetensors",
            Self::Original => "weights.original.safetensors",
        }
    }
}

/// The sizes of a set's model. The cases give texts as they are, so that none is filled up.
pub(crate) fn config(set: &Set) -> WanConfig {
    let all = set.config();
    let config = &all["config"];
    let size = |key: &str| config[key].as_u64().map(|size| size as usize);
    let needed = |key: &str| size(key).unwrap_or_else(|| panic!("the set's config has {key}"));
    let patch = config["patch_size"].as_array().expect("a patch");
    let patch = [0, 1, 2].map(|i| patch[i].as_u64().expect("a side") as usize);
    let heads = needed("num_attention_heads");
    WanConfig {
        layers: needed("num_layers"),
        dim: heads * needed("attention_head_dim"),
        ffn: needed("ffn_dim"),
        heads,
        channels: needed("in_channels"),
        out_channels: needed("out_channels"),
        patch,
        text: needed("text_dim"),
        text_tokens: 1,
        sinusoids: needed("freq_dim"),
        epsilon: config["eps"].as_f64().expect("an epsilon"),
        image: size("image_dim").map(|width| ImageConfig {
            width,
            positions: size("pos_embed_seq_len"),
        }),
        boundary: None,
    }
}

/// The names of the cases that hold all of `tensors`.
pub(crate) fn cases(set: &Set, tensors: &[&str]) -> Vec<String> {
    let all = set.config();
    let cases = all["cases"].as_object().expect("cases");
    let holds = |case: &Value| tensors.iter().all(|name| !case["tensors"][name].is_null());
    let named = cases.iter().filter(|(_, case)| holds(case));
    named.map(|(name, _)| name.clone()).collect()
}

/// The model of a set's weights; `None`, said on stderr, without them.
pub(crate) fn model(cx: &Cx, set: &Set, layout: Layout) -> Option<Wan> {
    model_of(cx, set, layout, &config(set))
}

/// The same with a config that differs in what no parameter's shape depends on.
pub(crate) fn model_of(cx: &Cx, set: &Set, layout: Layout, config: &WanConfig) -> Option<Wan> {
    let weights = set.weights(layout.file())?;
    let open = |params: &[(String, Vec<usize>)]| {
        let keys = |path: &str, shape: &[usize]| layout.key(config, path, shape);
        Renamed::new(weights, params, keys).map(|renamed| Arc::new(renamed) as _)
    };
    let model = load(cx, open, |cx| Wan::new(cx, config));
    Some(model.unwrap_or_else(|error| panic!("{error}")))
}

/// The inputs of a case.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) latent: Tensor<5>,
    pub(crate) time: Tensor<2>,
    pub(crate) text: Tensor<3>,
    pub(crate) image: Option<Tensor<3>>,
}

impl Inputs {
    /// Of a case whose latent is called `latent`. Times stay in f64.
    pub(crate) fn of(file: &File, latent: &str, device: &Device, dtype: DType) -> Self {
        let image = "encoder_hidden_states_image";
        let times = file.shape("timestep");
        let times = [times[0], times.get(1).copied().unwrap_or(1)];
        let time = TensorData::new(file.f64("timestep"), times);
        Self {
            latent: tensor(file, latent, device, dtype),
            time: Tensor::from_data(time, (device, DType::F64)),
            text: tensor(file, "encoder_hidden_states", device, dtype),
            image: file.has(image).then(|| tensor(file, image, device, dtype)),
        }
    }

    pub(crate) fn forward(self, model: &Wan) -> Tensor<5> {
        model.forward(self.latent, self.time, self.text, self.image)
    }
}

/// A tensor of a case.
pub(crate) fn tensor<const D: usize>(
    file: &File,
    name: &str,
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let data = TensorData::new(file.f64(name), file.shape(name));
    Tensor::from_data(data, (device, dtype))
}

pub(crate) fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}
