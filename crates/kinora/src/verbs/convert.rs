//! `kinora convert`: weights out to other people's files, from a run or from another layout.

use super::console;
use crate::cli::Convert;
use crate::config::{RunConfig, read_run};
use crate::failure::{Failure, Outcome};
use crate::merged::{Merged, Scaled};
use crate::model::{Model, Names, is_run, newest, released};
use burn::tensor::{DType, Device};
use kinora_ckpt::{Dtype, Foreign, Prefixed, TensorSource, Writer};
use kinora_models::{Video, VideoConfig};
use kinora_shard::{Adapters, Cx, ParamSpec, Sharding};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Path inside the transformer, and whole shape.
type Params = Vec<(String, Vec<usize>)>;

pub(crate) fn convert(args: &Convert) -> Outcome {
    if is_run(&args.from) {
        if args.model.is_some() {
            return Err(Failure::input(
                "--model has no effect on a run, which knows its model\n  help: leave it out",
            ));
        }
        let config = read_run(&args.from, &[])?;
        return of_run(args, &config);
    }
    let Some(preset) = &args.model else {
        return Err(Failure::input(format!(
            "{} is no run, so --model has to say what it holds\n  help: use one of {}",
            args.from.display(),
            VideoConfig::presets().join(", ")
        )));
    };
    if args.merge {
        return Err(Failure::input(
            "--merge needs a run with [lora]\n  help: give the folder of the run that trained the adapters",
        ));
    }
    let video = VideoConfig::preset(preset).ok_or_else(|| {
        Failure::input(format!(
            "--model {preset} is not known\n  help: use one of {}",
            VideoConfig::presets().join(", ")
        ))
    })?;
    let (params, _) = params(&video, None);
    let source = released(&args.from, &video, &params)?;
    write(args, &*source, &params, |path, shape| {
        args.names.of(&video, path, shape)
    })
}

fn of_run(args: &Convert, config: &RunConfig) -> Outcome {
    let model = Model::of(config)?;
    let checkpoint = newest(&args.from)?;
    checkpoint.verify()?;
    let trained = Prefixed::new(checkpoint, "average/video.");
    let (own, adapters) = params(&model.video, model.adapters.as_ref());
    let of_model = |path: &str, shape: &[usize]| args.names.of(&model.video, path, shape);
    let Some(settings) = &model.adapters else {
        if args.merge {
            return Err(Failure::input(format!(
                "--merge has no effect: {} trained no adapters\n  help: leave it out",
                args.from.display()
            )));
        }
        return write(args, &trained, &own, of_model);
    };
    if args.merge {
        let merged = Merged::new(model.frozen(&own)?, Arc::new(trained), settings.scale());
        return write(args, &merged, &own, of_model);
    }
    // Readers take the scale for one where a file names none, so it goes into the numbers.
    let scaled = Scaled::new(trained, ".lora_up", settings.scale());
    let shapes: BTreeMap<&str, &[usize]> = own
        .iter()
        .map(|(path, shape)| (path.as_str(), shape.as_slice()))
        .collect();
    write(args, &scaled, &adapters, |path, shape| {
        adapter(path, shape, args.names, &of_model, &shapes)
    })
}

/// What a factor of an adapter is called: its layer's name there, with an ending of the format's.
fn adapter(
    path: &str,
    shape: &[usize],
    names: Names,
    of_model: &dyn Fn(&str, &[usize]) -> Foreign,
    shapes: &BTreeMap<&str, &[usize]>,
) -> Foreign {
    let (layer, factor) = path.rsplit_once('.').expect("an adapter is beside a layer");
    let weight = format!("{layer}.weight");
    let there = of_model(&weight, shapes[weight.as_str()]).name;
    let layer = there.strip_suffix(".weight").unwrap_or(&there).to_owned();
    let (prefix, [down, up]) = match names {
        // As `save_lora_weights` of diffusers' pipelines writes them.
        Names::Diffusers => ("transformer", ["lora_A", "lora_B"]),
        // As ComfyUI's loader looks for them.
        Names::Original => ("diffusion_model", ["lora_down", "lora_up"]),
    };
    let factor = if factor == "lora_down" { down } else { up };
    Foreign::linear(format!("{prefix}.{layer}.{factor}.weight"), shape)
}

/// The parameters of a transformer, and those of its adapters.
fn params(video: &VideoConfig, adapters: Option<&Adapters>) -> (Params, Params) {
    let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
    let cx = match adapters {
        // Their targets are paths of the whole model.
        Some(adapters) => cx.adapting(adapters.clone()),
        None => cx,
    };
    drop(Video::new(&cx.at("video"), video));
    let table = cx.table();
    let within = |specs: &[ParamSpec]| -> Params {
        let path = |path: &str| path.strip_prefix("video.").unwrap_or(path).to_owned();
        let specs = specs.iter();
        specs
            .map(|spec| (path(&spec.path), spec.layout.shape.clone()))
            .collect()
    };
    match adapters {
        Some(_) => (within(table.frozen()), within(table.specs())),
        None => (within(table.specs()), vec![]),
    }
}

fn write(
    args: &Convert,
    source: &dyn TensorSource,
    params: &Params,
    keys: impl Fn(&str, &[usize]) -> Foreign,
) -> Outcome {
    let dtype = match args.dtype.as_str() {
        "bf16" => Dtype::BF16,
        "f16" => Dtype::F16,
        "f32" => Dtype::F32,
        other => {
            return Err(Failure::input(format!(
                "--dtype {other}\n  help: use bf16, f16 or f32"
            )));
        }
    };
    let bar = console(args.quiet).progress(100, "writing, per cent");
    let writer = Writer::new(dtype).overwrite(args.overwrite);
    let written = writer.write(source, params, keys, &args.out, |done, of| {
        bar.at(100 * done / of.max(1));
    })?;
    bar.finish();
    let elements: usize = params
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    if args.json {
        super::json(&json!({ "out": written, "tensors": params.len(), "elements": elements }));
    } else {
        say!(
            "wrote {}: {elements} numbers in {} tensors, as {dtype}",
            written.display(),
            params.len()
        );
    }
    Ok(())
}
