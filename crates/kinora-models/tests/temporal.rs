//! Movie Gen's temporal autoencoder beside a plain one in PyTorch, in tiles and in stripes, and what
//! holds of any: an image is a still video, and an inflated model starts as one of images.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_ckpt::{Foreign, Renamed};
use kinora_comm::CommError;
use kinora_comm::local::{self, World};
use kinora_golden::{File, Set, rms, set};
use kinora_mesh::{Mesh, MeshAxis, Plan};
use kinora_models::autoencoder::Autoencoder;
use kinora_models::autoencoder::temporal::{Distance, LossConfig, TemporalVae, TemporalVaeConfig};
use kinora_shard::{Cx, Gradients, Sharding, load};
use std::sync::Arc;

const MOMENTS: f64 = 1e-6;
const FRAMES: f64 = 2e-6;
const GRADIENTS: f64 = 5e-6;

fn config(set: &Set) -> TemporalVaeConfig {
    serde_json::from_value(set.config()["config"].clone()).expect("our settings")
}

/// Our names, and PyTorch's shapes.
fn torch(path: &str, shape: &[usize]) -> Foreign {
    let &[from, to] = shape else {
        return Foreign::same(path, shape);
    };
    let words: Vec<&str> = path.split('.').collect();
    let layer = words[words.len() - 2];
    // Attention's layers are linear; the other matrices are convolutions, of frames or along time.
    let kernel: &[usize] = match layer {
        "query" | "key" | "value" | "out" => &[],
        "time" => &[3],
        _ if words[words.len() - 3] == "shortcut" => &[1, 1],
        _ => &[3, 3],
    };
    let channels = from / kernel.iter().product::<usize>();
    Foreign::linear(path, shape).shaped(&[&[to, channels], kernel].concat())
}

fn read(set: &Set, cx: &Cx) -> Option<TemporalVae> {
    let config = config(set);
    let weights = set.weights("weights.safetensors")?;
    let open =
        |params: &[(String, Vec<usize>)]| Ok(Arc::new(Renamed::new(weights, params, torch)?) as _);
    let model = load(cx, open, |cx| TemporalVae::new(cx, &config));
    Some(model.unwrap_or_else(|error| panic!("{error}")))
}

