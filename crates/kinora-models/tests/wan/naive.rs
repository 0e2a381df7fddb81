//! The same model written once more, in loops over f64: with complex numbers for rotary positions and
//! sums over all pairs for attention. Its attention is sharp, so that a token in a wrong place shows.

use crate::golden::{Inputs, values};
use crate::job::{Job, run, whole};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_golden::rms;
use kinora_mesh::rng::Stream;
use kinora_models::wan::{ImageConfig, Wan, WanConfig};
use kinora_shard::{Cx, ParamSpec, Recompute, Sharding};
use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::sync::Arc;

type Rows = Vec<Vec<f64>>;

pub(crate) fn config() -> WanConfig {
    WanConfig {
        layers: 2,
        dim: 48,
        ffn: 40,
        heads: 4,
        channels: 5,
        out_channels: 3,
        patch: [1, 2, 2],
        text: 10,
        text_tokens: 6,
        sinusoids: 16,
        epsilon: 1e-6,
        image: Some(ImageConfig {
            width: 14,
            positions: Some(7),
        }),
        boundary: None,
    }
}

const BATCH: usize = 2;
const GRID: [usize; 3] = [3, 2, 3];

/// A parameter's elements: nothing at 0 or 1, and norms of queries and keys that make scores large.
fn parameter(path: &str, shape: &[usize]) -> Vec<f64> {
    let len = shape.iter().product::<usize>() as u64;
    let normals = Stream::new(7, path).normals(0..len);
    let kind = |x: f64| match path {
        _ if path.contains("query_norm") || path.contains("key_norm") => 3.0 + 0.3 * x,
        _ if path.contains("norm") && path.ends_with("weight") => 1.0 + 0.2 * x,
        _ if path.ends_with("weight") => x / (shape[0] as f64).sqrt(),
        _ => 0.3 * x,
    };
    normals.into_iter().map(kind).collect()
}

/// The model, each rank with its part of the parameters.
pub(crate) fn model(cx: &Cx) -> Wan {
    let model = Wan::new(cx, &config());
    let table = cx.table().clone();
    let spec = |id| -> ParamSpec { table.specs()[table.index(id)].clone() };
    struct Fill<F>(F);
    impl<F: Fn(burn::module::ParamId) -> ParamSpec> ModuleMapper for Fill<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let spec = (self.0)(param.id);
            let whole = parameter(&spec.path, &spec.layout.shape);
            let mut mine = vec![];
            spec.layout
                .runs(|start, len| mine.extend_from_slice(&whole[start..start + len]));
            let (id, old, _) = param.consume();
            let data = TensorData::new(mine, old.dims());
            let new = Tensor::from_data(data, (&old.device(), old.dtype()));
            Param::initialized(
                id,
                if old.is_autodiff() {
                    new.require_grad()
                } else {
                    new
                },
            )
        }
    }
    model.map(&mut Fill(spec))
}

fn normals(name: &str, len: usize) -> Vec<f64> {
    Stream::new(8, name).normals(0..len as u64)
}

pub(crate) fn inputs(device: &Device, dtype: DType) -> Inputs {
    let config = config();
    let [t, h, w] = [0, 1, 2].map(|i| GRID[i] * config.patch[i]);
    let tokens: usize = GRID.iter().product();
    let of = |name: &str, shape: &[usize]| {
        let values = normals(name, shape.iter().product());
        // Rounded, so that all dtypes compute of the same.
        let values: Vec<f64> = values.iter().map(|&x| f64::from(x as f32)).collect();
        TensorData::new(values, shape.to_vec())
    };
    let times: Vec<f64> = (0..BATCH * tokens)
        .map(|i| (i * 27 % 1000) as f64)
        .collect();
    let options = (device, dtype);
    Inputs {
        latent: Tensor::from_data(of("latent", &[BATCH, config.channels, t, h, w]), options),
        time: Tensor::from_data(
            TensorData::new(times, [BATCH, tokens]),
            (device, DType::F64),
        ),
        text: Tensor::from_data(of("text", &[BATCH, 4, config.text]), options),
        image: Some(Tensor::from_data(of("image", &[BATCH, 7, 14]), options)),
    }
}

