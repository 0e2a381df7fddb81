//! Boxes of a tensor: where they meet, how their elements lie in memory, whether they cover a whole.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A box of a tensor: `offset[d] .. offset[d] + extent[d]` in each dimension `d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Region {
    pub(crate) offset: Vec<usize>,
    pub(crate) extent: Vec<usize>,
}

impl Region {
    pub(crate) fn new(offset: &[usize], extent: &[usize]) -> Self {
        Self {
            offset: offset.to_vec(),
            extent: extent.to_vec(),
        }
    }

    pub(crate) fn whole(shape: &[usize]) -> Self {
        Self {
            offset: vec![0; shape.len()],
            extent: shape.to_vec(),
        }
    }

    /// Elements in the box; 1 for a tensor without dimensions.
    pub(crate) fn volume(&self) -> usize {
        volume(&self.extent)
    }

    /// Whether the box has the dimensions of `shape` and does not leave it.
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        self.offset.len() == shape.len()
            && self.extent.len() == shape.len()
            && (0..shape.len()).all(|d| {
                self.offset[d]
                    .checked_add(self.extent[d])
                    .is_some_and(|end| end <= shape[d])
            })
    }

    fn end(&self, d: usize) -> usize {
        self.offset[d] + self.extent[d]
    }

    /// The elements in both boxes, or `None` when there are none.
    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        let mut both = Self {
            offset: Vec::new(),
            extent: Vec::new(),
        };
        for d in 0..self.offset.len() {
            let begin = self.offset[d].max(other.offset[d]);
            let end = self.end(d).min(other.end(d));
            if begin >= end {
                return None;
            }
            both.offset.push(begin);
            both.extent.push(end - begin);
        }
        Some(both)
    }

    /// The row-major position of the element at `index` (of the whole tensor) within this box.
    fn position(&self, index: &[usize]) -> usize {
        (0..index.len()).fold(0, |at, d| at * self.extent[d] + index[d] - self.offset[d])
    }
}

/// As Rust writes ranges: `[0..4, 8..16]`.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self
            .offset
            .iter()
            .zip(&self.extent)
            .map(|(&begin, &n)| format!("{begin}..{}", begin.saturating_add(n)))
            .collect();
        write!(f, "[{}]", ranges.join(", "))
    }
}

/// The product of the lengths; saturates, so that a damaged manifest cannot overflow it.
pub(crate) fn volume(lengths: &[usize]) -> usize {
    lengths
        .iter()
        .fold(1, |product, &n| product.saturating_mul(n))
}

/// Calls `run(from, to, len)`, in elements, for each stretch of `part` that is contiguous both in
/// the row-major box `from` and in the row-major box `to`. The stretches ascend in both.
///
/// `part` lies inside both boxes and is not empty.
pub(crate) fn runs<E>(
    part: &Region,
    from: &Region,
    to: &Region,
    mut run: impl FnMut(usize, usize, usize) -> Result<(), E>,
) -> Result<(), E> {
    // Behind dimension `outer` the part is as wide as both boxes, so one stretch spans all of that.
    let full = |d: usize| part.extent[d] == from.extent[d] && part.extent[d] == to.extent[d];
    let dims = part.extent.len();
    let mut outer = dims.saturating_sub(1);
    while outer > 0 && full(outer) {
        outer -= 1;
    }
    let len = volume(&part.extent[outer..]);
    let mut index = part.offset.clone();
    loop {
        run(from.position(&index), to.position(&index), len)?;
        // The next index in row-major order over the dimensions before `outer`.
        let mut d = outer;
        loop {
            if d == 0 {
                return Ok(());
            }
            d -= 1;
            index[d] += 1;
            if index[d] < part.end(d) {
                break;
            }
            index[d] = part.offset[d];
        }
    }
}

/// Why some boxes are not a cover of a tensor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The two boxes share elements.
    Overlap(usize, usize),
    /// Only so many elements are in a box.
    Hole(usize),
}

