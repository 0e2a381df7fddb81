//! What a Wan says of given inputs, for other programs to compare with: `velocity MODEL WEIGHTS INPUTS
//! OUT`.
//!
//! MODEL is a preset such as wan-tiny; WEIGHTS a file or folder in the original layout or in that of
//! diffusers; INPUTS a safetensors file of 32-bit floats: `latent` `[B, C, T, H, W]`, `time` `[B]`, a
//! thousand for noise to 0 for data, and `text` `[B, L, width]`. OUT gets the velocity, noise minus data,
//! like the latent, as 32-bit floats without a header.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{TensorSource, Weights, which};
use kinora_models::wan::{Wan, WanConfig, keys};
use kinora_shard::{Cx, load};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, weights, inputs, out] = &arguments[..] else {
        return Err("usage: velocity MODEL WEIGHTS INPUTS OUT".into());
    };
    let config = WanConfig::preset(model).ok_or("no such model")?;
    let cx = Cx::single(&Device::flex());
    let open = |params: &[(String, Vec<usize>)]| {
        let original = |path: &str, shape: &[usize]| keys::original(&config, path, shape);
        let diffusers = |path: &str, shape: &[usize]| keys::diffusers(&config, path, shape);
        let weights = Weights::open(Path::new(weights))?;
        let (layout, renamed) = which(
            weights,
            params,
            &[("original", &original), ("diffusers", &diffusers)],
        )?;
        println!("weights in the {layout} layout");
        Ok(Arc::new(renamed) as _)
    };
    let model = load(&cx, open, |cx| Wan::new(cx, &config))?;
    let inputs = Weights::open(Path::new(inputs))?;
    let time: Tensor<1> = tensor(&inputs, "time")?;
    let (latent, text) = (tensor(&inputs, "latent")?, tensor(&inputs, "text")?);
    let velocity = model.forward(latent, time.unsqueeze_dim(1), text, None);
    std::fs::write(
        out,
        velocity.into_data().convert_dtype(DType::F32).as_bytes(),
    )?;
    Ok(())
}

fn tensor<const D: usize>(file: &Weights, name: &str) -> Result<Tensor<D>, Box<dyn Error>> {
    let shape: [usize; D] = file.shape(name)?.try_into()?;
    let data = TensorData::from_bytes_vec(file.read_whole(name)?, shape, DType::F32);
    Ok(Tensor::from_data(data, &Device::flex()))
}