/// The parameters by path.
struct Naive {
    config: WanConfig,
    params: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Naive {
    fn get(&self, path: &str) -> &[f64] {
        &self.params[path].1
    }

    fn linear(&self, path: &str, x: &Rows) -> Rows {
        let (shape, weight) = &self.params[&format!("{path}.weight")];
        let bias = self.get(&format!("{path}.bias"));
        let to = shape[1];
        let one = |x: &Vec<f64>| {
            let sum = |j: usize| -> f64 { (0..shape[0]).map(|i| x[i] * weight[i * to + j]).sum() };
            (0..to).map(|j| sum(j) + bias[j]).collect()
        };
        x.iter().map(one).collect()
    }

    fn rms_norm(&self, path: &str, x: &Rows) -> Rows {
        let weight = self.get(&format!("{path}.weight"));
        let one = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let by = (mean + self.config.epsilon).sqrt();
            x.iter().zip(weight).map(|(x, w)| x / by * w).collect()
        };
        x.iter().map(one).collect()
    }

    fn affine(&self, path: &str, x: &Rows, epsilon: f64) -> Rows {
        let (weight, bias) = (
            self.get(&format!("{path}.weight")),
            self.get(&format!("{path}.bias")),
        );
        let scaled = |x: Vec<f64>| (0..x.len()).map(|i| x[i] * weight[i] + bias[i]).collect();
        layer_norm(x, epsilon).into_iter().map(scaled).collect()
    }

    fn time(&self, times: &[f64]) -> Rows {
        let half = self.config.sinusoids / 2;
        let rate = |i: usize| (-(i as f64) / half as f64 * 10_000_f64.ln()).exp();
        let sinusoids = |&t: &f64| {
            let cos = (0..half).map(|i| (t * rate(i)).cos());
            let sin = (0..half).map(|i| (t * rate(i)).sin());
            cos.chain(sin).collect()
        };
        let x = times.iter().map(sinusoids).collect();
        let x = each(&self.linear("time.first", &x), silu);
        self.linear("time.second", &x)
    }

    /// Shift, scale and gate of each token: a row of a table plus a part of what is shared.
    fn row(&self, path: &str, i: usize, of: &[f64], part: usize) -> Vec<f64> {
        let dim = self.config.dim;
        let table = &self.get(path)[i * dim..][..dim];
        (0..dim).map(|j| table[j] + of[part * dim + j]).collect()
    }

    fn block(&self, at: usize, x: Rows, shared: &Rows, text: &Rows, image: &Rows) -> Rows {
        let path = |name: &str| format!("blocks.{at}.{name}");
        let table = path("modulation.table");
        let part =
            |i: usize| -> Rows { shared.iter().map(|of| self.row(&table, i, of, i)).collect() };
        let y = modulate(&layer_norm(&x, self.config.epsilon), &part(0), &part(1));
        let norm = |name: &str, x: Rows| self.rms_norm(&path(name), &x);
        let query = norm("attn.query_norm", self.linear(&path("attn.query"), &y));
        let key = norm("attn.key_norm", self.linear(&path("attn.key"), &y));
        let value = self.linear(&path("attn.value"), &y);
        let y = self.attend(&self.turn(&query), &self.turn(&key), &value);
        let y = self.linear(&path("attn.out"), &y);
        let x = add(&x, &multiply(&y, &part(2)));

        let y = self.affine(&path("norm2"), &x, self.config.epsilon);
        let query = norm("cross.query_norm", self.linear(&path("cross.query"), &y));
        let key = norm("cross.key_norm", self.linear(&path("cross.key"), text));
        let of_text = self.attend(&query, &key, &self.linear(&path("cross.value"), text));
        let key = self.linear(&path("cross.image_key"), image);
        let key = norm("cross.image_key_norm", key);
        let of_image = self.attend(
            &query,
            &key,
            &self.linear(&path("cross.image_value"), image),
        );
        let y = self.linear(&path("cross.out"), &add(&of_text, &of_image));
        let x = add(&x, &y);

        let y = modulate(&layer_norm(&x, self.config.epsilon), &part(3), &part(4));
        let y = each(&self.linear(&path("mlp.up"), &y), gelu_tanh);
        let y = self.linear(&path("mlp.down"), &y);
        add(&x, &multiply(&y, &part(5)))
    }

