//! Wan's autoencoders beside what diffusers computes, in one part and in several, in tiles and in
//! stripes.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Foreign, Renamed};
use kinora_comm::CommError;
use kinora_comm::local::{self, World};
use kinora_golden::{File, Set, rms, set};
use kinora_mesh::{Mesh, MeshAxis, Plan};
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::wan::{Tiling, WanVae, WanVaeConfig, keys};
use kinora_shard::{Cx, Gradients, Sharding, load};
use std::sync::Arc;

const LATENTS: f64 = 1e-6;
const FRAMES: f64 = 2e-6;
const GRADIENTS: f64 = 5e-6;

/// The settings that diffusers writes, as ours.
fn config(set: &Set) -> WanVaeConfig {
    let theirs = &set.config()["config"];
    let number = |name: &str| theirs[name].as_u64().map(|n| n as usize);
    let numbers = |name: &str| -> Vec<f64> {
        let at = if theirs[name].is_array() {
            theirs.clone()
        } else {
            set.config()
        };
        at[name]
            .as_array()
            .expect(name)
            .iter()
            .map(|x| x.as_f64().expect(name))
            .collect()
    };
    let list = |name: &str| theirs[name].as_array().expect(name).clone();
    let base = number("base_dim").expect("base_dim");
    let multipliers = list("dim_mult")
        .into_iter()
        .map(|m| m.as_u64().unwrap() as usize);
    let halves = list("temperal_downsample");
    WanVaeConfig {
        encoder_base: base,
        decoder_base: number("decoder_base_dim").unwrap_or(base),
        channels: number("z_dim").expect("z_dim"),
        multipliers: multipliers.collect(),
        blocks: number("num_res_blocks").expect("num_res_blocks"),
        halves_frames: halves.iter().map(|x| x.as_bool().unwrap()).collect(),
        shortcuts: theirs["is_residual"].as_bool().unwrap_or(false),
        patch: number("patch_size").unwrap_or(1),
        mean: numbers("latents_mean"),
        std: numbers("latents_std"),
    }
}

type Keys = fn(&WanVaeConfig, &str, &[usize]) -> Foreign;

fn read(set: &Set, cx: &Cx, layout: &str, keys: Keys) -> Option<WanVae> {
    let config = config(set);
    let weights = set.weights(&format!("weights.{layout}.safetensors"))?;
    let open = |params: &[(String, Vec<usize>)]| {
        let renamed = Renamed::new(weights, params, |path, shape| keys(&config, path, shape))?;
        Ok(Arc::new(renamed) as _)
    };
    Some(load(cx, open, |cx| WanVae::new(cx, &config)).unwrap_or_else(|error| panic!("{error}")))
}

/// In whichever layout the set has.
fn any(set: &Set, cx: &Cx) -> Option<WanVae> {
    if set.path("weights.original.safetensors").is_file() {
        return read(set, cx, "original", keys::original);
    }
    read(set, cx, "diffusers", keys::diffusers)
}

fn single(set: &Set) -> Option<WanVae> {
    any(set, &Cx::single(&Device::flex()))
}

