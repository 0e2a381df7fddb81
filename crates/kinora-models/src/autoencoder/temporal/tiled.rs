//! Long videos in tiles along time: memory is that of a tile, and of the result (Movie Gen, arXiv
//! 2410.13720, section 3.1.3).

use burn::tensor::{Tensor, TensorData};

/// Applies `run` to `x`, `[B, C, T, H, W]`, in tiles of `size` frames that share none.
pub(super) fn apart(x: &Tensor<5>, size: usize, run: impl Fn(Tensor<5>) -> Tensor<5>) -> Tensor<5> {
    let t = x.dims()[2];
    let tiles = (0..t).step_by(size).map(|start| {
        let len = size.min(t - start);
        run(x.clone().narrow(2, start, len))
    });
    joined(tiles.collect())
}

/// Applies `run` to `x`, `[B, C, t, h, w]`, in tiles of `size` frames of which each shares `overlap` with
/// the one before. Each frame becomes `step` frames; those of both tiles are mixed, linearly from all of
/// the one's to all of the other's.
pub(super) fn blended(
    x: &Tensor<5>,
    (size, overlap): (usize, usize),
    step: usize,
    run: impl Fn(Tensor<5>) -> Tensor<5>,
) -> Tensor<5> {
    let t = x.dims()[2];
    let mut done = vec![];
    // The end of the tile before, to be mixed with the beginning of the next.
    let mut waiting: Option<Tensor<5>> = None;
    let mut start = 0;
    loop {
        let len = size.min(t - start);
        let mut tile = run(x.clone().narrow(2, start, len));
        if let Some(before) = waiting.take() {
            let shared = before.dims()[2];
            let mixed = mix(before, tile.clone().narrow(2, 0, shared));
            done.push(mixed);
            let frames = tile.dims()[2];
            tile = tile.narrow(2, shared, frames - shared);
        }
        if start + len == t {
            done.push(tile);
            return joined(done);
        }
        let (frames, shared) = (tile.dims()[2], overlap * step);
        if frames > shared {
            done.push(tile.clone().narrow(2, 0, frames - shared));
        }
        if shared > 0 {
            waiting = Some(tile.narrow(2, frames - shared, shared));
        }
        start += size - overlap;
    }
}

/// Frame `i` of `n` is `(i + 1) / (n + 1)` of `new`, and the rest of `old`.
fn mix(old: Tensor<5>, new: Tensor<5>) -> Tensor<5> {
    let n = new.dims()[2];
    let share = |i: usize| (i + 1) as f64 / (n + 1) as f64;
    let ramp: Vec<f64> = (0..n).map(share).collect();
    let options = (&new.device(), new.dtype());
    let ramp = Tensor::<5>::from_data(TensorData::new(ramp, [1, 1, n, 1, 1]), options);
    old.clone() + (new - old) * ramp
}

fn joined(mut parts: Vec<Tensor<5>>) -> Tensor<5> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 2),
    }
}
