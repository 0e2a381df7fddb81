//! Which of several layouts a file has.

use std::collections::BTreeMap;

use super::layout::{self, Wanted};
use super::renamed::differences;
use super::{Foreign, RenameError, Renamed, Weights};
use crate::CkptError;

/// What wrappers put before every name: ComfyUI and the original latent diffusion, data parallelism,
/// training frameworks.
const PREFIXES: [&str; 4] = [
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "model.",
];

/// Where the parameters of a layout lie: a function of a parameter's path and shape.
pub type Layout<'a> = &'a dyn Fn(&str, &[usize]) -> Foreign;

/// Presents weights under our names in the layout that fits them, and says which. What wrappers put
/// before all names (`model.diffusion_model.`, `diffusion_model.`, `module.`, `model.`) is taken off
/// where no layout fits with it.
///
/// # Errors
/// [`CkptError::Layout`] with the differences from the nearest layout, and what the file seems to be.
///
/// # Panics
/// If `layouts` is empty, or one of them cannot be; see [`Renamed::new`].
pub fn which<'a>(
    weights: Weights,
    params: &[(String, Vec<usize>)],
    layouts: &[(&'a str, Layout<'_>)],
) -> Result<(&'a str, Renamed), CkptError> {
    let wanted: Vec<(&'a str, BTreeMap<String, Wanted>)> = layouts
        .iter()
        .map(|(name, keys)| (*name, layout::wanted(params, keys)))
        .collect();
    let mut weights = weights;
    let mut nearest: Option<(&'a str, RenameError)> = None;
    loop {
        for (name, wanted) in &wanted {
            let wrong = differences(&weights, wanted);
            if wrong.count() == 0 {
                return Ok((name, Renamed::of(weights, wanted.clone())));
            }
            if nearest
                .as_ref()
                .is_none_or(|(_, least)| wrong.count() < least.count())
            {
                nearest = Some((name, wrong));
            }
        }
        let names = &weights.index.tensors;
        let common = |prefix: &&&str| {
            !names.is_empty() && names.keys().all(|name| name.starts_with(**prefix))
        };
        let Some(prefix) = PREFIXES.iter().find(common) else {
            break;
        };
        weights = weights.under(prefix);
    }
    let (layout, wrong) = nearest.expect("at least one layout was given");
    Err(CkptError::Layout {
        hint: hint(&weights, &wrong),
        path: weights.index.path,
        layout: layout.to_owned(),
        count: wrong.count(),
        wrong: Box::new(wrong),
    })
}

/// What a file that fits no layout seems to be.
fn hint(weights: &Weights, wrong: &RenameError) -> String {
    let names = weights.index.tensors.keys();
    let total = names.len();
    let holding = |parts: &[&str]| {
        let holds = |name: &&String| parts.iter().any(|part| name.contains(part));
        names.clone().filter(holds).count()
    };
    if total == 0 {
        return "the file holds no tensor: name another".to_owned();
    }
    let lora = [
        "lora_A",
        "lora_B",
        "lora_down",
        "lora_up",
        "lora.down",
        "lora.up",
    ];
    if holding(&lora) * 2 >= total {
        return "these are LoRA weights, which are added to a model: name the model's own weights here"
            .to_owned();
    }
    if holding(&[
        "scale_weight",
        "weight_scale",
        "scaled_fp8",
        "absmax",
        "quant_map",
    ]) > 0
    {
        return "these are quantized weights: download the BF16 or F16 weights of the same model"
            .to_owned();
    }
    for prefix in PREFIXES {
        let count = names
            .clone()
            .filter(|name| name.starts_with(prefix))
            .count();
        if count > 0 && count < total {
            return format!(
                "{count} of {total} names begin with {prefix}: the file seems to hold several models; take this one's with Weights::under(\"{prefix}\"), or name a file of it alone"
            );
        }
    }
    if wrong.not_floats.len() == wrong.count() {
        return "these names fit, but hold integers: download the BF16 or F16 weights".to_owned();
    }
    if !wrong.misshapen.is_empty() && wrong.missing.is_empty() && wrong.extra.is_empty() {
        return "the names fit, but not the sizes: give the configuration of this model's size"
            .to_owned();
    }
    if wrong.missing.len() + wrong.misshapen.len() < total / 2 || wrong.extra.len() < total / 2 {
        return "the file is nearly of this layout: look whether the configuration has this model's size and kind, and leave out tensors that are not weights with Weights::without".to_owned();
    }
    "name the file of this model, or the model of this file".to_owned()
}
