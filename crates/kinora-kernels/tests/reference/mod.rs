//! Attention by definition, one number at a time, in f64.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Sizes of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) b: usize,
    pub(crate) h: usize,
    pub(crate) s: usize,
    pub(crate) l: usize,
    pub(crate) k: usize,
}

/// Inputs of attention and a gradient of its output, as plain numbers.
pub(crate) struct Case {
    pub(crate) sizes: Sizes,
    pub(crate) q: Vec<f64>,
    pub(crate) k: Vec<f64>,
    pub(crate) v: Vec<f64>,
    pub(crate) d_out: Vec<f64>,
    pub(crate) mask: Option<Vec<bool>>,
}

/// What attention is of a [`Case`].
pub(crate) struct Answer {
    pub(crate) out: Vec<f64>,
    pub(crate) logsumexp: Vec<f64>,
    pub(crate) d_q: Vec<f64>,
    pub(crate) d_k: Vec<f64>,
    pub(crate) d_v: Vec<f64>,
}

/// Numbers around zero with a standard deviation near one, the same for the same seed.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n)
        .map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.7)
        .collect()
}

pub(crate) fn tensor<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::<D>::from_data(data, (&Device::flex(), DType::F64)).cast(dtype)
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

impl Case {
    pub(crate) fn new(sizes: Sizes, seed: u64) -> Self {
        let Sizes { b, h, s, l, k } = sizes;
        Self {
            sizes,
            q: numbers(b * h * s * k, seed),
            k: numbers(b * h * l * k, seed + 1),
            v: numbers(b * h * l * k, seed + 2),
            d_out: numbers(b * h * s * k, seed + 3),
            mask: None,
        }
    }

    /// Hides a third of the keys, and all of the last sample if there are several.
    pub(crate) fn masked(mut self) -> Self {
        let Sizes { b, l, .. } = self.sizes;
        let mask = (0..b * l)
            .map(|at| !(at % 3 == 1 || (b > 1 && at / l == b - 1)))
            .collect();
        self.mask = Some(mask);
        self
    }

    pub(crate) fn answer(&self) -> Answer {
        let Sizes { b, h, s, l, k } = self.sizes;
        let scale = (k as f64).sqrt().recip();
        let mut answer = Answer {
            out: vec![0.0; self.q.len()],
            logsumexp: vec![f64::NEG_INFINITY; b * h * s],
            d_q: vec![0.0; self.q.len()],
            d_k: vec![0.0; self.k.len()],
            d_v: vec![0.0; self.v.len()],
        };
        for head in 0..b * h {
            for row in 0..s {
                let at = (head * s + row) * k;
                let key = |j: usize| (head * l + j) * k;
                let seen: Vec<usize> = (0..l)
                    .filter(|j| self.mask.as_ref().is_none_or(|mask| mask[head / h * l + j]))
                    .collect();
                if seen.is_empty() {
                    continue;
                }
                let dot = |x: &[f64], i: usize, y: &[f64], j: usize| -> f64 {
                    (0..k).map(|c| x[i + c] * y[j + c]).sum()
                };
                let scores: Vec<f64> = (seen.iter())
                    .map(|&j| dot(&self.q, at, &self.k, key(j)) * scale)
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
                answer.logsumexp[head * s + row] = max + sum.ln();
                let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp() / sum).collect();
                let d_weights: Vec<f64> = (seen.iter())
                    .map(|&j| dot(&self.d_out, at, &self.v, key(j)))
                    .collect();
                let delta: f64 = weights.iter().zip(&d_weights).map(|(w, d)| w * d).sum();
                for (i, &j) in seen.iter().enumerate() {
                    let d_score = weights[i] * (d_weights[i] - delta) * scale;
                    for c in 0..k {
                        answer.out[at + c] += weights[i] * self.v[key(j) + c];
                        answer.d_v[key(j) + c] += weights[i] * self.d_out[at + c];
                        answer.d_q[at + c] += d_score * self.k[key(j) + c];
                        answer.d_k[key(j) + c] += d_score * self.q[at + c];
                    }
                }
            }
        }
        answer
    }
}

/// The largest difference, relative to the largest expected number or one.
pub(crate) fn difference(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let scale = (expected.iter().filter(|x| x.is_finite())).fold(1.0f64, |m, x| m.max(x.abs()));
    (got.iter().zip(expected))
        .map(|(a, b)| {
            if a == b {
                0.0
            } else if (a - b).is_finite() {
                (a - b).abs() / scale
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}
