//! Attention on slices in host memory.

use super::tensors::Saved;
use crate::host::{Flat, Heads, tensor};
use crate::matrix::{Into, Matrix, multiply};
use crate::real::{Real, dot, largest, total, vectorised};
use burn::tensor::{Bool, Tensor};
use rayon::prelude::*;
use std::ops::Range;

// A tile of f32 scores is 128 KiB: with its queries, keys and values it stays in a core's own cache.
const QUERIES: usize = 128;
const KEYS: usize = 256;

/// Output and logsumexp; parallel over samples, heads and tiles of queries.
pub(super) fn forward<T: Real>(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
) -> (Tensor<4>, Tensor<3>) {
    let [b, h, s, width] = query.dims();
    let l = key.dims()[2];
    let mut out = vec![T::ZERO; b * h * s * width];
    let mut logsumexp = vec![T::NEG_INFINITY; b * h * s];
    if !out.is_empty() && l > 0 {
        let scale = T::of((width as f64).powf(-0.5));
        let mask = mask.map(truths);
        let (query, key, value) = (Heads::of(query), Heads::of(key), Heads::of(value));
        let heads = out
            .par_chunks_mut(s * width)
            .zip(logsumexp.par_chunks_mut(s));
        heads.enumerate().for_each(|(head, (out, logsumexp))| {
            let query = query.matrix(head);
            let keys = KeysAndValues {
                key: key.matrix(head),
                value: value.matrix(head),
                seen: mask.as_ref().map(|mask| &mask[head / h * l..][..l]),
                len: l,
            };
            let tiles = out
                .par_chunks_mut(QUERIES * width)
                .zip(logsumexp.par_chunks_mut(QUERIES));
            tiles.enumerate().for_each(|(tile, (out, logsumexp))| {
                let query = query.part(tile * QUERIES, logsumexp.len());
                forward_tile(query, &keys, scale, out, logsumexp);
            });
        });
    }
    (tensor(out, [b, h, s, width]), tensor(logsumexp, [b, h, s]))
}

/// The gradients of query, key and value; parallel over samples and heads, each of which sums in one order.
pub(super) fn backward<T: Real>(saved: Saved) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [b, h, s, width] = saved.query.dims();
    let l = saved.key.dims()[2];
    let mut d_query = vec![T::ZERO; b * h * s * width];
    let mut d_key = vec![T::ZERO; b * h * l * width];
    let mut d_value = vec![T::ZERO; b * h * l * width];
    if !d_query.is_empty() && l > 0 {
        let scale = T::of((width as f64).powf(-0.5));
        let mask = saved.mask.map(truths);
        let logsumexp = Flat::<T>::of(saved.logsumexp);
        let (query, key, value) = (
            Heads::of(saved.query),
            Heads::of(saved.key),
            Heads::of(saved.value),
        );
        let (out, d_out) = (Heads::of(saved.out), Heads::of(saved.d_out));
        let heads = d_query
            .par_chunks_mut(s * width)
            .zip(d_key.par_chunks_mut(l * width))
            .zip(d_value.par_chunks_mut(l * width));
        heads
            .enumerate()
            .for_each(|(head, ((d_query, d_key), d_value))| {
                let queries = Queries {
                    query: query.matrix(head),
                    out: out.matrix(head),
                    d_out: d_out.matrix(head),
                    logsumexp: &logsumexp[head * s..][..s],
                };
                let keys = KeysAndValues {
                    key: key.matrix(head),
                    value: value.matrix(head),
                    seen: mask.as_ref().map(|mask| &mask[head / h * l..][..l]),
                    len: l,
                };
                backward_head(&queries, &keys, scale, width, d_query, d_key, d_value);
            });
    }
    (
        tensor(d_query, [b, h, s, width]),
        tensor(d_key, [b, h, l, width]),
        tensor(d_value, [b, h, l, width]),
    )
}

/// Those of one head.
struct KeysAndValues<'a, T> {
    key: Matrix<'a, T>,
    value: Matrix<'a, T>,
    seen: Option<&'a [bool]>,
    len: usize,
}

impl<T> KeysAndValues<'_, T> {
    /// The tiles in which a key is attended to, each with its mask unless all its keys are.
    fn tiles(&self) -> impl Iterator<Item = (Range<usize>, Option<&[bool]>)> {
        tiles(self.len, KEYS).filter_map(|tile| match self.seen.map(|seen| &seen[tile.clone()]) {
            None => Some((tile, None)),
            Some(seen) if seen.iter().all(|&seen| seen) => Some((tile, None)),
            Some(seen) if seen.iter().any(|&seen| seen) => Some((tile, Some(seen))),
            Some(_) => None,
        })
    }
}

/// What the backward pass knows of the queries of one head.
struct Queries<'a, T> {
    query: Matrix<'a, T>,
    out: Matrix<'a, T>,
    d_out: Matrix<'a, T>,
    logsumexp: &'a [T],
}