/// What keeps boxes, each inside `shape`, from holding each element of it exactly once.
pub(crate) fn flaw(shape: &[usize], boxes: &[&Region]) -> Option<Flaw> {
    let mut order: Vec<usize> = (0..boxes.len())
        .filter(|&i| boxes[i].volume() > 0)
        .collect();
    // A sweep along the dimension with the most cuts compares each box with few others.
    let sweep = (0..shape.len()).max_by_key(|&d| {
        let mut begins: Vec<usize> = order.iter().map(|&i| boxes[i].offset[d]).collect();
        begins.sort_unstable();
        begins.dedup();
        begins.len()
    });
    if let Some(d) = sweep {
        order.sort_by_key(|&i| boxes[i].offset[d]);
    }
    for (at, &i) in order.iter().enumerate() {
        for &j in &order[at + 1..] {
            if sweep.is_some_and(|d| boxes[j].offset[d] >= boxes[i].end(d)) {
                break;
            }
            if boxes[i].intersect(boxes[j]).is_some() {
                return Some(Flaw::Overlap(i.min(j), i.max(j)));
            }
        }
    }
    let covered = order.iter().map(|&i| boxes[i].volume()).sum();
    (covered != volume(shape)).then_some(Flaw::Hole(covered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(ranges: &[(usize, usize)]) -> Region {
        let (offset, extent): (Vec<_>, Vec<_>) = ranges.iter().map(|&(a, b)| (a, b - a)).unzip();
        Region { offset, extent }
    }

    fn all_runs(part: &Region, from: &Region, to: &Region) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        runs(part, from, to, |a, b, n| {
            found.push((a, b, n));
            Ok::<(), ()>(())
        })
        .unwrap();
        found
    }

    #[test]
    fn whole_rows_are_one_run_and_columns_are_one_a_row() {
        let whole = region(&[(0, 4), (0, 6)]);
        let rows = region(&[(1, 3), (0, 6)]);
        assert_eq!(all_runs(&rows, &whole, &rows), [(6, 0, 12)]);
        let columns = region(&[(0, 4), (2, 4)]);
        assert_eq!(
            all_runs(&columns, &whole, &columns),
            [(2, 0, 2), (8, 2, 2), (14, 4, 2), (20, 6, 2)]
        );
    }

    #[test]
    fn a_scalar_is_one_run() {
        let scalar = region(&[]);
        assert_eq!(all_runs(&scalar, &scalar, &scalar), [(0, 0, 1)]);
    }

    #[test]
    fn covers_overlaps_and_holes_are_told_apart() {
        let left = region(&[(0, 4), (0, 3)]);
        let right = region(&[(0, 4), (3, 6)]);
        let wide = region(&[(0, 4), (2, 6)]);
        let empty = region(&[(4, 4), (0, 6)]);
        let shape = [4, 6];
        assert_eq!(flaw(&shape, &[&left, &empty, &right]), None);
        assert_eq!(flaw(&shape, &[&left, &wide]), Some(Flaw::Overlap(0, 1)));
        assert_eq!(flaw(&shape, &[&left]), Some(Flaw::Hole(12)));
        assert_eq!(flaw(&[], &[&region(&[])]), None);
        assert_eq!(flaw(&[], &[]), Some(Flaw::Hole(0)));
        assert_eq!(
            flaw(&[], &[&region(&[]), &region(&[])]),
            Some(Flaw::Overlap(0, 1))
        );
        assert_eq!(flaw(&[0, 3], &[&region(&[(0, 0), (0, 3)])]), None);
    }

    #[test]
    fn an_overlap_that_hides_a_hole_of_the_same_size_is_seen() {
        let boxes = [region(&[(0, 2)]), region(&[(1, 3)])];
        assert_eq!(
            flaw(&[4], &[&boxes[0], &boxes[1]]),
            Some(Flaw::Overlap(0, 1))
        );
    }

    #[test]
    fn a_box_outside_does_not_fit() {
        assert!(region(&[(1, 4)]).fits(&[4]));
        assert!(!region(&[(1, 5)]).fits(&[4]));
        assert!(!region(&[(1, 4)]).fits(&[4, 1]));
        assert!(
            !Region {
                offset: vec![usize::MAX],
                extent: vec![2]
            }
            .fits(&[4])
        );
    }
}