/// The names of the set's cases that begin so.
fn cases(set: &Set, start: &str) -> Vec<String> {
    let all = set.config()["cases"].as_object().expect("cases").clone();
    let names = all.keys().filter(|name| {
        name.strip_prefix(start)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    names.cloned().collect()
}

fn tensor(file: &File, name: &str, device: &Device, dtype: DType) -> Tensor<5> {
    let shape: [usize; 5] = file.shape(name).try_into().expect("five dimensions");
    Tensor::from_data(TensorData::new(file.f64(name), shape), (device, dtype))
}

fn f32s(file: &File, name: &str) -> Tensor<5> {
    tensor(file, name, &Device::flex(), DType::F32)
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn near<const D: usize>(got: Tensor<D>, want: &[f64], tolerance: f64, what: &str) {
    let error = rms(&numbers(got), want);
    println!("{what}: {error:.2e}");
    assert!(error <= tolerance, "{what} is {error:.2e} off");
}

/// The mean of a Gaussian whose parameters lie side by side.
fn mean(moments: Tensor<5>) -> Tensor<5> {
    let channels = moments.dims()[1] / 2;
    moments.narrow(1, 0, channels)
}

fn both_halves(set: &Set, vae: &WanVae, names: &[String]) {
    for name in names {
        let Some(file) = set.file(&format!("{name}.safetensors")) else {
            continue;
        };
        let (video, frames) = (f32s(&file, "video"), file.f64("decoded_raw_f64"));
        let latents = file.f64("moments_f64");
        let moments = vae.moments(video.clone());
        near(moments, &latents, LATENTS, &format!("{name}, moments"));
        let z = vae.encode(video);
        near(
            z.clone(),
            &file.f64("z_normalised"),
            LATENTS,
            &format!("{name}, normalised"),
        );
        let latent = mean(f32s(&file, "moments_f64"));
        let [_, _, t, h, w] = latent.dims();
        let raw = vae.reconstruct(latent);
        near(raw, &frames, FRAMES, &format!("{name}, frames"));
        let clamped: Vec<f64> = frames.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        near(
            vae.decode(z),
            &clamped,
            FRAMES,
            &format!("{name}, there and back"),
        );
        let [_, _, frames, height, width] = file.shape("video").try_into().unwrap();
        let grid = vae.latent_shape([frames, height, width]).unwrap();
        assert_eq!(grid[1..], [t, h, w]);
    }
}

#[test]
fn both_layouts_of_both_versions() {
    for (name, layouts) in [("wan_vae", 2), ("wan22_vae", 1)] {
        let Some(set) = set(name) else { continue };
        let all: [(&str, Keys); 2] = [("diffusers", keys::diffusers), ("original", keys::original)];
        let mut images = vec![];
        for (layout, keys) in &all[..layouts] {
            let cx = Cx::single(&Device::flex());
            let Some(vae) = read(&set, &cx, layout, *keys) else {
                continue;
            };
            if images.is_empty() {
                both_halves(&set, &vae, &cases(&set, "f"));
            }
            let config = vae.config();
            let shape = [1, 3, 1, 2 * config.scale()[1], config.scale()[2]];
            let image = Tensor::<5>::ones(shape, &Device::flex()) * 0.5;
            images.push(numbers(vae.decode(vae.encode(image))));
        }
        assert!(
            images.windows(2).all(|two| two[0] == two[1]),
            "{name}: layouts differ"
        );
    }
}

/// Names of `vae2_2.py`, whose weights are in no set.
#[test]
fn names_of_the_original_with_shortcuts() {
    let config = WanVaeConfig::wan22();
    let expected = [
        (
            "encoder.stages.1.blocks.0.shortcut.weight",
            "encoder.downsamples.1.downsamples.0.shortcut.weight",
            vec![320, 160, 1, 1, 1],
        ),
        (
            "encoder.stages.1.down.time.weight",
            "encoder.downsamples.1.downsamples.2.time_conv.weight",
            vec![320, 320, 3, 1, 1],
        ),
        (
            "encoder.stages.0.down.space.weight",
            "encoder.downsamples.0.downsamples.2.resample.1.weight",
            vec![160, 160, 3, 3],
        ),
        (
            "decoder.stages.0.up.space.bias",
            "decoder.upsamples.0.upsamples.3.resample.1.bias",
            vec![1024],
        ),
        (
            "decoder.stages.3.blocks.2.norm2.weight",
            "decoder.upsamples.3.upsamples.2.residual.3.gamma",
            vec![256, 1, 1, 1],
        ),
        (
            "decoder.stages.2.blocks.1.conv2.weight",
            "decoder.upsamples.2.upsamples.1.residual.6.weight",
            vec![512, 512, 3, 3, 3],
        ),
        (
            "decoder.middle.attention.key.weight",
            "decoder.middle.1.to_qkv.weight",
            vec![3072, 1024, 1, 1],
        ),
        (
            "encoder.conv_in.weight",
            "encoder.conv1.weight",
            vec![160, 12, 3, 3, 3],
        ),
        (
            "decoder.conv_out.weight",
            "decoder.head.2.weight",
            vec![12, 256, 3, 3, 3],
        ),
        ("to_moments.weight", "conv1.weight", vec![96, 96, 1, 1, 1]),
        ("from_latent.bias", "conv2.bias", vec![48]),
    ];
    let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
    WanVae::new(&cx, &config);
    let table = cx.table();
    let mut places = vec![];
    for spec in table.specs() {
        let shape = &spec.layout.shape;
        let foreign = keys::original(&config, &spec.path, shape);
        if let Some((_, name, shape)) = expected.iter().find(|(path, _, _)| *path == spec.path) {
            assert_eq!(
                (&*foreign.name, &foreign.shape),
                (*name, shape),
                "{}",
                spec.path
            );
        }
        places.push((foreign.name, foreign.rows.start));
    }
    for (path, _, _) in &expected {
        assert!(
            table.specs().iter().any(|spec| spec.path == *path),
            "{path}"
        );
    }
    let all = places.len();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), all, "two parameters lie at one place");
    // Wan 2.1's has 127 million parameters; the file of Wan 2.2's, four bytes each, is of 2.82 GB.
    let parameters = |config: &WanVaeConfig| -> usize {
        let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
        WanVae::new(&cx, config);
        cx.table().specs().iter().map(|spec| spec.local_len()).sum()
    };
    assert_eq!(parameters(&WanVaeConfig::wan21()), 126892531);
    assert_eq!(parameters(&config), 704688668);
}

#[test]
fn pictures_in_tiles() {
    let Some(set) = set("wan_vae") else { return };
    let Some(vae) = single(&set) else { return };
    let names = cases(&set, "tiled_f");
    assert!(!names.is_empty(), "the set has a case in tiles");
    for name in names {
        let number = |word: &str| -> usize {
            let at = name.find(word).expect("a size in the name") + word.len();
            let digits = name[at..].chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse().expect("a number")
        };
        let (size, stride) = (number("min"), number("stride"));
        let vae = vae.clone().tiled(Tiling {
            size: [size; 2],
            stride: [stride; 2],
        });
        both_halves(&set, &vae, &[name]);
    }
}

/// With a patch the tiles are as large in pixels, and a picture of the size of a tile is whole.
#[test]
fn tiles_of_the_version_with_a_patch() {
    let Some(set) = set("wan22_vae") else { return };
    let Some(vae) = single(&set) else { return };
    let [_, sh, sw] = vae.config().scale();
    let Some(file) = set.file(&format!("{}.safetensors", cases(&set, "f").remove(0))) else {
        return;
    };
    let video = f32s(&file, "video");
    let [_, _, _, h, w] = video.dims();
    let whole = vae.moments(video.clone());
    // Tiles of which the first covers the picture, and the second only what is cut off.
    let tiling = Tiling {
        size: [h, w],
        stride: [h, w - sw],
    };
    let tiled = tiling_of(
        &vae,
        Tiling {
            size: [h, w - sw],
            stride: [h, w - sw],
        },
    );
    let exact = vae.clone().tiled(tiling);
    assert_eq!(
        numbers(exact.moments(video.clone())),
        numbers(whole.clone())
    );
    let moments = tiled.moments(video);
    assert_eq!(moments.dims(), whole.dims());
    let frames = tiled.reconstruct(mean(moments));
    assert_eq!(frames.dims()[3..], [h, w]);
    assert!(h % sh == 0 && w > sw, "a picture of several latents");
}

fn tiling_of(vae: &WanVae, tiling: Tiling) -> WanVae {
    vae.clone().tiled(tiling)
}

/// Any number of frames at a time gives what all at once do.
#[test]
fn parts_of_a_video_are_the_whole() {
    for name in ["wan_vae", "wan22_vae"] {
        let Some(set) = set(name) else { continue };
        let Some(vae) = single(&set) else { continue };
        let Some(file) = cases(&set, "f")
            .into_iter()
            .max_by_key(|name| name.len())
            .and_then(|name| set.file(&format!("{name}.safetensors")))
        else {
            continue;
        };
        let video = f32s(&file, "video");
        let frames = video.dims()[2];
        let want = numbers(vae.moments_at_once(video.clone()));
        for step in [1, 3, frames] {
            let mut stream = vae.encoder_stream();
            let parts = (0..frames)
                .step_by(step)
                .filter_map(|at| stream.push(video.clone().narrow(2, at, step.min(frames - at))));
            let got = Tensor::cat(parts.collect(), 2);
            assert_eq!(stream.waiting(), 0);
            near(
                got,
                &want,
                LATENTS,
                &format!("{name}, {step} frames at a time"),
            );
        }
        let latent = mean(vae.moments(video));
        let want = numbers(vae.reconstruct_at_once(latent.clone()));
        let mut stream = vae.decoder_stream();
        let parts = (0..latent.dims()[2]).map(|at| stream.push(latent.clone().narrow(2, at, 1)));
        let got = Tensor::cat(parts.collect(), 2);
        near(
            got,
            &want,
            FRAMES,
            &format!("{name}, a latent frame at a time"),
        );
    }
}

/// The loss of the set's gradients: the squared error, and a little of the distance of the posterior to a
/// standard Gaussian. Returns it with the reconstruction.
fn loss(vae: &WanVae, video: Tensor<5>, eps: Tensor<5>) -> (Tensor<1>, Tensor<5>) {
    let moments = vae.moments_at_once(video.clone());
    let channels = moments.dims()[1] / 2;
    let mean = moments.clone().narrow(1, 0, channels);
    let log = moments.narrow(1, channels, channels).clamp(-30.0, 20.0);
    let distance = (mean.clone().square() + log.clone().exp() - log.clone() - 1.0).mean() * 0.5;
    let rec = vae.reconstruct_at_once(mean + eps * (log * 0.5).exp());
    ((rec.clone() - video).square().mean() + distance * 1e-3, rec)
}

struct Passed {
    loss: f64,
    rec: Vec<f64>,
    video: Vec<f64>,
    params: Vec<(String, Vec<usize>, Vec<f64>)>,
}

/// Loss and gradients, as every rank of `sharding` gets them when they are reduced.
fn backward(set: &Set, file: &File, dtype: DType, sharding: &Arc<Sharding>) -> Option<Passed> {
    let device = Device::flex().autodiff();
    let cx = Cx::new(&device, dtype, 0, sharding);
    let vae = any(set, &cx)?;
    let video = tensor(file, "video", &device, dtype).require_grad();
    let eps = tensor(file, "eps", &device, dtype);
    let (loss, rec) = loss(&vae, video.clone(), eps);
    let value = numbers(loss.clone().inner())[0];
    let mut gradients = loss.backward();
    let of_video = numbers(video.grad_remove(&mut gradients)?);
    let table = cx.table();
    let params = Gradients::take(&vae, &table, &mut gradients).reduce(&table, sharding);
    let specs = table.specs().iter().zip(params.flat());
    Some(Passed {
        loss: value,
        rec: numbers(rec.inner()),
        video: of_video,
        params: specs
            .map(|(spec, flat)| {
                (
                    spec.path.clone(),
                    spec.layout.shape.clone(),
                    numbers(flat.clone()),
                )
            })
            .collect(),
    })
}

/// A tensor of the file as our parameter.
fn ours(values: &[f64], foreign: &Foreign) -> Vec<f64> {
    let rows = foreign.shape[0];
    let width = values.len() / rows;
    let values = &values[foreign.rows.start * width..foreign.rows.end * width];
    if !foreign.transposed {
        return values.to_vec();
    }
    let rows = foreign.rows.len();
    (0..values.len())
        .map(|i| values[i % rows * width + i / rows])
        .collect()
}

#[test]
fn gradients_of_parameters_and_of_the_video() {
    let Some(set) = set("wan_vae") else { return };
    let Some(file) = set.file("grad.safetensors") else {
        return;
    };
    let theirs = set.file("grad.params.safetensors");
    let config = config(&set);
    let Some(exact) = backward(&set, &file, DType::F64, &Sharding::single()) else {
        return;
    };
    let Some(rounded) = backward(&set, &file, DType::F32, &Sharding::single()) else {
        return;
    };
    let want = file.f64("loss_f64")[0];
    assert!(
        (exact.loss / want - 1.0).abs() < 1e-6,
        "loss {} instead of {want}",
        exact.loss
    );
    assert!(
        (rounded.loss / want - 1.0).abs() < 1e-6,
        "loss {} instead of {want}",
        rounded.loss
    );
    let error = rms(&exact.rec, &file.f64("rec_f64"));
    assert!(error < 1e-6, "frames are {error:.2e} off");

    let cases = set.config()["cases"]["grad.params"].clone();
    let theirs_off = cases["worst_rel_rms_f32_vs_f64"]
        .as_f64()
        .expect("how far f32 is off");
    let (mut worst, mut of_theirs) = ((0.0, ""), (0.0, ""));
    for ((path, shape, exact), (_, _, rounded)) in exact.params.iter().zip(&rounded.params) {
        // The gradient of the keys' bias is zero but for rounding: softmax does not see it.
        if path.ends_with("key.bias") {
            continue;
        }
        let beside_theirs = theirs.as_ref().map_or(0.0, |theirs| {
            let foreign = keys::diffusers(&config, path, shape);
            let want = theirs.f64(&format!("grad.{}", foreign.name));
            rms(exact, &ours(&want, &foreign))
        });
        let errors = (beside_theirs, rms(rounded, exact));
        if errors.0 > of_theirs.0 {
            of_theirs = (errors.0, path);
        }
        if errors.1 > worst.0 {
            worst = (errors.1, path);
        }
    }
    println!("f32 beside f64: {worst:?}; the set's f32 beside our f64: {of_theirs:?}");
    assert!(of_theirs.0 <= 3.0 * theirs_off, "{of_theirs:?}");
    assert!(worst.0 <= GRADIENTS, "{worst:?}");
    let of_video = rms(&rounded.video, &exact.video);
    assert!(
        of_video <= GRADIENTS,
        "gradient of the video: {of_video:.2e}"
    );

    // Along some direction, the gradient is the slope.
    let device = Device::flex();
    let cx = Cx::new(&device, DType::F64, 0, &Sharding::single());
    let Some(vae) = any(&set, &cx) else { return };
    let (video, eps) = (
        tensor(&file, "video", &device, DType::F64),
        tensor(&file, "eps", &device, DType::F64),
    );
    let way: Vec<f64> = (0..exact.video.len())
        .map(|i| (i as f64 * 0.37).sin())
        .collect();
    let along = Tensor::from_data(
        TensorData::new(way.clone(), video.dims()),
        (&device, DType::F64),
    );
    let step = 1e-5;
    let [up, down] = [step, -step]
        .map(|step| numbers(loss(&vae, video.clone() + along.clone() * step, eps.clone()).0)[0]);
    let slope: f64 = way.iter().zip(&exact.video).map(|(a, b)| a * b).sum();
    let measured = (up - down) / (2.0 * step);
    assert!(
        (measured / slope - 1.0).abs() < 1e-6,
        "a slope of {measured}, but the gradient says {slope}"
    );
}

/// Runs `body` on so many ranks over which the rows are cut.
fn ranks<T: Send + 'static>(
    n: usize,
    body: impl Fn(&Arc<Sharding>) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let mesh = Mesh {
        cp: n,
        ..Mesh::default()
    };
    let plan = Plan {
        seq: vec![MeshAxis::Cp],
        ..Plan::default()
    };
    let run = local::run(&World::new(n, 1), move |transport| {
        let sharding = Sharding::new(transport, mesh, plan.clone()).expect("a plan that fits");
        Ok::<T, CommError>(body(&sharding))
    });
    run.unwrap_or_else(|error| panic!("{n} stripes: {error}"))
}