/// Output and logsumexp of some queries over all keys, by an online softmax: sums are kept relative to
/// the largest score so far, and shrunk when a larger one comes.
fn forward_tile<T: Real>(
    query: Matrix<'_, T>,
    keys: &KeysAndValues<'_, T>,
    scale: T,
    out: &mut [T],
    logsumexp: &mut [T],
) {
    let rows = logsumexp.len();
    let width = out.len() / rows;
    let mut scores = vec![T::ZERO; rows * KEYS.min(keys.len)];
    let mut max = [T::NEG_INFINITY; QUERIES];
    let mut sum = [T::ZERO; QUERIES];
    for (tile, seen) in keys.tiles() {
        let n = tile.len();
        let scores = &mut scores[..rows * n]; // [rows, n]
        let key = keys.key.part(tile.start, n);
        multiply(scores, Into::Replace, query, key.transposed(), scale);
        vectorised(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(n).enumerate() {
                    if let Some(seen) = seen {
                        hide(scores, seen, T::NEG_INFINITY);
                    }
                    let new = largest(scores);
                    let new = if max[row] > new { max[row] } else { new };
                    if new == T::NEG_INFINITY {
                        scores.fill(T::ZERO);
                        continue;
                    }
                    for score in scores.iter_mut() {
                        *score = (*score - new).exp();
                    }
                    if max[row] != new {
                        let shrink = (max[row] - new).exp();
                        sum[row] *= shrink;
                        for out in &mut out[row * width..][..width] {
                            *out *= shrink;
                        }
                        max[row] = new;
                    }
                    sum[row] += total(scores);
                }
            },
        );
        let value = keys.value.part(tile.start, n);
        multiply(out, Into::Add, Matrix::dense(scores, n), value, T::ONE);
    }
    for (row, logsumexp) in logsumexp.iter_mut().enumerate() {
        if max[row] == T::NEG_INFINITY {
            continue;
        }
        *logsumexp = max[row] + sum[row].ln();
        for out in &mut out[row * width..][..width] {
            *out = *out / sum[row];
        }
    }
}

/// Adds the gradients of one head to zeros.
fn backward_head<T: Real>(
    queries: &Queries<'_, T>,
    keys: &KeysAndValues<'_, T>,
    scale: T,
    width: usize,
    d_query: &mut [T],
    d_key: &mut [T],
    d_value: &mut [T],
) {
    let s = queries.logsumexp.len();
    let mut delta = vec![T::ZERO; s];
    vectorised(
        #[inline(always)]
        || {
            for (row, delta) in delta.iter_mut().enumerate() {
                *delta = dot(queries.out.row(row), queries.d_out.row(row));
            }
        },
    );
    let tile = QUERIES.min(s) * KEYS.min(keys.len);
    let (mut weights, mut d_scores) = (vec![T::ZERO; tile], vec![T::ZERO; tile]);
    for (tile, seen) in keys.tiles() {
        let n = tile.len();
        let key = keys.key.part(tile.start, n);
        let value = keys.value.part(tile.start, n);
        let of_keys = tile.start * width..tile.end * width;
        let (d_key, d_value) = (&mut d_key[of_keys.clone()], &mut d_value[of_keys]);
        for rows in tiles(s, QUERIES) {
            let (from, len) = (rows.start, rows.len());
            let query = queries.query.part(from, len);
            let d_out = queries.d_out.part(from, len);
            let weights = &mut weights[..len * n]; // [len, n]
            let d_scores = &mut d_scores[..len * n]; // [len, n]
            multiply(weights, Into::Replace, query, key.transposed(), scale);
            vectorised(
                #[inline(always)]
                || {
                    for (weights, &logsumexp) in
                        (weights.chunks_exact_mut(n)).zip(&queries.logsumexp[rows.clone()])
                    {
                        if logsumexp == T::NEG_INFINITY {
                            weights.fill(T::ZERO);
                            continue;
                        }
                        for weight in weights.iter_mut() {
                            *weight = (*weight - logsumexp).exp();
                        }
                        if let Some(seen) = seen {
                            hide(weights, seen, T::ZERO);
                        }
                    }
                },
            );
            let across = Matrix::dense(weights, n).transposed();
            multiply(d_value, Into::Add, across, d_out, T::ONE);
            multiply(d_scores, Into::Replace, d_out, value.transposed(), T::ONE);
            vectorised(
                #[inline(always)]
                || {
                    for ((d_scores, weights), &delta) in (d_scores.chunks_exact_mut(n))
                        .zip(weights.chunks_exact(n))
                        .zip(&delta[rows.clone()])
                    {
                        for (d_score, &weight) in d_scores.iter_mut().zip(weights) {
                            *d_score = weight * (*d_score - delta);
                        }
                    }
                },
            );
            let d_scores = Matrix::dense(d_scores, n);
            let d_query = &mut d_query[from * width..][..len * width];
            multiply(d_query, Into::Add, d_scores, key, scale);
            multiply(d_key, Into::Add, d_scores.transposed(), query, scale);
        }
    }
}

/// Puts `instead` where a key is not attended to.
#[inline(always)]
fn hide<T: Real>(row: &mut [T], seen: &[bool], instead: T) {
    for (element, &seen) in row.iter_mut().zip(seen) {
        if !seen {
            *element = instead;
        }
    }
}

fn truths(mask: Tensor<2, Bool>) -> Vec<bool> {
    mask.into_data().iter::<bool>().collect()
}

fn tiles(whole: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..whole)
        .step_by(len)
        .map(move |from| from..(from + len).min(whole))
}