fn cases(set: &Set, start: &str) -> Vec<File> {
    let all = set.config()["cases"].as_object().expect("cases").clone();
    let names = all.keys().filter(|name| {
        let rest = name.strip_prefix(start);
        rest.is_some_and(|rest| start != "f" || rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    names
        .filter_map(|name| set.file(&format!("{name}.safetensors")))
        .collect()
}

fn tensor(file: &File, name: &str, device: &Device, dtype: DType) -> Tensor<5> {
    let shape: [usize; 5] = file.shape(name).try_into().expect("five dimensions");
    Tensor::from_data(TensorData::new(file.f64(name), shape), (device, dtype))
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn near<const D: usize>(got: Tensor<D>, want: &[f64], tolerance: f64, what: &str) {
    let error = rms(&numbers(got), want);
    println!("{what}: {error:.2e}");
    assert!(error <= tolerance, "{what} is {error:.2e} off");
}

fn videos(shape: [usize; 5], device: &Device) -> Tensor<5> {
    let values: Vec<f64> = (0..shape.iter().product::<usize>())
        .map(|i| (i as f64 * 0.7).sin() * 0.9)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

#[test]
fn both_halves_whole_and_in_tiles() {
    let Some(set) = set("temporal") else { return };
    let device = Device::flex();
    let Some(vae) = read(&set, &Cx::single(&device)) else {
        return;
    };
    let cases = cases(&set, "f");
    assert!(!cases.is_empty(), "the set has cases");
    for file in &cases {
        let [video, latent] =
            ["video", "latent"].map(|name| tensor(file, name, &device, DType::F32));
        let [_, _, frames, height, width] = video.dims();
        let [_, c, t, h, w] = latent.dims();
        let what = format!("{frames} frames of {height}x{width}");
        assert_eq!(vae.latent_shape([frames, height, width]), Ok([c, t, h, w]));
        let (moments, whole) = (file.f64("moments_f64"), file.f64("frames_f64"));
        let at_once = vae.moments_at_once(video.clone());
        near(at_once, &moments, MOMENTS, &format!("{what}, moments"));
        let at_once = vae.reconstruct_at_once(latent.clone());
        near(at_once, &whole, FRAMES, &format!("{what}, frames"));
        let (tiled, blended) = if file.has("tiled_f64") {
            (file.f64("tiled_f64"), file.f64("blended_f64"))
        } else {
            (moments, whole)
        };
        let got = vae.moments(video.clone());
        near(got, &tiled, MOMENTS, &format!("{what}, moments in tiles"));
        let got = vae.reconstruct(latent.clone());
        near(got, &blended, FRAMES, &format!("{what}, frames in tiles"));

        // Behind the interface, latents are normalised, and frames clamped.
        let (mean, std) = (vae.config().mean.clone(), vae.config().std.clone());
        let each = t * h * w;
        let normal = |i: usize, x: f64| (x - mean[i / each % c]) / std[i / each % c];
        let means: Vec<f64> = tiled
            .chunks(2 * c * each)
            .flat_map(|both| both[..c * each].to_vec())
            .collect();
        let want: Vec<f64> = means
            .iter()
            .enumerate()
            .map(|(i, &x)| normal(i, x))
            .collect();
        near(
            vae.encode(video),
            &want,
            MOMENTS,
            &format!("{what}, encoded"),
        );
        let clamped: Vec<f64> = blended.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let got = vae.decode(vae.normalise(latent));
        near(got, &clamped, FRAMES, &format!("{what}, decoded"));
    }
    let long = cases.iter().filter(|file| file.has("tiled_f64")).count();
    assert!(long > 0, "a case is longer than a tile");
}

struct Passed {
    parts: Vec<f64>,
    video: Vec<f64>,
    params: Vec<(String, Vec<usize>, Vec<f64>)>,
}

fn backward(
    set: &Set,
    file: &File,
    dtype: DType,
    distance: Distance,
    sharding: &Arc<Sharding>,
) -> Option<Passed> {
    let device = Device::flex().autodiff();
    let cx = Cx::new(&device, dtype, 0, sharding);
    let vae = read(set, &cx)?;
    let weight = |name: &str| set.config()["losses"][name].as_f64().expect(name);
    let loss = LossConfig {
        distance,
        divergence: weight("divergence"),
        outliers: weight("outliers"),
        radius: weight("radius"),
    };
    let video = tensor(file, "video", &device, dtype).require_grad();
    let losses = vae.losses(video.clone(), tensor(file, "eps", &device, dtype), &loss);
    let outliers = losses.outliers.clone().expect("a weight that is not zero");
    let parts = [
        &losses.total,
        &losses.reconstruction,
        &losses.divergence,
        &outliers,
    ]
    .map(|part| part.clone().inner().into_scalar::<f64>());
    let mut gradients = losses.total.backward();
    let of_video = numbers(video.grad_remove(&mut gradients)?);
    let table = cx.table();
    let params = Gradients::take(&vae, &table, &mut gradients).reduce(&table, sharding);
    let specs = table.specs().iter().zip(params.flat());
    let params = specs.map(|(spec, flat)| {
        (
            spec.path.clone(),
            spec.layout.shape.clone(),
            numbers(flat.clone()),
        )
    });
    Some(Passed {
        parts: parts.to_vec(),
        video: of_video,
        params: params.collect(),
    })
}

/// A tensor `[to, from..]` of the file as our `[from.., to]`.
fn turned(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let &[from, to] = shape else {
        return values.to_vec();
    };
    (0..from * to)
        .map(|i| values[i % to * from + i / to])
        .collect()
}

#[test]
fn losses_and_their_gradients() {
    let Some(set) = set("temporal") else { return };
    for (name, distance) in [("loss_l1", Distance::L1), ("loss_l2", Distance::L2)] {
        let Some(file) = set.file(&format!("{name}.safetensors")) else {
            continue;
        };
        let want: Vec<f64> = ["total", "reconstruction", "divergence", "outliers"]
            .iter()
            .map(|part| file.f64(part)[0])
            .collect();
        assert!(
            want.iter().all(|&part| part > 0.0),
            "{name}: every part is on"
        );
        for dtype in [DType::F64, DType::F32] {
            let single = Sharding::single();
            let Some(got) = backward(&set, &file, dtype, distance, &single) else {
                return;
            };
            let error = rms(&got.parts, &want);
            assert!(
                error <= FRAMES,
                "{name}, {dtype:?}: {:?}, but {want:?}",
                got.parts
            );
            let error = rms(&got.video, &file.f64("grad_video"));
            println!("{name}, {dtype:?}, gradient of the video: {error:.2e}");
            assert!(
                error <= GRADIENTS,
                "{name}, {dtype:?}: of the video {error:.2e}"
            );
            let mut worst = (0.0, "");
            for (path, shape, got) in &got.params {
                // Softmax does not see the keys' bias: its gradient is zero but for rounding.
                let theirs = format!("grad.{path}");
                if path.ends_with("key.bias") || !file.has(&theirs) {
                    continue;
                }
                let error = rms(got, &turned(&file.f64(&theirs), shape));
                if error > worst.0 {
                    worst = (error, path);
                }
            }
            println!("{name}, {dtype:?}, worst gradient: {worst:?}");
            assert!(
                worst.0 <= GRADIENTS,
                "{name}, {dtype:?}: {worst:?}, above {GRADIENTS:.1e}"
            );
        }
    }
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

#[test]
fn stripes_are_the_whole_picture() {
    let Some(set) = set("temporal") else { return };
    let Some(file) = set.file("loss_l1.safetensors") else {
        return;
    };
    let whole = backward(&set, &file, DType::F64, Distance::L1, &Sharding::single());
    let Some(whole) = whole else { return };
    for passed in ranks(2, move |sharding| {
        let file = set.file("loss_l1.safetensors").expect("the case");
        backward(&set, &file, DType::F64, Distance::L1, sharding).expect("weights")
    }) {
        assert!(rms(&passed.parts, &whole.parts) < 1e-12);
        assert!(rms(&passed.video, &whole.video) < 1e-11);
        for ((path, _, got), (_, _, want)) in passed.params.iter().zip(&whole.params) {
            let error = rms(got, want);
            assert!(
                path.ends_with("key.bias") || error < 1e-10,
                "{path}: {error:.2e}"
            );
        }
    }
}

#[test]
fn an_image_is_a_still_video() {
    let Some(set) = set("temporal") else { return };
    let device = Device::flex();
    let cx = Cx::new(&device, DType::F64, 0, &Sharding::single());
    let Some(vae) = read(&set, &cx) else { return };
    let [step, h, w] = vae.config().scale();
    let image = videos([1, 3, 1, 2 * h, 2 * w], &device);
    let latent = vae.encode(image.clone());
    let still = vae.encode(image.repeat_dim(2, 3 * step));
    assert_eq!(still.dims()[2], 3);
    let want = numbers(latent.clone().repeat_dim(2, 3));
    near(still, &want, 1e-12, "latents of a still video");
    let frames = vae.reconstruct(latent.clone());
    assert_eq!(frames.dims()[2], step);
    let long = vae.reconstruct_at_once(latent.repeat_dim(2, 2));
    let want = numbers(frames.repeat_dim(2, 2));
    near(long, &want, 1e-12, "frames of a still latent");
}

/// At the start, each frame is what the model of images makes of it, wherever frames are not halved.
#[test]
fn a_fresh_model_is_one_of_images() {
    let config = TemporalVaeConfig {
        base: 4,
        multipliers: vec![1, 2],
        blocks: 1,
        channels: 2,
        halves_frames: 0,
        halves_sides: 1,
        patch: 1,
        ..TemporalVaeConfig::movie_gen()
    };
    let device = Device::flex();
    let cx = Cx::new(&device, DType::F64, 3, &Sharding::single());
    let vae = TemporalVae::new(&cx, &config);
    let video = videos([1, 3, 3, 4, 6], &device);
    let moments = vae.moments(video.clone());
    let latent = moments.clone().narrow(1, 0, 2);
    let alone: Vec<Tensor<5>> = (0..3)
        .map(|at| vae.moments(video.clone().narrow(2, at, 1)))
        .collect();
    near(moments, &numbers(Tensor::cat(alone, 2)), 1e-12, "moments");
    let alone: Vec<Tensor<5>> = (0..3)
        .map(|at| vae.reconstruct(latent.clone().narrow(2, at, 1)))
        .collect();
    near(
        vae.reconstruct(latent),
        &numbers(Tensor::cat(alone, 2)),
        1e-12,
        "frames",
    );
}

#[test]
fn the_released_sizes() {
    let parameters = |config: &TemporalVaeConfig| -> usize {
        let cx = Cx::dry(&Device::flex(), DType::F32, &Sharding::single());
        TemporalVae::new(&cx, config);
        cx.table().specs().iter().map(|spec| spec.local_len()).sum()
    };
    let config = TemporalVaeConfig::movie_gen();
    let flat = TemporalVaeConfig {
        halves_frames: 0,
        ..config.clone()
    };
    // Halving frames adds no weights: the convolutions along time are there anyway.
    assert_eq!(parameters(&config), parameters(&flat));
    println!("{} parameters", parameters(&config));
    let error = TemporalVaeConfig { tile: 12, ..config }
        .check()
        .unwrap_err();
    assert!(error.to_string().contains("12 frames"), "{error}");
}