/// Every set's case that has rows enough, odd heights among them.
#[test]
fn stripes_are_the_whole_picture() {
    for name in ["wan_vae", "wan22_vae"] {
        let Some(set) = set(name) else { continue };
        for case in cases(&set, "f") {
            let Some(file) = set.file(&format!("{case}.safetensors")) else {
                continue;
            };
            let rows = file.shape("moments")[3];
            for n in (2..=4).filter(|&n| n <= rows) {
                let (of_rank, of_case) = (set.clone(), case.clone());
                let results = ranks(n, move |sharding| {
                    let cx = Cx::new(&Device::flex(), DType::F32, 0, sharding);
                    let vae = any(&of_rank, &cx).expect("weights");
                    let file = of_rank
                        .file(&format!("{of_case}.safetensors"))
                        .expect("a case");
                    let moments = vae.moments(f32s(&file, "video"));
                    let frames = vae.reconstruct(mean(f32s(&file, "moments_f64")));
                    (numbers(moments), numbers(frames))
                });
                for (moments, frames) in results {
                    let errors = (
                        rms(&moments, &file.f64("moments_f64")),
                        rms(&frames, &file.f64("decoded_raw_f64")),
                    );
                    assert!(
                        errors.0 <= LATENTS && errors.1 <= FRAMES,
                        "{name} {case}, {n} stripes: {errors:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_of_stripes_are_those_of_the_whole() {
    let Some(set) = set("wan_vae") else { return };
    let Some(file) = set.file("grad.safetensors") else {
        return;
    };
    let Some(whole) = backward(&set, &file, DType::F64, &Sharding::single()) else {
        return;
    };
    let results = ranks(2, move |sharding| {
        let file = set.file("grad.safetensors").expect("the case");
        backward(&set, &file, DType::F64, sharding).expect("weights")
    });
    for passed in results {
        assert!(
            (passed.loss - whole.loss).abs() < 1e-12,
            "{} and {}",
            passed.loss,
            whole.loss
        );
        let error = rms(&passed.video, &whole.video);
        assert!(error < 1e-11, "gradient of the video: {error:.2e}");
        for ((path, _, got), (_, _, want)) in passed.params.iter().zip(&whole.params) {
            if !path.ends_with("key.bias") {
                let error = rms(got, want);
                assert!(error < 1e-10, "{path}: {error:.2e}");
            }
        }
    }
}

#[test]
fn more_stripes_than_rows_are_refused() {
    let error = ranks(3, |sharding| {
        let config = WanVaeConfig {
            encoder_base: 1,
            decoder_base: 2,
            ..WanVaeConfig::wan21()
        };
        let cx = Cx::dry(&Device::flex(), DType::F32, sharding);
        WanVae::new(&cx, &config)
            .latent_shape([5, 16, 16])
            .unwrap_err()
            .to_string()
    });
    assert!(
        error[0].contains("2 rows cannot be cut into 3 stripes"),
        "{}",
        error[0]
    );
}