    /// Rotary positions as products of complex numbers.
    fn turn(&self, x: &Rows) -> Rows {
        let [_, height, width] = GRID;
        let head = self.config.dim / self.config.heads;
        let side = 2 * (head / 6);
        let widths = [head - 2 * side, side, side];
        let one = |(token, x): (usize, &Vec<f64>)| {
            let place = [
                token / (height * width),
                token / width % height,
                token % width,
            ];
            let mut out = vec![];
            for at in (0..x.len()).step_by(2) {
                let mut pair = at % head;
                let mut axis = 0;
                while pair >= widths[axis] {
                    pair -= widths[axis];
                    axis += 1;
                }
                let rate = 1.0 / 10_000_f64.powf(pair as f64 / widths[axis] as f64);
                let (sin, cos) = (place[axis] as f64 * rate).sin_cos();
                let (real, imaginary) = (x[at], x[at + 1]);
                out.push(real * cos - imaginary * sin);
                out.push(real * sin + imaginary * cos);
            }
            out
        };
        x.iter().enumerate().map(one).collect()
    }

    fn attend(&self, query: &Rows, key: &Rows, value: &Rows) -> Rows {
        let head = self.config.dim / self.config.heads;
        let one = |q: &Vec<f64>| {
            let mut out = vec![];
            for at in (0..q.len()).step_by(head) {
                let score = |k: &Vec<f64>| -> f64 {
                    let dot: f64 = (at..at + head).map(|i| q[i] * k[i]).sum();
                    dot / (head as f64).sqrt()
                };
                let scores: Vec<f64> = key.iter().map(score).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let of = |i: usize| -> f64 {
                    weights
                        .iter()
                        .zip(value)
                        .map(|(w, v)| w * v[i])
                        .sum::<f64>()
                        / sum
                };
                out.extend((at..at + head).map(of));
            }
            out
        };
        query.iter().map(one).collect()
    }

    /// One sample: a latent of whole patches, a time for each token, text with its padding, an image.
    fn forward(&self, latent: &[f64], times: &[f64], text: &Rows, image: &Rows) -> Vec<f64> {
        let config = &self.config;
        let [pt, ph, pw] = config.patch;
        let [t, h, w] = [0, 1, 2].map(|i| GRID[i] * config.patch[i]);
        // Calls `visit` with the token, the place in the patch, and the place in a channel.
        let places = |visit: &mut dyn FnMut(usize, usize, usize)| {
            for (f, y, x) in (0..t * h * w).map(|i| (i / (h * w), i / w % h, i % w)) {
                let token = (f / pt * GRID[1] + y / ph) * GRID[2] + x / pw;
                let inside = (f % pt * ph + y % ph) * pw + x % pw;
                visit(token, inside, (f * h + y) * w + x);
            }
        };
        let patch = pt * ph * pw;
        let mut x = vec![vec![0.0; config.channels * patch]; times.len()];
        places(&mut |token, inside, at| {
            for c in 0..config.channels {
                x[token][c * patch + inside] = latent[c * t * h * w + at];
            }
        });
        let mut x = self.linear("patch", &x);
        let time = self.time(times);
        let shared = self.linear("time.project", &each(&time, silu));
        let text = each(&self.linear("text.first", text), gelu_tanh);
        let text = self.linear("text.second", &text);
        let width = config.image.as_ref().expect("an image").width;
        let positions = self.get("image.positions").chunks(width);
        let image: Rows = image
            .iter()
            .zip(positions)
            .map(|(x, p)| x.iter().zip(p).map(|(x, p)| x + p).collect())
            .collect();
        let image = self.linear("image.first", &self.affine("image.norm1", &image, 1e-5));
        let image = self.linear("image.second", &each(&image, gelu));
        let image = self.affine("image.norm2", &image, 1e-5);
        for at in 0..config.layers {
            x = self.block(at, x, &shared, &text, &image);
        }
        let of = |i: usize| -> Rows {
            time.iter()
                .map(|of| self.row("head.table", i, of, 0))
                .collect()
        };
        let x = modulate(&layer_norm(&x, config.epsilon), &of(0), &of(1));
        let x = self.linear("head.linear", &x);
        let mut out = vec![0.0; config.out_channels * t * h * w];
        places(&mut |token, inside, at| {
            for c in 0..config.out_channels {
                out[c * t * h * w + at] = x[token][inside * config.out_channels + c];
            }
        });
        out
    }

