//! Rows of a foreign tensor, put together from parameters of ours.

use std::ops::Range;

use super::layout::{Part, Place, Wanted, matrix};
use super::round::round;
use super::transpose::transpose;
use crate::region::volume;
use crate::{CkptError, Dtype, TensorSource};

/// The elements of `rows` of a tensor that its parameters fill, in another dtype.
///
/// # Errors
/// [`CkptError::Range`], and what reading the source ends in.
pub(super) fn rows(
    source: &dyn TensorSource,
    tensor: &Wanted,
    rows: Range<usize>,
    dtype: Dtype,
) -> Result<Vec<u8>, CkptError> {
    let [_, width] = matrix(&tensor.shape);
    let size = dtype.size();
    let mut out = vec![0; rows.len() * width * size];
    for part in &tensor.parts {
        let [first, column] = [part.region.offset[0], part.region.offset[1]];
        let [height, across] = [part.region.extent[0], part.region.extent[1]];
        let top = rows.start.max(first);
        let end = rows.end.min(first + height);
        if top >= end || across == 0 {
            continue;
        }
        let inside = top - first..end - first;
        let bytes = read(source, part, inside.clone())?;
        let bytes = round(bytes, source.dtype(&part.path)?, dtype).map_err(|value| {
            let name = part.path.clone();
            CkptError::Range { name, value, dtype }
        })?;
        let out = &mut out[(top - rows.start) * width * size..];
        match part.place {
            Place::Same => out[..bytes.len()].copy_from_slice(&bytes),
            Place::Columns => {
                let lines = bytes.chunks_exact(across * size);
                for (line, row) in lines.zip(out.chunks_exact_mut(width * size)) {
                    row[column * size..(column + across) * size].copy_from_slice(line);
                }
            }
            Place::Transposed => transpose(&bytes, across, out, (width, column), size),
        }
    }
    Ok(out)
}

/// The elements of some rows there of a parameter, as they lie here.
fn read(source: &dyn TensorSource, part: &Part, rows: Range<usize>) -> Result<Vec<u8>, CkptError> {
    let across = part.region.extent[1];
    if part.place == Place::Transposed {
        return source.read(&part.path, &[0, rows.start], &[across, rows.len()]);
    }
    // A stretch of elements, of which our rows may hold more or fewer than theirs.
    let Some(&count) = part.ours.first() else {
        return source.read_whole(&part.path);
    };
    let ours = volume(&part.ours) / count;
    let (begin, end) = (rows.start * across, rows.end * across);
    let (first, last) = (begin / ours, end.div_ceil(ours));
    let mut offset = vec![0; part.ours.len()];
    let mut extent = part.ours.clone();
    (offset[0], extent[0]) = (first, last - first);
    let mut bytes = source.read(&part.path, &offset, &extent)?;
    let size = source.dtype(&part.path)?.size();
    bytes.drain(..(begin - first * ours) * size);
    bytes.truncate((end - begin) * size);
    Ok(bytes)
}
