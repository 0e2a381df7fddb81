//! Who holds which part of a tensor.

use crate::{Extent, Mesh, MeshAxis, Plan};
use std::ops::Range;

/// Part `index` of `parts` of `0..len`, as even as can be: the first parts are one longer.
pub fn part(len: usize, parts: usize, index: usize) -> Range<usize> {
    let (each, extra) = (len / parts, len % parts);
    let start = index * each + index.min(extra);
    start..start + each + usize::from(index < extra)
}

/// The lengths of all parts of `0..len`.
pub fn parts(len: usize, parts: usize) -> Vec<usize> {
    (0..parts)
        .map(|index| part(len, parts, index).len())
        .collect()
}

/// The part of `0..len` that cuts one inside the other leave, each given as (parts, index), outermost
/// first. Parts of parts differ by one at most, and every cut alone is as even as can be.
pub fn nested(len: usize, cuts: impl IntoIterator<Item = (usize, usize)>) -> Range<usize> {
    cuts.into_iter().fold(0..len, |range, (parts, index)| {
        let inner = part(range.len(), parts, index);
        range.start + inner.start..range.start + inner.end
    })
}

/// One rank's box of a tensor that a plan cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The shape of the whole tensor.
    pub shape: Vec<usize>,
    /// What this rank holds, a range for each dimension.
    pub ranges: Vec<Range<usize>>,
    /// The mesh axes that cut each dimension; empty where it is whole.
    pub axes: Vec<Vec<MeshAxis>>,
}

impl Layout {
    /// The box of `rank` of a tensor with these dimensions.
    pub fn new(dims: &[Extent], plan: &Plan, mesh: &Mesh, rank: usize) -> Self {
        let axes: Vec<Vec<MeshAxis>> = dims.iter().map(|dim| plan.cuts(dim.axis, mesh)).collect();
        let ranges = dims
            .iter()
            .zip(&axes)
            .map(|(dim, axes)| {
                let units = part(dim.len / dim.unit, mesh.span(axes), mesh.index(rank, axes));
                units.start * dim.unit..units.end * dim.unit
            })
            .collect();
        Self {
            shape: dims.iter().map(|dim| dim.len).collect(),
            ranges,
            axes,
        }
    }

    /// What `rank` stores of this box where stored parameters are cut over `axes`, and along which
    /// dimension: the first that leaves no rank of the mesh without a part. `None` for what is too small
    /// in every dimension, which stays whole. The choice is the same on every rank, however uneven the
    /// boxes are: ranks that store alike make the same calls.
    pub fn stored(&self, axes: &[MeshAxis], mesh: &Mesh, rank: usize) -> Option<(usize, Self)> {
        let parts = mesh.span(axes);
        let smallest = |dim: usize| self.shape[dim] / mesh.span(&self.axes[dim]);
        let dim = (0..self.shape.len()).find(|&dim| smallest(dim) >= parts)?;
        let mut stored = self.clone();
        let range = &self.ranges[dim];
        let mine = part(range.len(), parts, mesh.index(rank, axes));
        stored.ranges[dim] = range.start + mine.start..range.start + mine.end;
        stored.axes[dim].extend(axes);
        stored.axes[dim].sort_unstable();
        Some((dim, stored))
    }

    /// The shape of this rank's part.
    pub fn local_shape(&self) -> Vec<usize> {
        self.ranges.iter().map(Range::len).collect()
    }

    /// Where this rank's part starts in the whole, a coordinate for each dimension.
    pub fn offset(&self) -> Vec<usize> {
        self.ranges.iter().map(|range| range.start).collect()
    }

    /// The mesh axes that cut any dimension, outermost first.
    pub fn cut_axes(&self) -> Vec<MeshAxis> {
        MeshAxis::ALL
            .into_iter()
            .filter(|axis| self.axes.iter().any(|axes| axes.contains(axis)))
            .collect()
    }

    /// Calls `visit` with each contiguous run of this rank's part: its first flat index in the whole
    /// tensor, and its length, in row-major order.
    pub fn runs(&self, mut visit: impl FnMut(usize, usize)) {
        let dims = self.shape.len();
        if self.ranges.iter().any(|range| range.is_empty()) {
            return;
        }
        // Trailing dimensions that are whole belong to one run.
        let mut inner = dims;
        while inner > 0 && self.ranges[inner - 1].len() == self.shape[inner - 1] {
            inner -= 1;
        }
        let split = inner.saturating_sub(1);
        let stride: usize = self.shape[(split + 1).min(dims)..].iter().product();
        let (start, len) = match self.ranges.get(split) {
            Some(range) => (range.start * stride, range.len() * stride),
            None => (0, 1),
        };
        let mut at: Vec<usize> = self.ranges[..split]
            .iter()
            .map(|range| range.start)
            .collect();
        loop {
            let outer = at
                .iter()
                .zip(&self.shape)
                .fold(0, |flat, (i, n)| flat * n + i);
            let block: usize = self.shape[split.min(dims)..].iter().product();
            visit(outer * block + start, len);
            let Some(dim) = (0..split)
                .rev()
                .find(|&dim| at[dim] + 1 < self.ranges[dim].end)
            else {
                return;
            };
            at[dim] += 1;
            for (later, range) in at.iter_mut().zip(&self.ranges).skip(dim + 1) {
                *later = range.start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_cover_the_whole() {
        for len in 0..20 {
            for n in 1..7 {
                let ranges: Vec<_> = (0..n).map(|i| part(len, n, i)).collect();
                assert_eq!(ranges[0].start, 0);
                assert_eq!(ranges[n - 1].end, len);
                assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
                let lens = parts(len, n);
                assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn runs_visit_exactly_the_elements_of_the_box() {
        let shape = vec![3, 4, 5];
        for a in 0..3 {
            for b in 0..4 {
                for c in 0..5 {
                    let layout = Layout {
                        shape: shape.clone(),
                        ranges: vec![a..3, 0..b + 1, c / 2..c + 1],
                        axes: vec![vec![]; 3],
                    };
                    let mut want = vec![];
                    for i in layout.ranges[0].clone() {
                        for j in layout.ranges[1].clone() {
                            for k in layout.ranges[2].clone() {
                                want.push((i * 4 + j) * 5 + k);
                            }
                        }
                    }
                    let mut got = vec![];
                    layout.runs(|start, len| got.extend(start..start + len));
                    assert_eq!(got, want, "{layout:?}");
                }
            }
        }
        let scalar = Layout {
            shape: vec![],
            ranges: vec![],
            axes: vec![],
        };
        let mut got = vec![];
        scalar.runs(|start, len| got.push((start, len)));
        assert_eq!(got, [(0, 1)]);
    }
}
