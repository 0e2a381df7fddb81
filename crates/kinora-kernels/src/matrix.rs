//! Matrices as strided views of slices, and their product.

use crate::real::Real;

/// A view of `rows x cols` elements.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    // The last element that the sizes and strides reach is inside: what `multiply` relies on.
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Real> Matrix<'a, T> {
    /// Rows that each are contiguous, one every `stride` elements.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn rows(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        let reach = if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1) * stride + cols
        };
        assert!(
            reach <= data.len(),
            "{rows} rows of {cols} elements, {stride} apart, in a slice of {}",
            data.len(),
        );
        Self {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// Rows one after the other.
    pub(crate) fn dense(data: &'a [T], cols: usize) -> Self {
        Self::rows(data, data.len() / cols, cols, cols)
    }

    /// Some of the rows.
    pub(crate) fn part(self, from: usize, rows: usize) -> Self {
        assert!(self.col_stride == 1 && from + rows <= self.rows);
        let start = (from * self.row_stride).min(self.data.len());
        Self::rows(&self.data[start..], rows, self.cols, self.row_stride)
    }

    /// One row.
    pub(crate) fn row(self, at: usize) -> &'a [T] {
        assert!(self.col_stride == 1 && at < self.rows);
        &self.data[at * self.row_stride..][..self.cols]
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// Whether a product replaces or is added to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Replace,
    Add,
}

/// `scale * a * b` into the dense rows `out`, on the calling thread.
///
/// # Panics
/// If the sizes do not fit.
#[expect(unsafe_code, reason = "the matrix product takes pointers")]
pub(crate) fn multiply<T: Real>(
    out: &mut [T],
    into: Into,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
) {
    assert!(
        a.cols == b.rows && out.len() == a.rows * b.cols,
        "{} x {} times {} x {} into {}",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        out.len(),
    );
    // SAFETY: `out` has rows x columns elements and is borrowed mutably, so it overlaps no input; the
    // views reach no further than their slices, as their constructors checked; every element of every
    // slice is initialised.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_views() {
        let a: Vec<f64> = (0..20).map(|x| x as f64).collect();
        let b: Vec<f64> = (0..20).map(|x| (x * x) as f64).collect();
        let a = Matrix::rows(&a[1..], 3, 2, 5); // [3, 2]
        let b = Matrix::rows(&b, 5, 4, 4).part(1, 3); // [3, 4]
        let mut out = vec![1.0; 8];
        multiply(&mut out, Into::Add, a.transposed(), b, 2.0);
        for i in 0..2 {
            for j in 0..4 {
                let sum: f64 = (0..3).map(|k| a.row(k)[i] * b.row(k)[j]).sum();
                assert_eq!(out[i * 4 + j], 1.0 + 2.0 * sum);
            }
        }
    }

    #[test]
    #[should_panic(expected = "in a slice of 9")]
    fn a_view_stays_in_its_slice() {
        Matrix::rows(&[0.0f32; 9], 3, 2, 4);
    }
}
