//! From tensors cut along any dimension to the flat buffers that transports move, and back.
//!
//! A transport concatenates and cuts flat buffers; a tensor is cut along `dim`. So a gather along
//! `dim` interleaves the parts' blocks, and a scatter takes them apart.

/// A tensor's shape seen from one dimension: `outer` blocks of `len` rows of `inner` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) outer: usize,
    pub(crate) len: usize,
    pub(crate) inner: usize,
}

impl View {
    pub(crate) fn new(shape: &[usize], dim: usize) -> Self {
        Self {
            outer: shape[..dim].iter().product(),
            len: shape[dim],
            inner: shape[dim + 1..].iter().product(),
        }
    }
}

/// Reorders a tensor so that the parts of these lengths along the viewed dimension follow each other.
pub(crate) fn apart<T: Copy>(data: &[T], view: View, lens: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    let mut start = 0;
    for len in lens {
        for block in 0..view.outer {
            let from = (block * view.len + start) * view.inner;
            out.extend_from_slice(&data[from..from + len * view.inner]);
        }
        start += len;
    }
    out
}

/// The inverse of [`apart`]; `view` is that of the whole tensor.
pub(crate) fn together<T: Copy>(parts: &[T], view: View, lens: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(parts.len());
    for block in 0..view.outer {
        let mut start = 0;
        for len in lens {
            let from = (start * view.outer + block * len) * view.inner;
            out.extend_from_slice(&parts[from..from + len * view.inner]);
            start += len;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_taken_apart_by_columns_and_put_together_again() {
        let view = View::new(&[2, 3, 2], 1);
        let whole: Vec<usize> = (0..12).collect();
        let parts = apart(&whole, view, &[2, 1]);
        assert_eq!(parts, [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11]);
        assert_eq!(together(&parts, view, &[2, 1]), whole);
    }

    #[test]
    fn empty_parts_are_allowed() {
        let view = View::new(&[2, 2], 1);
        let whole = [0, 1, 2, 3];
        let parts = apart(&whole, view, &[1, 0, 1]);
        assert_eq!(parts, [0, 2, 1, 3]);
        assert_eq!(together(&parts, view, &[1, 0, 1]), whole);
    }
}