    /// All samples of [`inputs`].
    fn velocity(&self, inputs: &Inputs) -> Vec<f64> {
        let rows = |x: &Tensor<3>, sample: usize| -> Rows {
            let [_, _, width] = x.dims();
            let flat = values(x.clone().narrow(0, sample, 1));
            flat.chunks(width).map(<[f64]>::to_vec).collect()
        };
        (0..BATCH)
            .flat_map(|i| {
                let latent = values(inputs.latent.clone().narrow(0, i, 1));
                let times = values(inputs.time.clone().narrow(0, i, 1));
                let mut text = rows(&inputs.text, i);
                text.resize(self.config.text_tokens, vec![0.0; self.config.text]);
                let image = rows(inputs.image.as_ref().expect("an image"), i);
                self.forward(&latent, &times, &text, &image)
            })
            .collect()
    }
}

fn layer_norm(x: &Rows, epsilon: f64) -> Rows {
    let one = |x: &Vec<f64>| {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let by = (variance + epsilon).sqrt();
        x.iter().map(|x| (x - mean) / by).collect()
    };
    x.iter().map(one).collect()
}

fn modulate(x: &Rows, shift: &Rows, scale: &Rows) -> Rows {
    add(&multiply(x, &each(scale, |s| 1.0 + s)), shift)
}

fn add(a: &Rows, b: &Rows) -> Rows {
    both(a, b, |a, b| a + b)
}

fn multiply(a: &Rows, b: &Rows) -> Rows {
    both(a, b, |a, b| a * b)
}

fn both(a: &Rows, b: &Rows, of: fn(f64, f64) -> f64) -> Rows {
    let one = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| of(*a, *b)).collect()
    };
    a.iter().zip(b).map(one).collect()
}

fn each(x: &Rows, of: fn(f64) -> f64) -> Rows {
    x.iter()
        .map(|x| x.iter().map(|&x| of(x)).collect())
        .collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// `x / 2 (1 + erf(x / sqrt 2))`, by the series of the error function.
fn gelu(x: f64) -> f64 {
    let z = x / 2_f64.sqrt();
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    0.5 * x * (1.0 + sum * 2.0 / PI.sqrt())
}

fn naive() -> Naive {
    let cx = Cx::new(&Device::flex(), DType::F64, 0, &Sharding::single());
    Wan::new(&cx, &config());
    let table = cx.table();
    let of = |spec: &ParamSpec| {
        let shape = spec.layout.shape.clone();
        let values = parameter(&spec.path, &shape);
        (spec.path.clone(), (shape, values))
    };
    Naive {
        config: config(),
        params: table.specs().iter().map(of).collect(),
    }
}

fn job(dtype: DType) -> Job {
    Job {
        build: Arc::new(model),
        inputs: Arc::new(|device, dtype| (inputs(device, dtype), None)),
        dtype,
        recompute: Recompute::None,
    }
}

#[test]
fn velocities_are_those_of_plain_loops() {
    let want = naive().velocity(&inputs(&Device::flex(), DType::F64));
    let got = run(&whole(), &job(DType::F64)).velocity;
    let far = rms(&got, &want);
    println!("f64: {far:.1e}");
    assert!(far <= 1e-12, "{far:e}");
}

/// The derivative of the loss along a random direction of each parameter, by differences.
#[test]
fn gradients_are_the_slopes_of_plain_loops() {
    let inputs = inputs(&Device::flex(), DType::F64);
    let ran = run(&whole(), &job(DType::F64));
    let mut naive = naive();
    let loss = |naive: &Naive| {
        let velocity = naive.velocity(&inputs);
        velocity.iter().map(|x| x * x).sum::<f64>() / velocity.len() as f64
    };
    let step = 1e-5;
    for (path, (_, gradient)) in &ran.params {
        let direction = normals(path, gradient.len());
        let mut at = |step: f64| {
            let (_, values) = naive.params.get_mut(path).expect("the same parameters");
            let kept = values.clone();
            for (x, d) in values.iter_mut().zip(&direction) {
                *x += step * d;
            }
            let loss = loss(&naive);
            naive.params.get_mut(path).expect("the same parameters").1 = kept;
            loss
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let far = (slope - along).abs() / size;
        assert!(far <= 1e-5, "{path}: slope {slope} for {along}");
        assert!(size > 0.0, "{path} has no gradient");
    }
}
